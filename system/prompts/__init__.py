"""Methods: what is trained, one file each."""
