"""HTML pages of runs and models."""
