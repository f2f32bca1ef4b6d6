"""Sweeps over whole streams: search spaces, trials on Ray Tune, their comparison."""
