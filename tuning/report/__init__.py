"""Results of a sweep: trials.parquet, the comparison of trial configs, and the page."""
