"""Intervals by hand, by simulation and against SciPy; and two logged runs compared."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats
from support.stores import empty

from pipeline.analysis.comparisons import Z, bootstrap, paired, replicates_needed, unpaired, wilson
from pipeline.config.changes import config_changes
from pipeline.errors import ConfigError
from pipeline.reports.comparison import (
    DECADES,
    FINAL,
    Comparison,
    Logged,
    Reading,
    common,
    compare,
    comparisons,
    environment_changes,
    load,
    readings,
)
from pipeline.sweeps.single import single
from pipeline.tracking.store import Store, TrackingConfig, download
from pipeline.training.records import Record, tidy

T_2 = 4.302652729749464  # the 97.5% quantile of Student's t with two degrees of freedom
START, END = DECADES.values()
ACCURACY, R2, COST = FINAL.values()


def within(hits: float, trials: int) -> bool:
    """Whether this share of hits is 95%, to four standard errors."""
    return abs(hits - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


# Fractions


def test_wilson_by_hand() -> None:
    """5 of 10: the centre is 1/2, the half width z/2/√(n + z²). 0 of 10: up to z²/(n + z²)."""
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=5e-5)
    assert wilson(5, 10)[1] == pytest.approx(0.5 + Z / 2 / math.sqrt(10 + Z**2), rel=1e-12)
    low, high = wilson(0, 10)
    assert low == 0
    assert high == pytest.approx(Z**2 / (10 + Z**2), rel=1e-12)
    assert wilson(10, 10) == pytest.approx((1 - high, 1), rel=1e-12)
    assert wilson(10, 10)[1] == 1
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize("trials", [1, 2, 7, 50, 10_000])
def test_wilson_is_scipys_and_inverts_the_score_test(trials: int) -> None:
    for successes in {0, 1, trials // 3, trials - 1, trials}:
        low, high = wilson(successes, trials)
        expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)
        for p in {low, high} - {0.0, 1.0}:
            score = (successes / trials - p) / math.sqrt(p * (1 - p) / trials)
            assert abs(score) == pytest.approx(Z, rel=1e-6)


@pytest.mark.parametrize("p", [0.02, 0.1, 0.3, 0.5, 0.77, 0.95])
def test_wilson_covers_every_fraction_about_95_times_in_100(p: float) -> None:
    """Exactly, by the binomial distribution; on average over n, for at one n it goes up and down with p."""
    coverage = []
    for trials in range(20, 60):
        ends = np.array([wilson(k, trials) for k in range(trials + 1)])
        inside = (ends[:, 0] <= p) & (p <= ends[:, 1])
        coverage.append(stats.binom.pmf(np.arange(trials + 1), trials, p)[inside].sum())
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.012)
    assert min(coverage) > 0.89


def test_wilson_coverage_by_simulation() -> None:
    counts = np.random.default_rng(1).binomial(200, 0.3, 20_000)
    ends = np.array([wilson(int(k), 200) for k in counts])
    assert np.mean((ends[:, 0] <= 0.3) & (ends[:, 1] >= 0.3)) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 3), (4, 3), (1, 0)])
def test_no_fraction(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="must be in 0"):
        wilson(successes, trials)


# Differences


def test_three_pairs_by_hand() -> None:
    """Differences 1, 2, 0: mean 1, standard deviation 1."""
    d = paired(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 3.0]))
    assert (d.mean, d.spread, d.effect, d.n, d.lost, d.method) == (1, 1, 1, 3, 0, "paired t")
    assert (d.low, d.high) == pytest.approx((1 - T_2 / math.sqrt(3), 1 + T_2 / math.sqrt(3)), rel=1e-9)


def test_two_groups_by_hand() -> None:
    """Means 2 and 5; variances 1 and 4 over 3 each: error √(5/3), degrees (5/3)²/((1/9 + 16/9)/2) = 50/17."""
    d = unpaired(np.array([1.0, 2.0, 3.0]), np.array([3.0, 5.0, 7.0]))
    half = stats.t.ppf(0.975, 50 / 17) * math.sqrt(5 / 3)
    assert d.degrees == pytest.approx(50 / 17, rel=1e-12)
    assert (d.mean, d.low, d.high) == pytest.approx((3, 3 - half, 3 + half), rel=1e-9)
    assert d.spread == pytest.approx(math.sqrt(5), rel=1e-12)
    assert d.effect == pytest.approx(3 / math.sqrt(2.5), rel=1e-12)
    assert (d.n, d.lost, d.method) == ((3, 3), (0, 0), "Welch t")


@pytest.mark.parametrize("seed", range(5))
def test_both_are_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, other = rng.normal(0, 1, 6), rng.normal(0.5, 3, 6), rng.normal(0.5, 3, 9)
    for got, expected in (
        (paired(a, b), stats.ttest_rel(b, a)),
        (unpaired(a, other), stats.ttest_ind(other, a, equal_var=False)),
    ):
        ends = expected.confidence_interval(0.95)
        assert (got.low, got.high) == pytest.approx((ends.low, ends.high), rel=1e-9)
        assert got.p == pytest.approx(expected.pvalue, rel=1e-9)


@pytest.mark.parametrize("n", [2, 5])
def test_paired_intervals_cover_the_truth_95_times_in_100(n: int) -> None:
    """What the pairs share, a hundred times the difference, cancels."""
    trials, rng = 10_000, np.random.default_rng(3)
    shared = 100 * rng.standard_normal((trials, n))
    a, b = shared + rng.standard_normal((trials, n)), shared + 0.7 + 2 * rng.standard_normal((trials, n))
    found = [paired(x, y) for x, y in zip(a, b, strict=True)]
    assert within(float(np.mean([d.low <= 0.7 <= d.high for d in found])), trials)
    assert np.mean([d.high - d.low for d in found]) < np.mean(
        [unpaired(x, y).high - unpaired(x, y).low for x, y in zip(a[:500], b[:500], strict=True)]
    )


def test_welch_covers_where_spreads_and_counts_differ() -> None:
    """Pooling the variances would cover far less: the small group spreads the most."""
    trials, rng = 10_000, np.random.default_rng(4)
    a, b = rng.normal(0, 1, (trials, 12)), rng.normal(0.7, 5, (trials, 5))
    found = [unpaired(x, y) for x, y in zip(a, b, strict=True)]
    assert np.mean([d.low <= 0.7 <= d.high for d in found]) == pytest.approx(0.95, abs=0.012)
    pooled = stats.ttest_ind(b, a, axis=1).confidence_interval(0.95)
    assert np.mean((pooled.low <= 0.7) & (pooled.high >= 0.7)) < 0.85


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out_and_counted(bad: float) -> None:
    a, b = np.array([1.0, bad, 3.0, 4.0, bad]), np.array([2.0, 7.0, bad, 6.0, bad])
    d = paired(a, b)
    assert (d.mean, d.n, d.lost) == (1.5, 2, 3)
    assert (d.low, d.high) == pytest.approx((paired(a[[0, 3]], b[[0, 3]]).low, paired(a[[0, 3]], b[[0, 3]]).high))
    w = unpaired(a, b)
    assert (w.n, w.lost) == ((3, 3), (2, 2))
    assert w.mean == pytest.approx(5 - 8 / 3)


@pytest.mark.parametrize("how", [paired, unpaired])
def test_too_few_have_no_interval(how: Callable[..., Any]) -> None:
    one = how(np.array([1.0]), np.array([3.0]))
    assert one.mean == 2
    assert np.isnan([one.low, one.high, one.p, one.effect, one.spread]).all()
    assert one.method.startswith("none")
    none = how(np.array([math.nan]), np.array([3.0]))
    assert math.isnan(none.mean)
    assert math.isnan(how(np.array([]), np.array([])).mean)


@pytest.mark.parametrize("how", [paired, unpaired])
def test_without_spread_the_interval_is_a_point_and_p_is_nothing(how: Callable[..., Any]) -> None:
    d = how(np.array([1.0, 1.0, 1.0]), np.array([3.0, 3.0, 3.0]))
    assert (d.low, d.high, d.spread) == (2, 2, 0)
    assert np.isnan([d.p, d.effect]).all()


@pytest.mark.parametrize("how", [paired, unpaired])
def test_numbers_whose_squares_overflow(how: Callable[..., Any]) -> None:
    d = how(np.array([1e200, 2.0, 1.0]), np.array([-1e200, 4.0, 1.0]))
    assert (d.low, d.high) == (-math.inf, math.inf)
    assert np.isnan([d.p, d.effect]).all()


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match="one length"):
        paired(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="rows of values"):
        unpaired(np.ones((2, 2)), np.ones(3))


# The bootstrap


def test_bca_by_a_second_implementation() -> None:
    """Efron & Tibshirani (1993), equations 14.9 to 14.15, on skewed data, with resamples of its own."""
    x = np.random.default_rng(5).exponential(size=25)
    got = bootstrap(x, np.random.default_rng(6), np.var, resamples=40_000)
    draws = np.random.default_rng(7).choice(x, (40_000, x.size)).var(axis=1)
    jackknife = np.array([np.delete(x, i).var() for i in range(x.size)])
    off = jackknife.mean() - jackknife
    a = (off**3).sum() / (6 * (off**2).sum() ** 1.5)
    z0 = stats.norm.ppf(np.mean(draws < x.var()))
    low, high = (
        np.quantile(draws, stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))) for z in stats.norm.ppf([0.025, 0.975])
    )
    assert got.value == pytest.approx(x.var())
    assert (got.low, got.high) == pytest.approx((low, high), abs=0.03 * (high - low))
    assert got.method == "BCa bootstrap"
    plain = np.quantile(draws, [0.025, 0.975])
    assert abs(plain[1] - high) > 0.1 * (high - low)  # the correction is not small here


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_bootstrap_coverage(statistic: Callable[..., Any]) -> None:
    trials, rng = 400, np.random.default_rng(8)
    truth = {np.mean: 1.0, np.median: math.log(2)}[statistic]
    found = [bootstrap(rng.exponential(size=50), rng, statistic, 500) for _ in range(trials)]
    assert 0.90 < np.mean([f.low <= truth <= f.high for f in found]) < 0.98


def test_bootstrap_is_a_function_of_its_generator() -> None:
    x = np.random.default_rng(0).standard_normal(12)
    one, two, other = (bootstrap(x, np.random.default_rng(s), resamples=200) for s in (1, 1, 2))
    assert one == two
    assert one.low != other.low


def test_bootstrap_of_odd_values() -> None:
    rng = np.random.default_rng(0)
    found = bootstrap(np.array([1.0, 5.0, math.nan, 3.0, math.inf]), rng, resamples=500)
    assert (found.value, found.n, found.lost) == (3, 3, 2)
    assert 1 <= found.low < 3 < found.high <= 5
    same = bootstrap(np.ones(5), rng, resamples=100)
    assert (same.low, same.high, same.method) == (1, 1, "percentile bootstrap")
    one = bootstrap(np.array([2.0]), rng)
    assert (one.value, one.method) == (2, "none: fewer than two values")
    assert math.isnan(one.low)
    assert math.isnan(bootstrap(np.array([]), rng).value)


# How many replicates


def half_width(n: int, spread: float) -> float:
    return float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n)


@pytest.mark.parametrize("ratio", [1e-6, 0.1, 0.3, 1, 1.7, 3, 10, 25])
def test_replicates_needed_by_trying_them_all(ratio: float) -> None:
    n = 2
    while half_width(n, ratio) > 1:
        n += 1
    assert replicates_needed(ratio, 1.0) == n
    assert replicates_needed(ratio * 1e-9, 1e-9) == n


def test_replicates_needed_exactly_there() -> None:
    """The half width that five replicates give takes five, the next smaller number six."""
    exact = half_width(5, 2.0)
    assert replicates_needed(2.0, exact * (1 + 1e-9)) == 5
    assert replicates_needed(2.0, exact * (1 - 1e-9)) == 6


def test_replicates_needed_out_of_all_experience() -> None:
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
def test_replicates_needed_of_two_groups_are_at_most_two_too_many(ratio: float, share: float) -> None:
    """Against Welch's own degrees of freedom; ``share`` of the variance is one group's."""
    degrees = 1 / (share**2 + (1 - share) ** 2)
    n = 2
    while float(stats.t.ppf(0.975, (n - 1) * degrees)) * ratio / math.sqrt(n) > 1:
        n += 1
    assert 0 <= replicates_needed(ratio, 1.0) - n <= 2


# What two runs have to say


def logged(seed: int = 0, config: dict[str, Any] | None = None, **values: Any) -> Logged:
    """A run with these values a replicate: accuracy=[...], cost=[...], start=[...], end=[...], r2=[...]."""
    names = {"accuracy": ACCURACY, "cost": COST, "start": START, "end": END, "r2": R2}
    found = {names[k]: Reading(10, np.array(v, dtype=np.float64)) for k, v in values.items()}
    replicates = len(next(iter(values.values())))
    node = {"seed": seed, "replicates": replicates, "cost": {"_target_": "x.C"}} | (config or {})
    return Logged("0123456789", "run", node, {}, seed, replicates, found)


def of(found: list[Comparison], quantity: str) -> Comparison:
    (comparison,) = [c for c in found if c.quantity == quantity]
    return comparison


def test_decades_per_layer_by_hand() -> None:
    """δ of three hidden layers 1e-4, 1e-2, 1e-1: three decades, two steps between; the output layer does not count."""
    start = np.array([[1e-4, 1e-3], [1e-2, 1e-3], [1e-1, 1e-3], [77.0, 77.0]])
    records = [Record(s, "delta_rms", (1, 2, 3, 4), start**power, True) for s, power in ((0, 1), (3, 0), (8, 2))]
    records.append(Record(0, "coherence", (1, 2, 3, 4), start * 5, False))
    records += [Record(s, "accuracy/test", (), np.array([[s, 2.0 * s]]), False) for s in (0, 8)]
    shuffled = tidy(records).sample(frac=1, random_state=0)
    found = readings(shuffled)
    assert list(found) == [START, END, ACCURACY]
    np.testing.assert_allclose(found[START].values, [1.5, 0], rtol=1e-12)
    np.testing.assert_allclose(found[END].values, [3, 0], rtol=1e-12)
    assert found[END].step == found[ACCURACY].step == 8
    assert found[ACCURACY].values.tolist() == [8, 16]
    assert list(readings(tidy(records[:1]))) == [START]  # measured once: no end
    assert readings(tidy([Record(0, "delta_rms", (1, 2), start[:2], True)])) == {}  # one hidden layer
    assert readings(tidy([])) == {}


def test_a_vanished_delta_is_not_finite_and_counted() -> None:
    values = np.array([[0.0, 1e-2, 1e-3], [1e-1, 1e-1, 1e-1], [1.0, 1.0, 1.0]])
    a = readings(tidy([Record(0, "delta_rms", (1, 2, 3), values, True)]))
    b = readings(tidy([Record(0, "delta_rms", (1, 2, 3), values + 1, True)]))
    node = {"seed": 0, "replicates": 3}
    (found,) = comparisons(Logged("a", "a", node, {}, 0, 3, a), Logged("b", "b", node, {}, 0, 3, b))
    assert isinstance(found.difference.n, int)
    assert (found.difference.n, found.difference.lost) == (2, 1)
    assert found.means()[0] == pytest.approx(1.5)
    assert found.means()[1] - found.means()[0] == pytest.approx(found.difference.mean)
    assert "1 of 3 in A, 33% [6%, 79%] (Wilson)" in found.notes[0]


def test_pairs_are_of_the_same_seed() -> None:
    """A has seeds 0 ... 3, B 2 ... 5: those in both are A's last and B's first two."""
    a, b = logged(0, accuracy=[9, 9, 0.5, 0.7]), logged(2, accuracy=[0.6, 0.9, 9, 9])
    assert common(a.seeds(), b.seeds()) == range(2, 4)
    (found,) = comparisons(a, b)
    assert found.difference == paired(np.array([0.5, 0.7]), np.array([0.6, 0.9]))
    assert found.means() == pytest.approx((0.6, 0.75))
    (back,) = comparisons(b, a)
    assert back.difference.mean == pytest.approx(-found.difference.mean)


def test_no_seed_in_both_is_welch() -> None:
    a, b = logged(0, accuracy=[0.1, 0.2, 0.4]), logged(3, accuracy=[0.6, 0.9])
    (found,) = comparisons(a, b)
    assert found.difference == unpaired(np.array([0.1, 0.2, 0.4]), np.array([0.6, 0.9]))
    assert "unpaired (Welch), 3 against 2 replicates" in found.sentence()


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ([0.1, 0.2, 0.3], [0.21, 0.33, 0.42], "B is higher by 0.12 [0.0952, 0.145], paired over 3 seeds"),
        ([0.21, 0.33, 0.42], [0.1, 0.2, 0.3], "B is lower by 0.12 [0.0952, 0.145], paired over 3 seeds"),
        ([0.1, 0.2], [0.2, 0.1], "no difference can be told: B − A is 0 [-1.27, 1.27], paired over 2 seeds"),
        ([0.1], [0.2], "no interval can be given, paired over 1 seed where two are needed; B is higher by 0.1"),
        ([0.1, 0.2], [0.3, 0.4], "B is higher by 0.2, paired over 2 seeds; these do not spread, so that"),
        ([0.1, 0.2], [0.1, 0.2], "B is equal to A, paired over 2 seeds; these do not spread, so that"),
        ([0.0, 0.0], [0.0, 0.0], "B is equal to A, paired over 2 seeds; these do not spread, so that"),
        ([math.nan, 1], [1, math.inf], "no difference can be given: there is nothing finite to take it of"),
        ([1e200, 2], [-1e200, 3], "no difference can be told: B − A is -1e+200 [-inf, inf], paired over 2 seeds"),
    ],
)
def test_sentences(a: list[float], b: list[float], says: str) -> None:
    """0.11, 0.13, 0.12: 0.12 ± 4.303·0.01/√3."""
    (found,) = comparisons(logged(accuracy=a), logged(accuracy=b))
    assert found.sentence().startswith(says)


def test_equal_but_for_rounding_is_equal() -> None:
    """0.3 − 0.2 and 0.4 − 0.3 differ in the last bits; an interval of 1e-16 would be nonsense."""
    (found,) = comparisons(logged(accuracy=[0.2, 0.3]), logged(accuracy=[0.3, 0.4]))
    assert 0 < found.difference.spread < 1e-15
    assert "do not spread" in found.sentence()
    assert found.interval() == "0.1"
    assert found.needed(None) == "–"


def test_how_many_replicates_it_would_take() -> None:
    a, b = logged(accuracy=[0.1, 0.2, 0.3]), logged(accuracy=[0.21, 0.33, 0.42])
    (found,) = comparisons(a, b)
    assert found.needed(None) == str(replicates_needed(0.01, 0.012)) == "6"
    assert found.needed(0.001) == str(replicates_needed(0.01, 0.001)) == "387"
    assert found.needed(1e-9) == "over 1,000,000,000"
    assert found.needed(1e-200) == "over 1,000,000,000"
    (none,) = comparisons(logged(accuracy=[0.1, 0.2]), logged(accuracy=[0.2, 0.1]))
    assert none.needed(None) == "–"  # a tenth of nothing


def test_notes_on_steps_and_costs() -> None:
    a, b = logged(cost=[1, 2]), logged(cost=[2, 4], config={"cost": {"_target_": "x.Other"}})
    longer = Logged(b.run_id, "b", b.node, {}, 0, 2, {COST: Reading(20, b.readings[COST].values)})
    (found,) = comparisons(a, longer)
    assert found.notes == ("A at step 10, B at step 20", "but these are two different cost functions")
    assert comparisons(a, logged(cost=[2, 4]))[0].notes == ()


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"share no quantity to compare: .* has test accuracy.* has test R²"):
        comparisons(logged(accuracy=[1, 2]), logged(r2=[1, 2]))


def test_config_changes_are_flat() -> None:
    old = {
        "seed": 1,
        "activation": {"_target_": "engine.activations.LeakyRelu", "alpha": 0.1},
        "layer_activations": {},
        "data": {"subset": None},
        "weights": [1] * 90,
        "tracking": {"uri": "here"},
        "name": "x",
    }
    new = {
        "seed": 1,
        "activation": {"_target_": "engine.activations.Tanh"},
        "layer_activations": {"layer_02": {"_target_": "engine.activations.Relu"}},
        "data": {"subset": 5},
        "weights": [1] * 89,
        "tracking": {"uri": "there"},
        "name": "y",
    }
    changes = config_changes(old, new)
    assert changes[:3] == [
        "activation: engine.activations.LeakyRelu → engine.activations.Tanh",
        "activation.alpha: 0.1 → absent",
        "data.subset: null → 5",
    ]
    assert changes[3].startswith("weights: [1, 1,")
    assert len(changes[3]) < 140
    assert changes[4:] == ["layer_activations.layer_02: absent → engine.activations.Relu"]
    assert config_changes(old, old | {"name": "z"}) == ["the configs are the same"]


def test_environment_changes() -> None:
    def run(seed: int, **tags: str) -> Logged:
        return Logged("r", "r", {"data": 1}, {k.replace("_", "."): v for k, v in tags.items()}, seed, 1, {})

    one = run(0, git_commit="a", data_sha256="b", python="c")
    assert environment_changes(one, one) == []
    assert environment_changes(one, run(0, data_sha256="c", python="c")) == [
        "git.commit: a → not logged",
        "data.sha256: b → c",
    ]
    assert (
        environment_changes(one, run(1, git_commit="a", data_sha256="c", python="c")) == []
    )  # other seeds, other data


# End to end

EXPLODE = ["activation@output=identity", "cost=squared_error", "optimizer.learning_rate=1e200"]
OVERRIDES = {
    "tanh": ["activation=tanh"],
    "relu": ["activation=relu", "architecture.depth=6"],
    "overlap": ["activation=tanh", "seed=3"],
    "apart": ["activation=tanh", "seed=50", "replicates=3"],
    "alone": ["activation=tanh", "replicates=1"],
    "exploded": ["activation=identity", *EXPLODE],
    "regression": ["probes=none", "data=diabetes", "cost=half_squared_error", "activation@output=identity"],
}


class Runs:
    """Small finished runs in a store of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tracking = TrackingConfig(empty(f"sqlite:///{folder / 'mlflow.db'}"), "gradvitals")
        self.store = Store.open(self.tracking)
        self._ids: dict[str, str] = {}

    def id(self, name: str) -> str:
        """Of the run with these overrides, trained when it is first asked for."""
        if name not in self._ids:
            self._ids[name] = self._train(*OVERRIDES[name])
        return self._ids[name]

    def _train(self, *overrides: str) -> str:
        base = ["experiment=smoke", "architecture.depth=4", "replicates=5", f"tracking.uri={self.tracking.uri}"]
        console = Console(file=io.StringIO(), width=200)
        assert single([*base, *overrides], None, True, console) == 0
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().partition("make reproduce RUN=")[2].split()[0]

    def artifact(self, name: str, file: str) -> Path:
        run = self.store.client.get_run(self.id(name))
        return Path(run.info.artifact_uri.removeprefix("file://")) / file

    def compared(self, a: str, b: str, precision: float | None = None) -> str:
        console = Console(file=io.StringIO(), width=200)
        assert compare(self.id(a), self.id(b), precision, self.tracking, console) == 0
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    def comparisons(self, a: str, b: str) -> list[Comparison]:
        return comparisons(load(self.store, self.id(a)), load(self.store, self.id(b)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("store"))


def test_two_runs_of_other_depth(runs: Runs) -> None:
    out = runs.compared("tanh", "relu")
    assert "architecture.depth: 4 → 6" in out
    assert "activation: engine.activations.Tanh → engine.activations.Relu" in out
    assert "seeds in both: 0 ... 4, compared pair by pair\n" in out
    for quantity in (START, END, ACCURACY, COST):
        assert out.count(quantity) == 2  # in the table, and in a sentence
    assert "paired over 5 seeds" in out
    assert "replicates for ±|B − A|/10" in out
    assert "replicates for ±0.001" in runs.compared("tanh", "relu", 0.001)


def test_means_are_those_that_the_runs_logged(runs: Runs) -> None:
    names = {
        START: "decades_lost_per_layer_delta_rms_start",
        END: "decades_lost_per_layer_delta_rms_end",
        ACCURACY: "final_accuracy_test",
        COST: "final_cost_test",
    }
    metrics = [runs.store.client.get_run(runs.id(name)).data.metrics for name in ("tanh", "relu")]
    found = runs.comparisons("tanh", "relu")
    assert len(found) == 4
    for c in found:
        expected = [m[names[c.quantity]] for m in metrics]
        assert c.means() == pytest.approx(expected, rel=1e-9)
        assert c.difference.mean == pytest.approx(expected[1] - expected[0], rel=1e-6)


def test_the_interval_is_scipys_on_the_raw_records(runs: Runs, tmp_path: Path) -> None:
    last = []
    for name in ("tanh", "relu"):
        table = pd.read_parquet(download(runs.store, runs.id(name), "records.parquet", tmp_path / name))
        rows = table[(table["probe"] == "accuracy/test") & (table["step"] == table["step"].max())]
        last.append(rows.sort_values("replicate")["value"].to_numpy())
    ends = stats.ttest_rel(last[1], last[0]).confidence_interval(0.95)
    found = of(runs.comparisons("tanh", "relu"), ACCURACY).difference
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-9)


