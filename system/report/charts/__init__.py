"""Charts of a run's page."""
