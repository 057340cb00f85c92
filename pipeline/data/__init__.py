"""Data sources and batching. ``conf/data`` is the registry of sources."""