def test_the_same_seeds_of_runs_that_overlap_are_identical(runs: Runs) -> None:
    """Replicates 3 and 4 of one are 0 and 1 of the other, bit for bit; paired by number they would differ."""
    found = runs.comparisons("tanh", "overlap")
    assert len(found) == 4
    for c in found:
        assert c.a.tolist() == c.b.tolist()
        assert len(set(c.a.tolist())) == 2
    out = runs.compared("tanh", "overlap")
    assert "seeds in both: 3 ... 4, compared pair by pair; 6 replicates with other seeds left out" in out
    assert "B is equal to A" in out


def test_runs_without_a_seed_in_both(runs: Runs) -> None:
    out = runs.compared("tanh", "apart")
    assert "no seed in both: compared as independent groups (Welch)" in out
    assert "5 against 3 replicates" in out
    assert "Welch t" in out


def test_one_replicate_has_means_but_no_interval(runs: Runs) -> None:
    out = runs.compared("relu", "alone")
    assert "seeds in both: 0, compared pair by pair; 4 replicates with other seeds left out" in out
    assert "no interval can be given, paired over 1 seed" in out
    for c in runs.comparisons("relu", "alone"):
        assert np.isfinite(c.means()).all()


def test_a_run_that_exploded(runs: Runs) -> None:
    out = runs.compared("tanh", "exploded")
    assert f"{END}: no difference can be given" in out
    assert "left out, as not finite: 5 of 5 in B, 100% [57%, 100%] (Wilson)" in out
    assert "these are two different cost functions" in out
    found = of(runs.comparisons("tanh", "exploded"), END)
    assert math.isfinite(found.means()[0])
    assert math.isnan(found.means()[1])


