"""Sweeps: many runs as trials of Ray Tune, compared in tables and on a page."""
