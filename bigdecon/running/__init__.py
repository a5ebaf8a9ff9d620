"""Running: what a run is going to do, how it walks the volume, and what is found on disk afterwards."""
