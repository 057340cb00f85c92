"""The array types the engine speaks of, and the one norm it trusts.

Shapes, everywhere: ``E...`` are leading ensemble axes (none for a single network), ``n`` units, ``m`` units of the
layer below, ``B`` examples, ``P`` parameters. Columns are examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def norm(x: Array, axes: int = 2) -> Array:
    """Euclidean norm over the last axes, safe at any magnitude.

    ‖x‖ = √Σ x², computed as p·√Σ (x/p)² with p = max|x| wherever the plain squares would underflow or overflow.

    Args:
        x: array [E..., k_1, ..., k_axes], real.
        axes: how many trailing axes the norm runs over.

    Returns:
        float64 array [E...]; ∞ or NaN where x holds them, 0 only where every entry is 0.

    The value of one member never depends on the others, so a stack measures what its members would alone.
    Source: J. L. Blue, "A Portable Fortran Program to Find the Euclidean Norm of a Vector", 1978 (the scaling).
    """
    return np.asarray(norms([x], axes)[0])


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def norms(arrays: Sequence[Array], axes: int = 2) -> Array:
    """:func:`norm` of several arrays of one type and ensemble shape, float64 [k, E...]: the checks are made once."""
    flats = [x.reshape(*x.shape[: x.ndim - axes], -1) for x in arrays]
    squares = np.empty((len(flats), *flats[0].shape[:-1]), flats[0].dtype)
    for i, flat in enumerate(flats):
        np.vecdot(flat, flat, out=squares[i, ...])
    return root(squares, flats[0].dtype, lambda i: flats[i])


def root(squares: Array, dtype: np.dtype[Any], summed: Callable[[int], Array]) -> Array:
    """√squares, float64 [k, E...], where the i-th square is Σ x² over the last axis of ``summed(i)`` [E..., n_i].

    Where a square of x of this dtype is out of bounds, that norm is taken anew, with scaling.
    """
    smallest, largest = _BOUNDS[dtype.char]
    result: Array = np.sqrt(squares.astype(np.float64, copy=False))
    safe = (squares >= smallest) & (squares <= largest)
    if np.count_nonzero(safe) < safe.size:
        for i in range(len(safe)):
            unsafe = ~safe[i]
            if unsafe.any():
                result[i, unsafe] = _scaled_norm(summed(i)[unsafe])
    return result


# By type, the sums of squares that can be trusted: below the lower bound, squares lost to underflow could show.
_BOUNDS = {
    info.dtype.char: (float(info.tiny) / float(info.eps) ** 2, float(info.max))
    for info in (np.finfo(np.float32), np.finfo(np.float64))
}


def _scaled_norm(rows: Array) -> Array:
    """‖row‖ of every row [k, n], by scaling with its largest entry."""
    rows = rows.astype(np.float64)
    peak: Array = np.abs(rows).max(axis=-1)
    divisor = np.where((peak > 0) & np.isfinite(peak), peak, 1.0)[:, None]
    rows = rows / divisor
    return np.where(np.isfinite(peak), peak * np.sqrt(np.vecdot(rows, rows)), peak)
