"""The array types the engine speaks of, and the one norm it trusts.

Shapes, everywhere: ``E...`` are leading ensemble axes (none for a single network), ``n`` units, ``m`` units of the
layer below, ``B`` examples, ``P`` parameters. Columns are examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FEW = 16  # numbers: below, a loop in Python beats NumPy's calls


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


class Segments:
    """Consecutive stretches of a flat vector [..., P], each with a norm of its own.

    Long stretches are summed one by one; short ones that follow one another together, for calls cost more than they do.
    A stretch's sum does not depend on what lies beside it.

    Args:
        lengths: entries of each stretch; the first begins at 0.
    """

    LONG = 4096

    def __init__(self, lengths: Sequence[int]) -> None:
        ends = np.cumsum(lengths).tolist()
        self.slices = [slice(end - n, end) for end, n in zip(ends, lengths, strict=True)]
        self._runs: list[tuple[slice, slice, Array | None]] = []  # which stretches, which entries, where they start
        first = 0
        while first < len(lengths):
            last = first + 1
            if lengths[first] < self.LONG:
                while last < len(lengths) and lengths[last] < self.LONG:
                    last += 1
            begin, end = self.slices[first].start, self.slices[last - 1].stop
            short = lengths[first] < self.LONG
            starts = np.array([s.start - begin for s in self.slices[first:last]]) if short else None
            self._runs.append((slice(first, last), slice(begin, end), starts))
            first = last

    def is_long(self, i: int) -> bool:
        """Whether the i-th stretch is summed by itself, by ``vecdot``."""
        return self.slices[i].stop - self.slices[i].start >= self.LONG

    def dots(self, x: Array, y: Array, known: Mapping[int, Array] | None = None) -> Array:
        """Σ x y over each stretch: [..., P], [..., P] -> [k, ...], in their type.

        Args:
            known: of long stretches, by number, the sum [...] where it has been taken already.
        """
        _, entries, starts = self._runs[0]
        if len(self._runs) == 1 and starts is not None:
            sums = np.add.reduceat(x[..., entries] * y[..., entries], starts, axis=-1)
            return sums if sums.ndim == 1 else sums.transpose(-1, *range(x.ndim - 1))
        sums = np.empty((*x.shape[:-1], len(self.slices)), x.dtype)
        for which, entries, starts in self._runs:
            if known and which.start in known and starts is None:
                sums[..., which.start] = known[which.start]
                continue
            u, v = x[..., entries], y[..., entries]
            if starts is None:
                np.vecdot(u, v, out=sums[..., which.start])
            else:
                np.add.reduceat(u * v, starts, axis=-1, out=sums[..., which])
        return sums if sums.ndim == 1 else sums.transpose(-1, *range(x.ndim - 1))

    def norms(self, x: Array, known: Mapping[int, Array] | None = None) -> Array:
        """The Euclidean norm of each stretch of x [..., P], safe at any magnitude: float64 [k, ...].

        To be called under ``np.errstate(all="ignore")``.

        Args:
            known: of long stretches, by number, Σ x² where it has been taken already.
        """
        return root(self.dots(x, x, known), x.dtype, lambda i: x[..., self.slices[i]])


def safe(squares: Array, dtype: np.dtype[Any]) -> Array:
    """Which sums of squares of numbers of this dtype can be trusted."""
    smallest, largest = _BOUNDS[dtype.char]
    return np.asarray((squares >= smallest) & (squares <= largest))


def all_safe(squares: Array, dtype: np.dtype[Any]) -> bool:
    """Whether all of them can be trusted; of a few, Python's own numbers are told faster than an array's."""
    if squares.size > FEW:
        trusted = safe(squares, dtype)
        return bool(np.count_nonzero(trusted) == trusted.size)
    smallest, largest = _BOUNDS[dtype.char]
    return all(smallest <= square <= largest for square in squares.ravel().tolist())


def root(squares: Array, dtype: np.dtype[Any], summed: Callable[[int], Array]) -> Array:
    """√squares, float64 [k, E...], where the i-th square is Σ x² over the last axis of ``summed(i)`` [E..., n_i].

    Where a square of x of this dtype is out of bounds, that norm is taken anew, with scaling.
    """
    result: Array = np.sqrt(squares.astype(np.float64, copy=False))
    if all_safe(squares, dtype):
        return result
    trusted = safe(squares, dtype)
    for i in range(len(trusted)):
        unsafe = ~trusted[i]
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
