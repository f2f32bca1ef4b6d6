"""One file a published format: a module assigns `DATASET`."""
