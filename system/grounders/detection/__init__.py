"""Anchors, assignment, losses and selection of boxes."""
