"""Charts of a sweep's page, one file per chart."""
