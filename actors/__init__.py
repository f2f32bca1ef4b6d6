"""Ray actors: the task stream."""
