"""How workers train: the worker group, epochs, checkpoints, optimisers, logs."""