def test_a_classification_and_a_regression_share_the_cost_alone(runs: Runs) -> None:
    assert [c.quantity for c in runs.comparisons("tanh", "regression")] == [COST]
    assert {c.quantity for c in runs.comparisons("regression", "regression")} == {COST, R2}


def test_the_beginning_of_an_id_is_enough(runs: Runs) -> None:
    console = Console(file=io.StringIO(), width=200)
    assert compare(runs.id("tanh")[:8], runs.id("relu")[:10], None, runs.tracking, console) == 0


def one_line(runs: Runs, a: str, b: str, precision: float | None = None) -> str:
    with pytest.raises(ConfigError) as wrong:
        compare(a, b, precision, runs.tracking, Console(file=io.StringIO()))
    assert "\n" not in str(wrong.value)
    return str(wrong.value)


def test_no_such_run(runs: Runs, tmp_path: Path) -> None:
    assert "no such run" in one_line(runs, runs.id("tanh"), "0" * 32)
    assert "no such run" in one_line(runs, "short", runs.id("tanh"))
    nowhere = TrackingConfig(f"sqlite:///{tmp_path / 'none.db'}", "gradvitals")
    with pytest.raises(ConfigError, match="no store there yet"):
        compare("a" * 32, "b" * 32, None, nowhere, Console(file=io.StringIO()))
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("precision", [0.0, -1.0, math.nan, math.inf])
def test_no_precision(runs: Runs, precision: float) -> None:
    assert "precision=" in one_line(runs, runs.id("tanh"), runs.id("relu"), precision)


