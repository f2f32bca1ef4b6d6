"""The loops that Ray Train workers run."""
