"""GLIP: its sizes, its networks, its files."""
