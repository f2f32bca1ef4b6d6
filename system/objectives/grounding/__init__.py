"""Referring expressions: boxes on a frozen grounder."""
