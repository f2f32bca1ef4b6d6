"""From published data sets to task shards, and from task shards to batches."""
