"""Ordered, critical and chaotic tanh nets: theory and measurement on one picture."""
