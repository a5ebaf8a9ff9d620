"""Storage: where results lie, a local folder or an object store, and small objects whole or absent."""
