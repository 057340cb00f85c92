"""Fingerprints, hash chains, replay, differences, export and import."""
