"""The array types the engine speaks of, and the one norm it trusts.

Shapes, everywhere: ``E...`` are leading ensemble axes (none for a single network), ``n`` units, ``m`` units of the
layer below, ``B`` examples, ``P`` parameters. Columns are examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Operation = Callable[[], Any]  # a piece of an equation, on arrays that stay where they are


def do(operations: Iterable[Operation]) -> None:
    """One after the other. (Where a step waits for every microsecond, the loop is written out.)"""
    for operation in operations:
        operation()


FEW = 48  # numbers: up to so many, a loop in Python beats NumPy's calls


CACHE_LINE = 64  # bytes


def aligned(shape: Sequence[int], dtype: DTypeLike) -> Array:
    """An array of zeros that begins with a cache line.

    NumPy's own arrays begin 16 bytes behind one, where every wide load of an AVX-512 unit crosses a line, so that
    products and sums of what lies in the cache take longer. The numbers are the same.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.zeros(size + CACHE_LINE, np.uint8)
    start = -room.__array_interface__["data"][0] % CACHE_LINE
    return room[start : start + size].view(dtype).reshape(shape)


@lru_cache(maxsize=256)
def constant(value: float, dtype: np.dtype[Any]) -> Array:
    """A number as an array without axes, not to be written to: a ufunc takes half as long over it as over Python's.

    Not for −0.0, which is the same key as 0.0.
    """
    made = np.array(value, dtype)
    made.flags.writeable = False
    return made


_MANY = range(2**11, 2**18 + 1)  # numbers: for fewer the call is what takes time, more zeros would leave the caches
_ZEROS = aligned((_MANY[-1],), np.float32)
_ZEROS.flags.writeable = False


@lru_cache(maxsize=256)
def _zeros(shape: tuple[int, ...]) -> Array:
    return _ZEROS[: math.prod(shape)].reshape(shape)


def zero_for(x: Array) -> Array:
    """0 to compare x with, not to be written to: an array of x's shape where that is faster.

    NumPy's ``maximum`` of float32 uses the CPU's wide units with an array, and not with a single number.
    """
    return _zeros(x.shape) if x.dtype.char == "f" and x.size in _MANY else constant(0, x.dtype)


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


Multiplier = Callable[[Array, Array], Any]  # (y, out): x y into out


def multiplier(x: Array, columns: int) -> Multiplier:
    """Multiplies x [E..., k, l] with any y [E..., l, columns] into a contiguous array of their type.

    For a single matrix of real numbers by ``dot``, which has a shorter way to the same product of BLAS, bit for bit;
    not where it is a product of vectors, to which ``dot`` has ways of its own: one leaves out factors of 0.
    """
    return x.dot if _for_dot(x, columns) else partial(np.matmul, x)


def multiplier_from_right(y: Array, rows: int) -> Multiplier:
    """Likewise multiplies any x [E..., rows, k] with y [E..., k, l]: (x, out)."""
    if _for_dot(y, rows):
        return lambda x, out: x.dot(y, out)
    return lambda x, out: np.matmul(x, y, out)


def _for_dot(x: Array, others: int) -> bool:
    return x.ndim == 2 and min(*x.shape, others) > 1 and x.dtype.kind == "f"


class Segments:
    """Consecutive stretches of a flat vector [..., P], each with sums and a norm of its own.

    Each stretch is summed alone (by BLAS, or pairwise), so its sum does not depend on what lies beside it.
    Neighbours of one length are the rows of one call.

    Args:
        lengths: entries of each stretch; the first begins at 0.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        ends = np.cumsum(lengths).tolist()
        self.slices = [slice(end - n, end) for end, n in zip(ends, lengths, strict=True)]
        self._runs: list[tuple[int, int, int]] = []  # from which stretch to which, and how long each is
        first = 0
        for length, alike in groupby(lengths):
            last = first + len(list(alike))
            self._runs.append((first, last, length))
            first = last

    @property
    def calls(self) -> int:
        """How many calls the sums over all of them take."""
        return len(self._runs)

    def products(
        self, x: Array, y: Array | None, out: Array, first: int = 0, last: int | None = None
    ) -> list[Operation]:
        """What takes the sums Σ x y over the stretches from ``first`` to before ``last``.

        Args:
            x, y: [..., P]; without a y, Σ x.
            out: [..., k], of all stretches: where to put the sums.
        """
        found: list[Operation] = []
        for run, end, length in self._runs:
            run, end = max(run, first), end if last is None else min(end, last)
            if run < end:
                entries = slice(self.slices[run].start, self.slices[end - 1].stop)
                u, o = x[..., entries].reshape(*x.shape[:-1], -1, length), out[..., run:end]
                found.append(summation(u, o) if y is None else _dot(u, y[..., entries].reshape(u.shape), o))
        return found

    def dots(self, x: Array, y: Array) -> Array:
        """Σ x y over each stretch: [..., P], [..., P] -> [k, ...], in their type."""
        sums = np.empty((*x.shape[:-1], len(self.slices)), x.dtype)
        do(self.products(x, y, sums))
        return sums if sums.ndim == 1 else sums.transpose(-1, *range(x.ndim - 1))

    def norms(self, x: Array) -> Array:
        """The Euclidean norm of each stretch of x [..., P], safe at any magnitude: float64 [k, ...].

        To be called under ``np.errstate(all="ignore")``.
        """
        return root(self.dots(x, x), x.dtype, lambda i: x[..., self.slices[i]])


_FEW_ONES = 2**12  # numbers: up to so many BLAS is faster than NumPy, and its rounding is not much worse


@lru_cache(maxsize=64)
def ones(length: int, dtype: np.dtype[Any]) -> Array:
    """To sum by: a product with them is faster than NumPy's sum. Not to be written to."""
    made = aligned((length,), dtype)
    made[...] = 1
    made.flags.writeable = False
    return made


