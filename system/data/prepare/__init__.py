"""The pipeline that checks a data set's files and writes task shards."""
