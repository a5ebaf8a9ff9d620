"""Deconvolution: the block engine and the methods that run on it."""
