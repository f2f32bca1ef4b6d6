"""Referring expressions on a grounder."""
