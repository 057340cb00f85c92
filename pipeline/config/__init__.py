"""From Hydra's config groups to plain data, and from plain data to typed objects."""
