"""Input and output: OME-Zarr and TIFF, provenance."""
