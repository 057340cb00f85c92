"""95% confidence intervals of fractions and of differences, and the number of replicates that a precision needs.

Sources: Student, "The probable error of a mean", Biometrika 6 (1908) 1-25; Wilson, "Probable inference, the law of
succession, and statistical inference", JASA 22 (1927) 209-212; Welch, "The generalization of 'Student's' problem when
several different population variances are involved", Biometrika 34 (1947) 28-35. SciPy computes the intervals.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.arrays import Array
from pipeline.analysis.estimates import student_t

NO_INTERVAL = "none: fewer than two values"


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return Wilson's score interval (1927) of the fraction ``successes / trials``.

    The interval holds all p that a score test does not reject. It has a positive width at 0 of n and at n of n.
    Without trials it is [0, 1].

    Raises:
        ValueError: If not 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes={successes}: must be in 0 ... trials={trials}")
    if trials == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest  # scipy.stats takes long to import

    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class MeanDifference:
    """The mean of b − a and its 95% interval.

    Attributes:
        mean: NaN without finite values.
        low: Lower end. NaN without an interval; equal to the mean if the values do not spread.
        high: Upper end, as ``low``.
        spread: s such that the standard error is s/√n with n replicates (in each group), as
            :func:`replicates_needed` expects it.
        method: Name of the interval.
    """

    mean: float
    low: float
    high: float
    spread: float
    method: str


@dataclass(frozen=True)
class PairedDifference(MeanDifference):
    """A difference over pairs.

    Attributes:
        n: Number of pairs whose difference is finite.
        lost: Number of the other pairs, which are left out.
    """

    n: int
    lost: int


@dataclass(frozen=True)
class UnpairedDifference(MeanDifference):
    """A difference between independent groups.

    Attributes:
        n: Number of finite values of a and of b.
        lost: Number of the other values of a and of b, which are left out.
    """

    n: tuple[int, int]
    lost: tuple[int, int]


def paired(a: Array, b: Array) -> PairedDifference:
    """Compute Student's t interval (1908) of the mean of d = b − a over pairs.

    d̄ ± t_{n−1} s_d/√n. What a pair shares through its seed (data split, initial weights, batches) cancels.

    Args:
        a: [n]
        b: [n], entry i from the same seed as entry i of a. Pairs whose difference is not finite are left out.

    Raises:
        ValueError: If the shapes differ or are not [n].
    """
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"pairs: must be two rows of one length, are {a.shape} and {b.shape}")
    from scipy.stats import ttest_rel

    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        d = b - a
    finite = np.isfinite(d)
    n = int(np.count_nonzero(finite))
    low, high = _t_interval(ttest_rel, a[finite], b[finite])
    method = "paired t" if n > 1 else NO_INTERVAL
    return PairedDifference(_mean(d[finite]), low, high, _standard_deviation(d[finite]), method, n, d.size - n)


def unpaired(a: Array, b: Array) -> UnpairedDifference:
    """Compute Welch's t interval (1947) of the difference of two independent means with unequal variances.

    b̄ − ā ± t_ν √(s_a²/n_a + s_b²/n_b), ν degrees of freedom by Welch and Satterthwaite. ``spread`` is √(s_a² + s_b²).

    Args:
        a: [n_a]
        b: [n_b]. Values that are not finite are left out of both.

    Raises:
        ValueError: If the shapes are not [n_a] and [n_b].
    """
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"groups: must be rows of values, are {a.shape} and {b.shape}")
    from scipy.stats import ttest_ind

    first, second = (x[np.isfinite(x)].astype(np.float64) for x in (a, b))
    low, high = _t_interval(lambda x, y: ttest_ind(x, y, equal_var=False), first, second)
    mean = _mean(second) - _mean(first)
    spread = math.hypot(_standard_deviation(first), _standard_deviation(second))
    method = "Welch t" if min(first.size, second.size) > 1 else NO_INTERVAL
    lost = a.size - first.size, b.size - second.size
    return UnpairedDifference(mean, low, high, spread, method, (first.size, second.size), lost)


def _t_interval(test: Callable[[Array, Array], Any], a: Array, b: Array) -> tuple[float, float]:
    if min(a.size, b.size) < 2:
        return math.nan, math.nan
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # values without spread, squares that overflow
        interval = test(b, a).confidence_interval(0.95)
    return float(interval.low), float(interval.high)


def _mean(x: Array) -> float:
    with np.errstate(all="ignore"):
        return float(x.mean()) if x.size else math.nan


def _standard_deviation(x: Array) -> float:
    with np.errstate(all="ignore"):
        return float(x.std(ddof=1)) if x.size > 1 else math.nan


def replicates_needed(spread: float, half_width: float) -> int:
    """Return the smallest n >= 2 with t_{n−1} s/√n <= ``half_width``, the half width of a 95% t interval.

    The spread is treated as exact. An estimate from few replicates makes n a rough estimate, too. For two groups n is
    at most two larger than Welch's interval needs: its degrees of freedom lie between n − 1 and 2(n − 1).

    Args:
        spread: s, the standard deviation of a sample or of paired differences; for two independent groups
            √(s_a² + s_b²), and n is then the size of each group.
        half_width: The half width to reach.

    Raises:
        ValueError: If the spread is negative or not finite, or the half width is not positive or not reachable.
    """
    if not (0 <= spread < math.inf and 0 < half_width < math.inf):
        raise ValueError(f"spread={spread}, half_width={half_width}: must be finite, not negative and positive")
    ratio = spread / half_width
    if ratio > 1e100:
        raise ValueError(f"half_width={half_width}: no number of replicates is enough for spread={spread}")

    def is_enough(n: int) -> bool:
        return float(student_t(np.asarray(n - 1, dtype=np.float64))) * ratio <= math.sqrt(n)

    low, high = 1, 2  # t_{n−1}/√n falls with n, so bisection applies
    while not is_enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
