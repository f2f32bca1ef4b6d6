"""Arithmetic of dense one-stage detection: anchors, assignment, losses, selection of boxes."""
