"""The small GLIP-like grounder: its sizes, its networks, its files."""
