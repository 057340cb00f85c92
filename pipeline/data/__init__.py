"""Data: one small loader a source; ``conf/data`` is the registry."""
