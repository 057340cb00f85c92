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


def exponent_counts(x: Array) -> tuple[tuple[int, ...], Array]:
    """Counts by exponent over the last axis of x [..., n], float32 or float64.

    Returns:
        the bins that occur, ascending, and int64 counts [..., K].
    """
    integer, mantissa, bias = _FIELDS[x.dtype.char]
    top = 2 * bias + 1
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    bits = rows.view(integer)
    field = ((bits >> integer(mantissa)) & integer(top)).astype(np.int64)
    fraction = bits & integer((1 << mantissa) - 1)
    zero, nan, width = top + 1, top + 2, top + 3  # places beside the exponent field; 0 is subnormal, top infinite
    np.copyto(field, zero, where=(field == 0) & (fraction == 0))
    np.copyto(field, nan, where=(field == top) & (fraction != 0))
    field += width * np.arange(len(rows))[:, None]
    counts = np.bincount(field.ravel(), minlength=width * len(rows)).reshape(len(rows), width)
    names = np.arange(width) - bias
    names[[0, top, zero, nan]] = SUBNORMAL, INFINITE, ZERO, NAN
    order: Array = np.argsort(names)
    order = order[np.flatnonzero(counts.sum(axis=0)[order])]
    return tuple(names[order].tolist()), counts[:, order].reshape(*x.shape[:-1], len(order))


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
