"""From published files to task shards, and from task shards to batches."""
