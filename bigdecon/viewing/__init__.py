"""Show images in viewers that run in a browser: a file server, and what neuroglancer is told."""
