"""Generator to compiled engine: export, compile, prove equal, cache by key."""
