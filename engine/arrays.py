"""The array types the engine speaks of, and the one norm it trusts.

Shapes, everywhere: ``E...`` are leading ensemble axes (none for a single network), ``n`` units, ``m`` units of the
layer below, ``B`` examples, ``P`` parameters. Columns are examples.
"""

from __future__ import annotations

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
    flat = x.reshape(*x.shape[: x.ndim - axes], -1)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        square: Array = np.asarray(np.vecdot(flat, flat), dtype=np.float64)
        result: Array = np.asarray(np.sqrt(square))  # an array even without ensemble axes
        info = np.finfo(x.dtype)
        smallest = float(info.tiny) / float(info.eps) ** 2  # below this, lost squares could show
        unsafe = ~((square >= smallest) & (square <= np.finfo(np.float64).max))
        if unsafe.any():
            result[unsafe] = _scaled_norm(flat[unsafe])
    return result


def _scaled_norm(rows: Array) -> Array:
    """‖row‖ of every row [k, n], by scaling with its largest entry."""
    rows = rows.astype(np.float64)
    peak: Array = np.abs(rows).max(axis=-1)
    divisor = np.where((peak > 0) & np.isfinite(peak), peak, 1.0)[:, None]
    rows = rows / divisor
    return np.where(np.isfinite(peak), peak * np.sqrt(np.vecdot(rows, rows)), peak)
