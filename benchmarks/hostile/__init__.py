"""Hostile files for `benchmarks.fuzz`: how each kind is made, read and held against what it really says."""
