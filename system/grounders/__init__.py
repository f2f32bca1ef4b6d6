"""Frozen models that find boxes for an expression, and how prompts enter them."""
