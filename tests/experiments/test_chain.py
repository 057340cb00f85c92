"""Chains of single neurons: exact powers, and the typical factor of random ones by simulation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.experiment import load
from experiments.runner import run_experiment

analysis = SimpleNamespace(**load("chain").measured.__globals__)


@pytest.mark.thorough
def test_shorter_chains_answer_all_claims(tmp_path: Path) -> None:
    overrides = [f"tracking.uri=sqlite:///{tmp_path / 'x.db'}", "replicates=400", "architecture.depth=6"]
    done = run_experiment(load("chain"), overrides, False, True)
    assert done.failed == 0
    numbers = {a.claim.key: float(a.measured.mean) for a in done.answers if a.measured is not None}
    assert len(numbers) == len(done.answers)
    assert numbers["factor_100"] == pytest.approx(25, abs=1e-12)
    assert numbers["factor_4"] == 1
    assert numbers["factor_1"] == numbers["largest_of_one"] == 0.25
    assert numbers["saturated_100"] < 1e-40
    assert numbers["random"] == pytest.approx(0.09951, rel=0.075)  # three standard errors of 2400 factors
    assert 0.245 < numbers["random_bound"] <= 0.25
    assert numbers["random_growing"] <= 2 / 2400
    assert len(done.figure.axes) == 2
    done.figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_random_factor_equals_a_simulation() -> None:
    """Simulate exp(E ln|w| + E ln σ'(z)) with a million chains, and E ln|w| = −(γ + ln 2)/2."""
    rng = np.random.default_rng(0)
    a, count = np.full(1_000_000, 0.5), 1_000_000
    for _ in range(5):
        a = 1 / (1 + np.exp(-rng.standard_normal(count) * a - rng.standard_normal(count)))
    weight = -(np.euler_gamma + np.log(2)) / 2
    assert np.log(np.abs(rng.standard_normal(count))).mean() == pytest.approx(weight, abs=0.005)
    assert np.exp(weight + np.log(a * (1 - a)).mean()) == pytest.approx(0.09951, rel=0.0015)


def test_factors_and_furthest_by_hand() -> None:
    delta = np.array([[8.0, 0.0], [4.0, 0.0], [1.0, 2.0]])
    np.testing.assert_array_equal(analysis.factors(delta), [[2, np.nan], [4, 0]])
    assert float(analysis.furthest(np.array([[24.0, 25.0], [25.5, 25.0]]), 25).mean) == 24
