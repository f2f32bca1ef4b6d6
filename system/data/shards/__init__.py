"""Task shards: their schema and manifest, and how workers read and decode them."""
