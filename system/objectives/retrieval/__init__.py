"""Retrieval: images and captions in one space, recall both ways."""