def test_a_run_without_records(runs: Runs) -> None:
    log = runs.store.start("bare", {})
    log.end("FINISHED")
    assert "has no artifact config.yaml" in one_line(runs, runs.id("tanh"), log.run_id)
    log.text("seed: 0\nreplicates: 5\n", "config.yaml")
    assert "has no artifact records.parquet" in one_line(runs, runs.id("tanh"), log.run_id)


def broken_bytes(path: Path) -> None:
    path.write_bytes(b"PAR1 no parquet PAR1")


def other_columns(path: Path) -> None:
    pd.DataFrame({"x": [1.0]}).to_parquet(path)


def missing_column(path: Path) -> None:
    pd.read_parquet(path).drop(columns="layer").to_parquet(path)


def other_replicates(path: Path) -> None:
    table = pd.read_parquet(path)
    table[table["replicate"] < 3].to_parquet(path)


def ragged(path: Path) -> None:
    table = pd.read_parquet(path)
    table[(table["replicate"] < 4) | (table["layer"] != 2)].to_parquet(path)


@pytest.mark.parametrize("damage", [broken_bytes, other_columns, missing_column, other_replicates, ragged])
def test_records_that_are_none(runs: Runs, damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = runs.artifact("relu", "records.parquet")
    shutil.copy(path, tmp_path / "kept")
    try:
        damage(path)
        assert "records.parquet of run" in one_line(runs, runs.id("tanh"), runs.id("relu"))
    finally:
        shutil.copy(tmp_path / "kept", path)


@pytest.mark.parametrize("text", ["seed: zero\nreplicates: 5\n", "replicates: 5\n", "[1]\n", "a: [\n", "seed: ${x}\n"])
def test_a_config_that_is_none(runs: Runs, text: str) -> None:
    path = runs.artifact("relu", "config.yaml")
    kept = path.read_text()
    try:
        path.write_text(text)
        assert "config.yaml" in one_line(runs, runs.id("relu"), runs.id("tanh"))
    finally:
        path.write_text(kept)
