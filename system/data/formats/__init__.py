"""Readers of the annotation files that published formats consist of."""
