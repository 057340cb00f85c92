"""Speed of learning by layer: the numbers of claims.yaml from few networks, and the analysis by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.configs import config
from support.idx_files import write_idx
from support.published import answered, outcome
from support.stores import empty

from engine.arrays import Array
from experiments.experiment import load
from experiments.runner import Result, run_experiment
from pipeline.analysis.summary import Summary
from pipeline.training.records import Record

pytestmark = pytest.mark.xdist_group("nielsen_5")

analysis = SimpleNamespace(**load("nielsen_5").measured.__globals__)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return "tracking.uri=" + empty(f"sqlite:///{tmp_path_factory.mktemp('store') / 'x.db'}")


@pytest.mark.thorough
def test_sixty_networks_follow_the_claims_before_training(store: str, tmp_path: Path) -> None:
    done = outcome("nielsen_5", store, ["nielsen_5"], "replicates=60")
    numbers = answered(done)
    expected = {c.key for c in load("nielsen_5").description.claims if not c.key.startswith("slower")}
    assert set(numbers) == expected
    for key in ("decay_3_2", "decay_4_2", "decay_4_3"):
        assert numbers[key] == pytest.approx(0.2048, rel=0.07), key  # three standard errors of 60 networks
    for key in ("decay_2_1", "decay_4_1"):
        assert numbers[key] == pytest.approx(1, rel=0.07), key
    assert all(a.within for a in done.answers if a.claim.key.startswith("speed"))
    done.figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.thorough
def test_sweep_runs_on_a_folder_of_idx_files(store: str, tmp_path: Path) -> None:
    """The folder has 1,100 random images of 6 × 6 pixels in MNIST's format."""
    write_idx(tmp_path, np.random.default_rng(0), train=1100, test=50, side=6)
    original = ("data=mnist", f"data.source.folder={tmp_path}", "data.standardise=false", "dtype=float32")
    done = outcome("nielsen_5", store, ["nielsen_5"], *original, "replicates=4")
    numbers = answered(done)
    assert all(np.isfinite(value) for key, value in numbers.items() if "speed" in key or "ratio" in key)
    assert {r for r in numbers if np.isfinite(numbers[r])}


@pytest.mark.thorough
def test_gap_narrows_in_training(store: str) -> None:
    numbers = answered(outcome("nielsen_5", store, ["nielsen_5_training"], "replicates=4", "epochs=100"))
    assert set(numbers) == {"slower_0", "slower_50", "slower_100"}
    assert 80 < numbers["slower_0"] < 200
    assert numbers["slower_100"] < numbers["slower_0"] / 2


@pytest.mark.thorough
def test_slow_claims_are_answered(store: str) -> None:
    whole = load("nielsen_5")
    description = whole.description.model_copy(update={"sweeps": (), "slow": ("nielsen_5_depth",), "claims": ()})
    quick = [store, "replicates=1", "epochs=1"]
    done = run_experiment(replace(whole, description=description), quick, True, True)
    assert set(answered(done)) == {c.key for c in whole.description.slow_claims}


def test_weight_decay_equals_the_book() -> None:
    """The book shrinks weights by 1 − ηλ/n a step, with η = .1, λ = 5, n = 1000."""
    optimizer = config("experiment=nielsen_5_training").optimizer
    assert 1 - optimizer.learning_rate * optimizer.weight_decay == 1 - 0.1 * 5 / 1000


def test_decay_by_hand() -> None:
    below, above = np.array([1.0, 2.0, 2.0]), np.array([4.0, 4.0, 2.0])
    e = analysis.decay(below, above)
    assert float(e.mean) == pytest.approx(0.5)  # √(9/36)
    pseudo = 3 * 0.5 - 2 * np.sqrt([8 / 20, 5 / 20, 5 / 32])
    half = 4.302653 * pseudo.std(ddof=1) / np.sqrt(3)  # Student's t, two degrees of freedom
    np.testing.assert_allclose([e.low, e.high], [pseudo.mean() - half, pseudo.mean() + half], rtol=1e-6)
    assert np.isnan(analysis.decay(below[:1], above[:1]).low)


@pytest.mark.parametrize(("q", "c"), [(1.302, 1.0), (1.95, 0.556), (1.2, 0.94)])
def test_first_factor_equals_quadrature(q: float, c: float) -> None:
    """Compare with Gauss-Hermite quadrature in the plane."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights /= weights.sum()

    def slope(z: Array) -> Array:
        a = 1 / (1 + np.exp(-z))
        return np.asarray(a * (1 - a))

    second = c * nodes[:, None] + np.sqrt(1 - c * c) * nodes
    expected = (weights[:, None] * weights * slope(np.sqrt(q) * nodes)[:, None] * slope(np.sqrt(q) * second)).sum()
    summary = Summary(1)
    for probe, value in (("z_mean_square", q), ("z_cosine", c)):
        summary.add(Record(0, probe, (1, 2), np.array([[value], [9.0]]), False))
    factor = analysis.first_factor(Result("nielsen_5", {}, {}, summary))
    assert factor == pytest.approx(np.sqrt(expected), rel=1e-6)
    if c == 1.0:
        assert factor == pytest.approx(0.2048, abs=5e-5)
