"""How sure a number is: 95% intervals of fractions, of any statistic, of differences; and how many replicates it takes.

Sources: Student, "The probable error of a mean", Biometrika 6 (1908) 1-25; Wilson, "Probable inference, the law of
succession, and statistical inference", JASA 22 (1927) 209-212; Welch, "The generalization of 'Student's' problem when
several different population variances are involved", Biometrika 34 (1947) 28-35; Efron & Tibshirani, An Introduction to
the Bootstrap (1993), chapter 14.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from engine.arrays import Array
from pipeline.analysis.estimates import student_t

Z = NormalDist().inv_cdf(0.975)
NONE = "none: fewer than two values"


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of a fraction p̂ = ``successes``/n, n = ``trials``.

    (p̂ + z²/2n ± z √(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n), z = 1.96: all p that a score test would not reject. Unlike
    p̂ ± z √(p̂(1 − p̂)/n) it is no point at 0 of n or n of n. Of no trials at all it is [0, 1].

    Raises:
        ValueError: not 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes={successes}: must be in 0 ... trials={trials}")
    if trials == 0:
        return 0.0, 1.0
    share, extra = successes / trials, Z**2 / trials
    centre = (share + extra / 2) / (1 + extra)
    half = Z * math.sqrt(share * (1 - share) / trials + extra / (4 * trials)) / (1 + extra)
    return (centre - half if successes else 0.0), (centre + half if successes < trials else 1.0)


@dataclass(frozen=True)
class Bootstrapped:
    """A statistic and its interval.

    Attributes:
        value: the statistic of the finite values; NaN if there are none.
        low, high: NaN for fewer than two finite values.
        n, lost: how many values are finite, and how many are not and so left out.
        method: how the interval was made.
    """

    value: float
    low: float
    high: float
    n: int
    lost: int
    method: str


def bootstrap(
    values: Array, rng: np.random.Generator, statistic: Callable[..., Any] = np.mean, resamples: int = 10_000
) -> Bootstrapped:
    """Bootstrap interval of any statistic, bias-corrected and accelerated (BCa; Efron & Tibshirani 1993, section 14.3).

    Its ends are the quantiles Φ(z₀ + (z₀ ± z)/(1 − a(z₀ ± z))) of the statistic over resamples with replacement, with
    z₀ = Φ⁻¹ of the share of resamples below the statistic and a from the jackknife. Where that is not defined (equal
    values; a statistic that the jackknife does not move) it is the plain quantiles at 2.5% and 97.5%; see ``method``.
    For a handful of values either is too narrow: for the mean of few replicates take Student's t.

    Args:
        values: [n]; those that are not finite are left out, but counted.
        statistic: of an array [n]; with a parameter ``axis`` it is computed for all resamples at once.
    """
    from scipy.stats import bootstrap as resample  # takes long to import

    kept = values[np.isfinite(values)]
    n, lost = kept.size, values.size - kept.size
    value = float(statistic(kept)) if n else math.nan
    low, high, used = math.nan, math.nan, NONE
    for method in ("BCa", "percentile") if n > 1 else ():
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is degenerate
            found = resample((kept,), statistic, n_resamples=resamples, method=method, rng=rng).confidence_interval
        low, high, used = float(found.low), float(found.high), f"{method} bootstrap"
        if math.isfinite(low + high):
            break
    return Bootstrapped(value, low, high, n, lost, used)


@dataclass(frozen=True)
class MeanDifference:
    """The mean of b − a and its 95% interval.

    Attributes:
        mean: NaN where there is nothing to give.
        low, high: NaN where there is no interval; both the mean itself where the values do not spread at all.
        p: two-sided, of the t test that the mean is zero; NaN without an interval, or without spread.
        effect: the standardised difference, the mean over the standard deviation that ``paired`` or ``unpaired`` names.
        spread: s such that the interval's standard error is s/√n with n replicates (in each group):
            what :func:`replicates_needed` asks for.
        method: how the interval was made.
    """

    mean: float
    low: float
    high: float
    p: float
    effect: float
    spread: float
    method: str


@dataclass(frozen=True)
class PairedDifference(MeanDifference):
    """A difference over pairs.

    Attributes:
        n, lost: how many pairs are finite, and how many are not and so left out.
    """

    n: int
    lost: int


@dataclass(frozen=True)
class UnpairedDifference(MeanDifference):
    """A difference between independent groups.

    Attributes:
        n, lost: how many values of a and of b are finite, and how many are not and so left out.
        degrees: of freedom, Welch's.
    """

    n: tuple[int, int]
    lost: tuple[int, int]
    degrees: float


class _Moments(NamedTuple):
    n: int
    mean: float
    spread: float


def _moments(x: Array) -> _Moments:
    """Count, mean and standard deviation (n − 1) of finite values; NaN where there are too few."""
    with np.errstate(all="ignore"):
        mean = float(x.mean()) if x.size else math.nan
        return _Moments(x.size, mean, float(x.std(ddof=1)) if x.size > 1 else math.nan)


def _t_interval(mean: float, error: float, degrees: float) -> tuple[float, float, float]:
    """mean ± t · error, and the p of the test that the mean is zero."""
    from scipy.special import stdtr

    half = float(student_t(np.asarray(degrees))) * error
    p = 2 * float(stdtr(degrees, -abs(mean) / error)) if 0 < error < math.inf else math.nan
    return mean - half, mean + half, p


def _over(mean: float, spread: float) -> float:
    return mean / spread if 0 < spread < math.inf else math.nan


def paired(a: Array, b: Array) -> PairedDifference:
    """Student's t interval (1908) of the mean of d = b − a over pairs: d̄ ± t_{n−1} s_d/√n.

    What a pair has in common (seed: data split, initial weights, batches) cancels. ``effect`` is d̄/s_d.

    Args:
        a, b: [n], entry i of both from the same seed. Pairs whose difference is not finite are left out, but counted.
    """
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"pairs: must be two rows of one length, are {a.shape} and {b.shape}")
    with np.errstate(all="ignore"):
        d = b.astype(np.float64) - a
    n, mean, spread = _moments(d[np.isfinite(d)])
    low, high, p = _t_interval(mean, spread / math.sqrt(n), n - 1) if n > 1 else (math.nan,) * 3
    method = "paired t" if n > 1 else NONE
    return PairedDifference(mean, low, high, p, _over(mean, spread), spread, method, n, d.size - n)


def unpaired(a: Array, b: Array) -> UnpairedDifference:
    """Welch's t interval (1947) of the difference of two independent means whose spreads may differ.

    b̄ − ā ± t_ν √(u + v), u = s_a²/n_a, v = s_b²/n_b, ν = (u + v)² / (u²/(n_a − 1) + v²/(n_b − 1)). ``effect`` is the
    difference over √((s_a² + s_b²)/2), ``spread`` is √(s_a² + s_b²).

    Args:
        a, b: [n_a] and [n_b]; values that are not finite are left out, but counted.
    """
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"groups: must be rows of values, are {a.shape} and {b.shape}")
    one, two = (_moments(x[np.isfinite(x)].astype(np.float64)) for x in (a, b))
    mean, spread = two.mean - one.mean, math.hypot(one.spread, two.spread)
    low, high, p, degrees, method = *(math.nan,) * 4, NONE
    if min(one.n, two.n) > 1:
        errors = one.spread / math.sqrt(one.n), two.spread / math.sqrt(two.n)
        error = math.hypot(*errors)
        share = (errors[0] / error) ** 2 if 0 < error < math.inf else 0.5
        degrees = 1 / (share**2 / (one.n - 1) + (1 - share) ** 2 / (two.n - 1))
        low, high, p = _t_interval(mean, error, degrees)
        method = "Welch t"
    effect = _over(mean, spread / math.sqrt(2))
    lost = a.size - one.n, b.size - two.n
    return UnpairedDifference(mean, low, high, p, effect, spread, method, (one.n, two.n), lost, degrees)


def replicates_needed(spread: float, half_width: float) -> int:
    """The smallest n >= 2 with t_{n−1} s/√n <= ``half_width``, the half width of the 95% t interval of a mean.

    For one sample s is its standard deviation, for paired differences theirs. For two independent groups √(s_a² + s_b²)
    gives what *each* needs, one or two more than Welch's interval does at most: that has between n − 1 and 2(n − 1)
    degrees of freedom, this takes n − 1. s is taken as known; from few replicates it is a guess, and so is n.

    Raises:
        ValueError: a spread that is negative or not finite, a half width that is not positive, or one out of all reach.
    """
    if not (0 <= spread < math.inf and 0 < half_width < math.inf):
        raise ValueError(f"spread={spread}, half_width={half_width}: must be finite, not negative and positive")
    ratio = spread / half_width
    if ratio > 1e100:
        raise ValueError(f"half_width={half_width}: no number of replicates gets there with a spread of {spread}")

    def enough(n: int) -> bool:
        return float(student_t(np.asarray(n - 1, dtype=np.float64))) * ratio <= math.sqrt(n)

    low, high = 1, 2  # t_{n−1}/√n falls with n: the last that is not enough, and one that is
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
