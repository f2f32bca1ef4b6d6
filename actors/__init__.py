"""The task stream as a Ray actor, and what starts and watches Ray Train."""
