"""Distributed: the Dask cluster, regions in flight, and progress."""
