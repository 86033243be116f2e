"""Rounds over a federated engine: records, client app, server app, baselines."""
