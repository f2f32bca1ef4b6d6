"""Metrics: recall, boxes, the accuracy matrix over tasks, the replay audit."""
