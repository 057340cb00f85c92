"""Means and 95% intervals against worked numbers and simulation, with values that are not finite."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.estimates import Estimate, estimate, show, show_half_width, student_t

T_2 = 4.302652729749464  # the 97.5% quantile of Student's t with two degrees of freedom: 0.95·√(2/(1 − 0.95²))


def test_student_t_equals_tables() -> None:
    assert 0.95 * math.sqrt(2 / (1 - 0.95**2)) == pytest.approx(T_2, rel=1e-12)
    assert student_t(2) == pytest.approx(T_2, rel=1e-9)
    assert student_t(4) == pytest.approx(2.776445105, rel=1e-9)  # printed in every table
    assert student_t(10**6) == pytest.approx(1.959966, rel=1e-5)


def test_estimate_of_worked_example() -> None:
    e = estimate(np.array([1.0, 2.0, 6.0]))
    half = T_2 * math.sqrt(7) / math.sqrt(3)  # mean 3; squares of deviations 4 + 1 + 9, over 2
    assert float(e.mean) == 3
    assert float(e.low) == pytest.approx(3 - half, rel=1e-9)
    assert float(e.high) == pytest.approx(3 + half, rel=1e-9)


def test_geometric_estimate_of_worked_example() -> None:
    e = estimate(np.array([1e-3, 1e-2, 1e-1]), geometric=True)
    half = T_2 / math.sqrt(3)  # logarithms −3, −2, −1: standard deviation 1
    assert float(e.mean) == pytest.approx(1e-2, rel=1e-12)
    assert float(e.low) == pytest.approx(10 ** (-2 - half), rel=1e-9)
    assert float(e.high) == pytest.approx(10 ** (-2 + half), rel=1e-9)


def test_geometric_mean_is_exact_where_the_product_underflows() -> None:
    assert float(estimate(np.array([1e-300, 1e-200, 1e-100]), geometric=True).mean) == pytest.approx(1e-200, rel=1e-9)


def test_estimate_reduces_the_last_axis() -> None:
    values = np.random.default_rng(0).standard_normal((4, 7))
    e = estimate(values)
    for i, row in enumerate(values.tolist()):
        half = stats.t.ppf(0.975, 6) * statistics.stdev(row) / math.sqrt(7)
        assert e.mean[i] == pytest.approx(statistics.fmean(row), rel=1e-12, abs=1e-12)
        assert e.high[i] - e.low[i] == pytest.approx(2 * half, rel=1e-9)


@pytest.mark.parametrize("geometric", [False, True])
@pytest.mark.parametrize("replicates", [2, 5])
def test_intervals_cover_the_truth_in_95_of_100_cases(geometric: bool, replicates: int) -> None:
    trials = 20_000
    x = 0.7 + 1.3 * np.random.default_rng(2025).standard_normal((trials, replicates))
    e = estimate(10**x if geometric else x, geometric)
    truth = 10**0.7 if geometric else 0.7
    coverage = np.mean((e.low <= truth) & (truth <= e.high))
    assert abs(coverage - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("geometric", [False, True])
def test_finite_values_are_averaged_and_others_counted(bad: float, geometric: bool) -> None:
    e = estimate(np.array([[1.0, 2.0, bad, 4.0], [1.0, 2.0, 4.0, 4.0], [bad] * 4, [bad, 3.0, bad, bad]]), geometric)
    alone = estimate(np.array([1.0, 2.0, 4.0]), geometric)
    for got, expected in ((e.mean, alone.mean), (e.low, alone.low), (e.high, alone.high)):
        assert got[0] == pytest.approx(float(expected), rel=1e-12)
    assert e.lost.tolist() == [0.25, 0, 1, 0.75]
    assert math.isnan(e.mean[2])
    assert e.mean[3] == pytest.approx(3.0)
    assert math.isnan(e.low[3])
    assert "(25% not finite)" in show(estimate(np.array([1.0, 2.0, bad, 4.0]), geometric))


@pytest.mark.parametrize(
    ("mean", "half", "interval", "half_width"),
    [
        (0.663, 0.0203, "0.66 [0.64, 0.68]", "0.66±0.02"),
        (11.95, 0.12, "11.95 [11.83, 12.07]", "11.95±0.12"),  # two digits if the first is 1
        (-0.0004, 0.0066, "0.000 [-0.007, 0.006]", "0.000±0.007"),
        (99.96, 0.096, "99.96 [99.86, 100.06]", "99.96±0.10"),
        (1.5, 25.0, "2 [-24, 26]", "2±25"),
        (3.27e8, 2e8, "3.27e+08 [1.27e+08, 5.27e+08]", "3.27e+08±2.00e+08"),
        (1.2e-9, 3e-10, "1.2e-09 [9e-10, 1.5e-09]", "1.2e-09±3e-10"),
        (5.65, 1e-12, "5.6500 [5.6500, 5.6500]", "5.6500±0"),
        (1.0, 0.0, "1.00 [1.00, 1.00]", "1.00±0"),
        (0.6741, math.nan, "0.674", "0.674"),
        (math.nan, math.nan, "not finite", "not finite"),
    ],
)
def test_number_has_the_digits_that_its_interval_allows(
    mean: float, half: float, interval: str, half_width: str
) -> None:
    e = Estimate(*(np.array(x) for x in (mean, mean - half, mean + half, 0.0)))
    assert show(e) == interval
    assert show_half_width(e) == half_width


def test_geometric_mean_with_a_zero_is_zero() -> None:
    e = estimate(np.array([0.0, 1.0, 1.0]), geometric=True)
    assert float(e.mean) == 0
    assert math.isnan(e.low)
    assert math.isnan(e.high)


@pytest.mark.parametrize("geometric", [False, True])
def test_one_replicate_has_no_interval(geometric: bool) -> None:
    e = estimate(np.array([[3.0], [0.5]]), geometric)
    np.testing.assert_allclose(e.mean, [3.0, 0.5], rtol=1e-15)
    assert np.isnan([e.low, e.high]).all()
