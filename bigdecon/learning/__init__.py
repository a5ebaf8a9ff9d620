"""Learning: the network, its losses, patches, and training (no dask, zarr or click)."""
