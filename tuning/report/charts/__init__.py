"""Charts of a sweep's page."""
