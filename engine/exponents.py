"""Exact histograms by floating-point exponent over the full range of a type.

A finite x ≠ 0 with 2^e <= |x| < 2^(e+1) is counted in bin e. Zeros, subnormal numbers, infinities and NaNs have their
own bins. Histograms of steps, replicates and runs merge by addition of the counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.arrays import Array

ZERO, SUBNORMAL, INFINITE, NAN = -10_000, -9_999, 10_000, 10_001  # outside any exponent

_FIELDS = {  # type -> (integer type, bits of the mantissa, exponent bias)
    "f": (np.uint32, 23, 127),
    "d": (np.uint64, 52, 1023),
}


def exponent_counts(x: Array, group: Array | None = None, groups: int = 1) -> tuple[tuple[int, ...], Array]:
    """Count the entries of an array by exponent.

    Args:
        x: float32 or float64 array of any shape.
        group: Group 0 ... groups − 1 of each entry, broadcast to the shape of x; by default all in the first.
        groups: Number of groups.

    Returns:
        The K bins that occur, ascending, and int64 counts [groups, K].
    """
    integer, mantissa, bias = _FIELDS[x.dtype.char]
    top = 2 * bias + 1
    zero, nan, width = top + 1, top + 2, top + 3  # exponent field 0 is subnormal, top is infinite
    bits = np.ascontiguousarray(x).view(integer)
    field = ((bits >> integer(mantissa)) & integer(top)).astype(np.int64)
    np.copyto(field, zero, where=x == 0)
    np.copyto(field, nan, where=x != x)
    if group is not None:
        field += width * group
    counts = np.bincount(field.ravel(), minlength=width * groups).reshape(groups, width)
    bins = np.arange(width) - bias
    bins[[0, top, zero, nan]] = SUBNORMAL, INFINITE, ZERO, NAN
    order: Array = np.argsort(bins)
    order = order[np.flatnonzero(counts.sum(axis=0)[order])]
    return tuple(bins[order].tolist()), counts[:, order]


def merge(*histograms: Mapping[int, int]) -> dict[int, int]:
    """Return the sum of histograms as bin -> count, bins ascending."""
    merged: dict[int, int] = {}
    for histogram in histograms:
        for exponent, count in histogram.items():
            merged[exponent] = merged.get(exponent, 0) + count
    return dict(sorted(merged.items()))


def label(exponent: int) -> str:
    """Return the display name of a bin."""
    names = {ZERO: "zero", SUBNORMAL: "subnormal", INFINITE: "infinite", NAN: "NaN"}
    return names.get(exponent, f"2^{exponent}")
