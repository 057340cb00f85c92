"""The figures of runs and sweeps."""
