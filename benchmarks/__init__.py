"""Benchmarks: each measures both sides of its comparisons in one run."""
