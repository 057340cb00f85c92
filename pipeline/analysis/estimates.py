"""Means over replicates with their 95% intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.arrays import Array


@dataclass(frozen=True)
class Estimate:
    """A mean over the replicates whose value is finite, and its interval; arrays of one shape.

    Attributes:
        mean, low, high: NaN where there is nothing to give.
        lost: the share of replicates whose value is not finite, and so is in none of the three.
    """

    mean: Array
    low: Array
    high: Array
    lost: Array


def student_t(degrees: Array | int, probability: float = 0.975) -> Array:
    """The quantile of Student's t distribution; NaN for less than one degree of freedom."""
    from scipy.special import stdtrit  # scipy takes long to import; runs of one replicate never need it

    return np.asarray(stdtrit(np.where(np.asarray(degrees) < 1, np.nan, degrees), probability))


def estimate(values: Array, geometric: bool = False) -> Estimate:
    """Mean over the last axis and its 95% interval, mean ± t_{n−1} · s/√n over the n finite values.

    Args:
        values: [..., R], one value a replicate.
        geometric: average log10 of the values (norms); the interval is then one of the geometric mean.

    Replicates that are not finite are left out, and ``lost`` says what share of all they are: never show the one
    without the other. The interval is NaN for one finite value, and where the logarithms are not finite.
    """
    finite = np.isfinite(values)
    count = np.count_nonzero(finite, axis=-1)
    replicates = values.shape[-1]
    if replicates == 1:  # the value itself, and no interval
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
