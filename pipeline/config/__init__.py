"""Compose plain data from Hydra's config groups, and build typed objects from plain data."""
