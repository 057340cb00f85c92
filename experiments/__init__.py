"""Experiments: what is claimed, the sweep, the analysis, the figure."""
