"""Means over replicates with their 95% intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.arrays import Array


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
