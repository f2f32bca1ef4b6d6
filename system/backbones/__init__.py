"""Frozen vision-language models and where a prompt enters them."""
