"""The array type of the engine, and its norm.

Shapes, in all modules: ``E...`` are leading ensemble axes (none for a single network), ``n`` units, ``m`` units of the
layer below, ``B`` examples, ``P`` parameters. Columns are examples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
PerMember = float | Array  # a hyperparameter: one number, or one per member of the ensemble [E...]


def per_member(value: PerMember, dtype: np.dtype[Any]) -> PerMember:
    """Make a hyperparameter broadcast against flat vectors [E..., P] of this dtype.

    An array [E...] is cast first, so that a member gets the number that the same network alone gets.
    """
    return value.astype(dtype)[..., None] if isinstance(value, np.ndarray) else value


def stored(result: Array, out: Array) -> Array:
    """Return ``out`` with the values of ``result``, also where a user's function ignored its argument ``out``."""
    if result is not out:
        out[...] = result
    return out


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def norm(x: Array, axes: int = 2) -> Array:
    """Compute the Euclidean norm over the last axes without overflow or underflow.

    ‖x‖ = √Σ x², or p·√Σ (x/p)² with p = max|x| for the members whose plain squares leave the type.

    Args:
        x: array [E..., k_1, ..., k_axes], real.
        axes: number of trailing axes to reduce.

    Returns:
        float64 array [E...]; ∞ or NaN where x holds them, 0 only where every entry is 0.

    The value of a member does not depend on the other members.
    Source: J. L. Blue, "A Portable Fortran Program to Find the Euclidean Norm of a Vector", 1978 (the scaling).
    """
    flat = np.ascontiguousarray(x.reshape(*x.shape[: x.ndim - axes], -1))
    squares = np.asarray(np.vecdot(flat, flat))
    smallest, largest = _EXACT_SQUARES[flat.dtype.char]
    result = np.asarray(np.sqrt(squares, dtype=np.float64))
    if not all(smallest <= square <= largest for square in squares.ravel().tolist()):
        exact = (squares >= smallest) & (squares <= largest)
        result[~exact] = _scaled_norm(flat[~exact].astype(np.float64))
    return result


# By type, the sums of squares that can be trusted: below, a square lost to underflow could change the last digits.
_EXACT_SQUARES = {
    info.dtype.char: (float(info.tiny) / float(info.eps) ** 2, float(info.max))
    for info in (np.finfo(np.float32), np.finfo(np.float64))
}


def _scaled_norm(rows: Array) -> Array:
    """‖row‖ of every row of a float64 array [k, n]."""
    peak = np.abs(rows).max(axis=-1, initial=0)
    scale = np.where((peak > 0) & np.isfinite(peak), peak, 1.0)[:, None]
    scaled = rows / scale
    return np.where(np.isfinite(peak), peak * np.sqrt(np.vecdot(scaled, scaled)), peak)
