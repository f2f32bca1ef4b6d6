"""The task stream's state machine, changed by journal records alone."""
