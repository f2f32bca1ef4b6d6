"""Recall, routing, the accuracy matrix, and what is drawn from it."""
