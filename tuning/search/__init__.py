"""The search: space, config and plan of a sweep, proposals, population based training."""