def summation(x: Array, out: Array) -> Operation:
    """Σ x over the last axis: [..., n] -> [...], each sum alone: by BLAS, as products with 1, or pairwise.

    Of many numbers by rows first, where they make up rows of one length.
    """
    n = x.shape[-1]
    if n <= _FEW_ONES:
        return partial(np.vecdot, ones(n, x.dtype), x, out)  # not dot: it knows other signs of 0
    length = _row_length(n)
    if not (length and x.flags.c_contiguous):
        return partial(np.add.reduce, x, axis=-1, out=out)
    rows = x.reshape(*x.shape[:-1], n // length, length)
    sums = np.empty(rows.shape[:-1], x.dtype)
    return partial(do, (summation(rows, sums), summation(sums, out)))


@lru_cache(maxsize=256)
def _row_length(n: int) -> int:
    """Into rows of which length so many numbers are parted, to be summed by BLAS; 0 if there is none that fits."""
    return next((k for k in range(_FEW_ONES, 2**8, -1) if n % k == 0 and n // k <= _FEW_ONES), 0)


def summation_of_columns(x: Array, out: Array) -> Operation:
    """Σ x over the last axis but one: [..., n, B] -> [..., B], each array of a stack alone."""
    if x.ndim == 2 and _for_dot(x, 2):
        return partial(ones(len(x), x.dtype).dot, x, out)
    return partial(np.matmul, ones(x.shape[-2], x.dtype), x, out)


def _dot(x: Array, y: Array, out: Array) -> Operation:
    """Σ x y over the last axis: [..., n] -> [...]."""
    if out.size == 1 and out.dtype.kind == "f":  # the same sum, and a shorter way to it
        return partial(x.reshape(-1).dot, y.reshape(-1), out.reshape(()))
    return partial(np.vecdot, x, y, out)


def safe(squares: Array, dtype: np.dtype[Any]) -> Array:
    """Which sums of squares of numbers of this dtype can be trusted."""
    smallest, largest = _BOUNDS[dtype.char]
    return np.asarray((squares >= smallest) & (squares <= largest))


def extent(x: Array) -> tuple[float, float]:
    """The least and the largest of numbers that are not negative; NaN if any is. Of none: ∞ and −∞."""
    if x.size > FEW:
        flat = x.reshape(-1)
        return float(np.minimum.reduce(flat)), float(np.maximum.reduce(flat))
    few = x.ravel().tolist()
    if not few:
        return math.inf, -math.inf
    return (min(few), max(few)) if sum(few) >= 0 else (math.nan, math.nan)


def within(least: float, most: float, dtype: np.dtype[Any], times: float) -> bool:
    """Whether sums of squares of this extent can be trusted, and so many times as much of each."""
    smallest, largest = _bounds(dtype, times)
    return least >= smallest and most <= largest


def all_safe(squares: Array, dtype: np.dtype[Any], times: float = 1.0) -> bool:
    """Whether all of these sums of squares can be trusted, and so many times as much of each."""
    if squares.size > FEW:
        return within(*extent(squares), dtype, times)
    smallest, largest = _BOUNDS[dtype.char] if times == 1.0 else _bounds(dtype, times)
    few = squares.ravel().tolist()
    return not few or (min(few) >= smallest and max(few) <= largest and sum(few) >= 0)  # a sum with a NaN is NaN


def root(squares: Array, dtype: np.dtype[Any], summed: Callable[[int], Array]) -> Array:
    """√squares, float64 [k, E...], where the i-th square is Σ x² over the last axis of ``summed(i)`` [E..., n_i].

    Where a square of x of this dtype is out of bounds, that norm is taken anew, with scaling.
    """
    result: Array = np.sqrt(squares if squares.dtype.char == "d" else squares.astype(np.float64))
    if all_safe(squares, dtype):
        return result
    trusted = safe(squares, dtype)
    for i in range(len(trusted)):
        unsafe = ~trusted[i]
        if unsafe.any():
            result[i, unsafe] = _scaled_norm(summed(i)[unsafe])
    return result


def mended(squares: Array, dtype: np.dtype[Any], summed: Callable[[int], Array]) -> Array:
    """Sums of squares [k, E...] as in :func:`root`, taken anew where they are out of bounds; NaN stays NaN."""
    if all_safe(squares, dtype):
        return squares
    return np.where(safe(squares, dtype) | np.isnan(squares), squares, np.square(root(squares, dtype, summed)))


# By type, the sums of squares that can be trusted: below the lower bound, squares lost to underflow could show.
_BOUNDS = {
    info.dtype.char: (float(info.tiny) / float(info.eps) ** 2, float(info.max))
    for info in (np.finfo(np.float32), np.finfo(np.float64))
}


@lru_cache(maxsize=256)
def _bounds(dtype: np.dtype[Any], times: float) -> tuple[float, float]:
    """Between which sums of squares can be trusted, and so many times as much of each."""
    smallest, largest = _BOUNDS[dtype.char]
    return (max(smallest, smallest / times), min(largest, largest / times)) if times > 0 else (math.inf, -math.inf)


def _scaled_norm(rows: Array) -> Array:
    """‖row‖ of every row [k, n], by scaling with its largest entry."""
    rows = rows.astype(np.float64)
    peak: Array = np.abs(rows).max(axis=-1)
    divisor = np.where((peak > 0) & np.isfinite(peak), peak, 1.0)[:, None]
    rows = rows / divisor
    return np.where(np.isfinite(peak), peak * np.sqrt(np.vecdot(rows, rows)), peak)
