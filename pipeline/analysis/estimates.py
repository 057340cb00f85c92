"""Means over replicates with their 95% intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.arrays import Array

DIGITS = 3  # of a number without an interval
MOST_DIGITS = 5  # of a number with one


@dataclass(frozen=True)
class Estimate:
    """Means over the replicates with finite values, and their intervals; arrays of one shape.

    Attributes:
        mean: NaN where no value is finite.
        low: Lower end of the 95% interval; NaN where there is none.
        high: Upper end.
        lost: Share of the replicates whose value is not finite. Mean and interval leave them out.
    """

    mean: Array
    low: Array
    high: Array
    lost: Array


def student_t(degrees: Array | int, probability: float = 0.975) -> Array:
    """Return the quantile of Student's t distribution; NaN for less than one degree of freedom."""
    from scipy.special import stdtrit  # scipy takes long to import, and a single replicate does not need it

    return np.asarray(stdtrit(np.where(np.asarray(degrees) < 1, np.nan, degrees), probability))


def estimate(values: Array, geometric: bool = False) -> Estimate:
    """Return the mean over the last axis and its 95% interval, mean ± t_{n−1} · s/√n over the n finite values.

    Replicates that are not finite are left out. Show ``lost``, their share, wherever the mean is shown. The interval
    is NaN for a single finite value, and where the logarithms are not finite.

    Args:
        values: [..., R], one value for each replicate.
        geometric: Whether to average log10 of the values (norms). Mean and interval are then geometric.
    """
    finite = np.isfinite(values)
    count = np.count_nonzero(finite, axis=-1)
    replicates = values.shape[-1]
    if replicates == 1:  # the value itself, without an interval
        mean = np.where(finite, values, np.nan)[..., 0]
        none = np.full_like(mean, np.nan)
        return Estimate(mean, none, none, 1.0 - count)
    with np.errstate(all="ignore"):
        x = np.log10(values) if geometric else values
        if finite.all():
            mean, spread = x.mean(axis=-1), x.std(axis=-1, ddof=1)
        else:
            mean = np.where(finite, x, 0).sum(axis=-1) / count
            squares = np.where(finite, np.square(x - mean[..., None]), 0).sum(axis=-1)
            spread = np.sqrt(squares / np.where(count > 1, count - 1, np.nan))
        half = student_t(count - 1) * spread / np.sqrt(count)
        low, high = mean - half, mean + half
        if geometric:
            mean, low, high = 10**mean, 10**low, 10**high
    return Estimate(mean, low, high, 1 - count / replicates)


def show(value: Estimate) -> str:
    """Format a scalar estimate: "0.91 [0.90, 0.92]", with the share of replicates that are not finite, if any."""
    return with_interval(value) + _lost(value) if math.isfinite(float(value.mean)) else "not finite"


def show_half_width(value: Estimate) -> str:
    """Format a scalar estimate as :func:`show` does, with half of the interval's width: "0.91±0.01"."""
    mean, low, high = map(float, (value.mean, value.low, value.high))
    half = high / 2 - low / 2
    if not math.isfinite(half):
        return show(value)
    place = last_place(mean, low, high)
    error = rounded(half, place) if half >= 10.0**place / 2 else "0"
    return f"{rounded(mean, place)}±{error}{_lost(value)}"


def with_interval(value: Estimate, sign: int = 1) -> str:
    """Format a mean with its interval, if it has one: "0.91 [0.90, 0.92]".

    Args:
        value: A scalar estimate.
        sign: −1 negates it.
    """
    mean, low, high = (sign * float(part) for part in (value.mean, value.low, value.high))
    low, high = sorted((low, high))
    place = last_place(mean, low, high)
    interval = f" [{rounded(low, place)}, {rounded(high, place)}]" if math.isfinite(low) else ""
    return f"{rounded(mean, place)}{interval}"


def last_place(mean: float, low: float, high: float) -> int:
    """Return the power of ten of the last digit that an interval allows.

    It is the first digit of half of the interval's width, or the second if the first is 1. A number without an interval
    has ``DIGITS`` digits; one with a wide interval still has its units, or ``DIGITS`` digits if it is large.
    """
    half = high / 2 - low / 2
    if not math.isfinite(half) or half == 0:
        return _exponent(mean) - DIGITS + 1
    place = _exponent(half) - (half < 2 * 10.0 ** _exponent(half))
    first = _exponent(max(abs(low), abs(high)))
    return min(max(place, first - MOST_DIGITS + 1), max(0, first - DIGITS + 1))


def rounded(number: float, place: int) -> str:
    """Format a number with its last digit at a power of ten; 0.0314 with the place −3 is "0.031"."""
    if -6 <= place <= 0 and abs(number) < 1e6:
        return f"{number:z.{-place}f}"
    digits = _exponent(number) - place
    return f"{number:.{digits}e}" if digits >= 0 else "0"


def _lost(value: Estimate) -> str:
    return f" ({float(value.lost):.0%} not finite)" if value.lost else ""


def _exponent(number: float) -> int:
    return math.floor(math.log10(abs(number))) if number and math.isfinite(number) else 0
