"""The worker's loop over a stream of tasks, and what it has learned so far."""
