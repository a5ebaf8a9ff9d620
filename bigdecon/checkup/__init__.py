"""Whether bigdecon works on this machine: what `bigdecon doctor` looks at."""
