"""Retrieval on a dual encoder."""
