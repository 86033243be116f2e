"""The synthetic data set's format: description, shards, checksums, index."""
