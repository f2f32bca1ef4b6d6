"""Sweeps: many runs as trials of Ray Tune."""
