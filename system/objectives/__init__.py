"""Objectives of a stream: one per folder, whose module `objective` assigns `OBJECTIVE`."""
