"""The mathematics of backpropagation: NumPy and the standard library, nothing else.

Start with :mod:`engine.network`; every line there maps to an equation of the derivation.
"""
