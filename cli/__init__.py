"""The bigdecon command line: thin click commands over the library."""
