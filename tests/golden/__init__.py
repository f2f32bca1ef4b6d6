"""Fixtures of numbers recorded from the published code, and the runner that compares with them."""
