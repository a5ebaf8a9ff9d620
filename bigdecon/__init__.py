"""Self-supervised deconvolution of fluorescence volumes of any size."""
