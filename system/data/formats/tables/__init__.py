"""Tables of any kind, read row by row in flat memory: delimited text, JSON, Parquet."""
