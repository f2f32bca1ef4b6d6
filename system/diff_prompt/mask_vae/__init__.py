"""Stage 1: the Mask-VAE, its training and its files."""
