"""Diagnosis: what may be wrong with an image, a PSF or a result, in plain sentences."""
