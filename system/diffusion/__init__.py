"""Diff-Prompt's generator: the Mask-VAE, the Mask-DiT, noise, sampling and the prompt adapters."""
