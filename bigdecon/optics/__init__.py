"""Optics: point spread functions, blurring, and simulated specimens (no dask, zarr or click)."""
