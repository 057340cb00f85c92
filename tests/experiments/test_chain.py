"""Chains of single neurons: exact powers, and the typical factor of random ones by simulation."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from support.stores import empty

from experiments.runner import load, run_experiment

analysis = SimpleNamespace(**load("chain").measured.__globals__)


def test_the_experiment(tmp_path: Path) -> None:
    overrides = ["tracking.uri=" + empty(f"sqlite:///{tmp_path / 'x.db'}"), "replicates=400", "architecture.depth=6"]
    done = run_experiment(load("chain"), overrides, False, True, Console(file=io.StringIO(), width=200))
    assert done.failed == 0
    found = {a.claim.key: float(a.measured.mean) for a in done.answers if a.measured is not None}
    assert len(found) == len(done.answers)
    assert found["factor_100"] == pytest.approx(25, abs=1e-12)
    assert found["factor_4"] == 1
    assert found["factor_1"] == found["largest_of_one"] == 0.25
    assert found["saturated_100"] < 1e-40
    assert found["random"] == pytest.approx(0.09951, rel=0.075)  # three standard errors of 2400 factors
    assert 0.245 < found["random_bound"] <= 0.25
    assert found["random_growing"] <= 2 / 2400
    assert len(done.figure.axes) == 2
    done.figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_the_typical_factor_of_a_random_chain() -> None:
    """exp(E ln|w| + E ln σ'(z)) of a million chains, and E ln|w| = −(γ + ln 2)/2."""
    rng = np.random.default_rng(0)
    a, count = np.full(1_000_000, 0.5), 1_000_000
    for _ in range(5):
        a = 1 / (1 + np.exp(-rng.standard_normal(count) * a - rng.standard_normal(count)))
    weight = -(np.euler_gamma + np.log(2)) / 2
    assert np.log(np.abs(rng.standard_normal(count))).mean() == pytest.approx(weight, abs=0.005)
    assert np.exp(weight + np.log(a * (1 - a)).mean()) == pytest.approx(0.09951, rel=0.0015)


def test_factors_and_the_furthest_of_them() -> None:
    delta = np.array([[8.0, 0.0], [4.0, 0.0], [1.0, 2.0]])
    np.testing.assert_array_equal(analysis.factors(delta), [[2, np.nan], [4, 0]])
    assert float(analysis.furthest(np.array([[24.0, 25.0], [25.5, 25.0]]), 25).mean) == 24
