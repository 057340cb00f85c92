"""Is the verdict right? Small networks with planted faults, and what the verdict says of them."""
