"""Intervals of fractions and differences against worked numbers; replicates against a search by trial."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.comparisons import paired, replicates_needed, unpaired, wilson

T_2 = 4.302652729749464  # the 97.5% quantile of Student's t with two degrees of freedom
Z = float(stats.norm.ppf(0.975))


# Fractions


def test_wilson_interval_of_worked_example() -> None:
    """5 of 10: the centre is 1/2, the half width z/2/√(n + z²). 0 of 10: up to z²/(n + z²)."""
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=5e-5)
    assert wilson(5, 10)[1] == pytest.approx(0.5 + Z / 2 / math.sqrt(10 + Z**2), rel=1e-12)
    low, high = wilson(0, 10)
    assert low == 0
    assert high == pytest.approx(Z**2 / (10 + Z**2), rel=1e-12)
    assert wilson(10, 10) == pytest.approx((1 - high, 1), rel=1e-12)
    assert wilson(10, 10)[1] == 1
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 3), (4, 3), (1, 0)])
def test_wilson_rejects_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="must be in 0"):
        wilson(successes, trials)


# Differences


def test_paired_interval_of_worked_example() -> None:
    """Differences 1, 2, 0: mean 1, standard deviation 1."""
    d = paired(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 3.0]))
    assert (d.mean, d.spread, d.n, d.lost, d.method) == (1, 1, 3, 0, "paired t")
    assert (d.low, d.high) == pytest.approx((1 - T_2 / math.sqrt(3), 1 + T_2 / math.sqrt(3)), rel=1e-9)


def test_unpaired_interval_of_worked_example() -> None:
    """Means 2 and 5; variances 1 and 4 over 3 each: error √(5/3), degrees (5/3)²/((1/9 + 16/9)/2) = 50/17."""
    d = unpaired(np.array([1.0, 2.0, 3.0]), np.array([3.0, 5.0, 7.0]))
    half = stats.t.ppf(0.975, 50 / 17) * math.sqrt(5 / 3)
    assert (d.mean, d.low, d.high) == pytest.approx((3, 3 - half, 3 + half), rel=1e-9)
    assert d.spread == pytest.approx(math.sqrt(5), rel=1e-12)
    assert (d.n, d.lost, d.method) == ((3, 3), (0, 0), "Welch t")


def test_pairing_cancels_shared_variation() -> None:
    rng = np.random.default_rng(3)
    shared = 100 * rng.standard_normal(5)
    a, b = shared + rng.standard_normal(5), shared + 0.7 + 2 * rng.standard_normal(5)
    pairs, groups = paired(a, b), unpaired(a, b)
    assert pairs.high - pairs.low < 0.1 * (groups.high - groups.low)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_values_are_left_out_and_counted(bad: float) -> None:
    a, b = np.array([1.0, bad, 3.0, 4.0, bad]), np.array([2.0, 7.0, bad, 6.0, bad])
    d = paired(a, b)
    assert (d.mean, d.n, d.lost) == (1.5, 2, 3)
    assert (d.low, d.high) == pytest.approx((paired(a[[0, 3]], b[[0, 3]]).low, paired(a[[0, 3]], b[[0, 3]]).high))
    w = unpaired(a, b)
    assert (w.n, w.lost) == ((3, 3), (2, 2))
    assert w.mean == pytest.approx(5 - 8 / 3)


@pytest.mark.parametrize("compare", [paired, unpaired])
def test_fewer_than_two_values_have_no_interval(compare: Callable[..., Any]) -> None:
    single = compare(np.array([1.0]), np.array([3.0]))
    assert single.mean == 2
    assert np.isnan([single.low, single.high, single.spread]).all()
    assert single.method.startswith("none")
    assert math.isnan(compare(np.array([math.nan]), np.array([3.0])).mean)
    assert math.isnan(compare(np.array([]), np.array([])).mean)


@pytest.mark.parametrize("compare", [paired, unpaired])
@pytest.mark.parametrize("difference", [0.0, 2.0])
def test_interval_of_values_without_spread_is_a_point(compare: Callable[..., Any], difference: float) -> None:
    d = compare(np.ones(3), np.ones(3) + difference)
    assert (d.mean, d.low, d.high, d.spread) == (difference, difference, difference, 0)


@pytest.mark.parametrize("compare", [paired, unpaired])
def test_interval_is_infinite_where_squares_overflow(compare: Callable[..., Any]) -> None:
    d = compare(np.array([1e200, 2.0, 1.0]), np.array([-1e200, 4.0, 1.0]))
    assert (d.low, d.high) == (-math.inf, math.inf)


def test_shapes_that_do_not_match_are_rejected() -> None:
    with pytest.raises(ValueError, match="one length"):
        paired(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="rows of values"):
        unpaired(np.ones((2, 2)), np.ones(3))


# Number of replicates


def half_width(n: int, spread: float) -> float:
    return float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n)


@pytest.mark.parametrize("ratio", [1e-6, 0.1, 0.3, 1, 1.7, 3, 10, 25])
def test_replicates_needed_equals_search_by_trial(ratio: float) -> None:
    n = 2
    while half_width(n, ratio) > 1:
        n += 1
    assert replicates_needed(ratio, 1.0) == n
    assert replicates_needed(ratio * 1e-9, 1e-9) == n


def test_replicates_needed_at_the_exact_half_width() -> None:
    """The half width of five replicates needs five; the next smaller number needs six."""
    exact = half_width(5, 2.0)
    assert replicates_needed(2.0, exact * (1 + 1e-9)) == 5
    assert replicates_needed(2.0, exact * (1 - 1e-9)) == 6


def test_replicates_needed_of_extreme_spreads() -> None:
    assert replicates_needed(0.0, 1.0) == 2
    assert replicates_needed(1e10, 1.0) == pytest.approx(Z**2 * 1e20, rel=1e-9)
    assert replicates_needed(1e90, 1.0) == pytest.approx(Z**2 * 1e180, rel=1e-9)
    for spread, half in ((1.0, 0.0), (1.0, -1.0), (math.nan, 1.0), (math.inf, 1.0), (-1.0, 1.0), (1.0, math.nan)):
        with pytest.raises(ValueError, match="must be finite"):
            replicates_needed(spread, half)
    with pytest.raises(ValueError, match="no number of replicates"):
        replicates_needed(1e200, 1.0)


@pytest.mark.parametrize("ratio", [0.2, 0.5, 1, 2, 5])
@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_replicates_needed_of_two_groups_exceed_welch_by_at_most_two(ratio: float, share: float) -> None:
    """Against Welch's own degrees of freedom; ``share`` of the variance belongs to one group."""
    degrees = 1 / (share**2 + (1 - share) ** 2)
    n = 2
    while float(stats.t.ppf(0.975, (n - 1) * degrees)) * ratio / math.sqrt(n) > 1:
        n += 1
    assert 0 <= replicates_needed(ratio, 1.0) - n <= 2
