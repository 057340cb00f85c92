"""Export runs and sweeps as plain folders, verify such folders, and import them into another store."""

from pipeline.reproducibility.exchange.checking import verify

__all__ = ["verify"]
