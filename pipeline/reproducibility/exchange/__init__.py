"""Runs and sweeps as plain folders: written, verified and read back without the store they come from."""

from pipeline.reproducibility.exchange.checking import verify

__all__ = ["verify"]
