"""Means over replicates with their 95% intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.arrays import Array


@dataclass(frozen=True)
class Estimate:
    """A mean over replicates and its interval; arrays of one shape. NaN where there is no finite value to give."""

    mean: Array
    low: Array
    high: Array


def student_t(degrees: int, probability: float = 0.975) -> float:
    """The quantile of Student's t distribution."""
    from scipy.special import stdtrit  # scipy takes long to import; runs of one replicate never need it

    return float(stdtrit(degrees, probability))


def estimate(values: Array, geometric: bool = False) -> Estimate:
    """Mean over the last axis and its 95% interval, mean ± t_{R−1} · s/√R.

    Args:
        values: [..., R], one value a replicate.
        geometric: average log10 of the values (norms); the interval is then one of the geometric mean.

    A single non-finite value makes the mean non-finite: survivors alone are never averaged. The interval is NaN for
    one replicate, and where the logarithms are not finite.
    """
    count = values.shape[-1]
    with np.errstate(all="ignore"):
        x = np.log10(values) if geometric else values
        mean = x.mean(axis=-1)
        if count > 1:
            half = student_t(count - 1) * x.std(axis=-1, ddof=1) / np.sqrt(count)
        else:
            half = np.full_like(mean, np.nan)
        low, high = mean - half, mean + half
        if geometric:
            mean, low, high = 10**mean, 10**low, 10**high
    return Estimate(mean, low, high)
