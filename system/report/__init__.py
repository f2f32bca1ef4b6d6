"""Pages, charts and terminal output: reads results, never trains."""
