"""Backpropagation with NumPy and the standard library only.

Start with :mod:`engine.network`: each of its lines corresponds to an equation of the derivation.
"""
