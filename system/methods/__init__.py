"""Methods, which are what is trained: one file each, which assigns `METHOD`."""
