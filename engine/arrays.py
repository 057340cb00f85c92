"""The array type of the engine, and its norm.

Shapes in all modules: E... are leading ensemble axes (none for a single network), n the units of a layer, m the units
of the layer below, B the examples, P the parameters. Columns are examples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
PerMember = float | Array  # a hyperparameter: one number, or one per member of the ensemble [E...]


def per_member(value: PerMember, dtype: np.dtype[Any]) -> PerMember:
    """Return a hyperparameter in a shape that broadcasts against flat vectors [E..., P] of this dtype.

    An array [E...] is cast first, so that each member has the same number as the same network alone.
    """
    return value.astype(dtype)[..., None] if isinstance(value, np.ndarray) else value


def store(result: Array, out: Array) -> Array:
    """Copy ``result`` to ``out``, unless the function that computed it wrote to ``out`` already; return ``out``."""
    if result is not out:
        out[...] = result
    return out


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def norm(x: Array, axes: int = 2) -> Array:
    """Compute the Euclidean norm over the last axes without overflow or underflow.

        ‖x‖ = √Σ x², or p·√Σ (x/p)² with p = max|x| for members whose plain squares leave the type

    The value of a member does not depend on the other members.
    Source of the scaling: J. L. Blue, "A Portable Fortran Program to Find the Euclidean Norm of a Vector", 1978.

    Args:
        x: Real array [E..., k_1, ..., k_axes].
        axes: Number of trailing axes to reduce.

    Returns:
        float64 array [E...]; ∞ or NaN where x contains them, 0 only where every entry is 0.
    """
    flat = np.ascontiguousarray(x.reshape(*x.shape[: x.ndim - axes], -1))
    squares = np.asarray(np.vecdot(flat, flat))
    smallest, largest = _EXACT_SQUARES[flat.dtype.char]
    result = np.asarray(np.sqrt(squares, dtype=np.float64))
    if not all(smallest <= square <= largest for square in squares.ravel().tolist()):
        exact = (squares >= smallest) & (squares <= largest)
        result[~exact] = _scaled_norm(flat[~exact].astype(np.float64))
    return result


# Range of the sums of squares that are exact, by type. Below it, an underflown square could change the last digits.
_EXACT_SQUARES = {
    info.dtype.char: (float(info.tiny) / float(info.eps) ** 2, float(info.max))
    for info in (np.finfo(np.float32), np.finfo(np.float64))
}


def _scaled_norm(rows: Array) -> Array:
    peak = np.abs(rows).max(axis=-1, initial=0)
    scale = np.where((peak > 0) & np.isfinite(peak), peak, 1.0)[:, None]
    scaled = rows / scale
    return np.where(np.isfinite(peak), peak * np.sqrt(np.vecdot(scaled, scaled)), peak)
