"""Histograms by floating-point exponent: the full range of a type, exact, and mergeable over anything.

A finite x ≠ 0 with 2^e <= |x| < 2^(e+1) is counted in bin e. Zeros, subnormal numbers, infinities and NaNs have bins of
their own. Counts add up, so histograms of steps, replicates and runs merge by adding.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.arrays import Array

ZERO, SUBNORMAL, INFINITE, NAN = -10_000, -9_999, 10_000, 10_001  # outside any exponent

_FIELDS = {  # type -> (as integers, bits of the mantissa, exponent bias)
    "f": (np.uint32, 23, 127),
    "d": (np.uint64, 52, 1023),
}


def exponent_counts(x: Array, group: Array | None = None, groups: int = 1) -> tuple[tuple[int, ...], Array]:
    """Counts by exponent of x, float32 or float64, of any shape.

    Args:
        group: to which group each entry belongs, 0 ... groups − 1, of a shape that broadcasts to that of x; all to the
            first by default.
        groups: how many there are.

    Returns:
        the bins that occur, ascending, and int64 counts [groups, K].
    """
    integer, mantissa, bias = _FIELDS[x.dtype.char]
    top = 2 * bias + 1
    zero, nan, width = top + 1, top + 2, top + 3  # places beside the exponent field; 0 is subnormal, top infinite
    bits = np.ascontiguousarray(x).view(integer)
    field = ((bits >> integer(mantissa)) & integer(top)).astype(np.int64)
    np.copyto(field, zero, where=x == 0)
    np.copyto(field, nan, where=x != x)
    if group is not None:
        field += width * group
    counts = np.bincount(field.ravel(), minlength=width * groups).reshape(groups, width)
    names = np.arange(width) - bias
    names[[0, top, zero, nan]] = SUBNORMAL, INFINITE, ZERO, NAN
    order: Array = np.argsort(names)
    order = order[np.flatnonzero(counts.sum(axis=0)[order])]
    return tuple(names[order].tolist()), counts[:, order]


def merge(*histograms: Mapping[int, int]) -> dict[int, int]:
    """Bin -> count of all of them together, bins ascending."""
    found: dict[int, int] = {}
    for histogram in histograms:
        for exponent, count in histogram.items():
            found[exponent] = found.get(exponent, 0) + count
    return dict(sorted(found.items()))


def label(exponent: int) -> str:
    """The bin in words."""
    names = {ZERO: "zero", SUBNORMAL: "subnormal", INFINITE: "infinite", NAN: "NaN"}
    return names.get(exponent, f"2^{exponent}")
