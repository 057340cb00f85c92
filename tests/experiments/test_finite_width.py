"""Log-normal gradients: fewer networks, the exact moments of a layer, and moments by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from engine.arrays import Array
from experiments.experiment import Experiment, load
from experiments.runner import Result, run_experiment
from pipeline.analysis.summary import Summary
from pipeline.training.records import Record

pytestmark = pytest.mark.xdist_group("finite_width")


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return load("finite_width")


@pytest.mark.thorough
def test_fewer_networks_follow_the_claims(experiment: Experiment, tmp_path: Path) -> None:
    """The tolerance is four standard errors of 200 networks."""
    store = tmp_path / "x.db"
    overrides = [f"tracking.uri=sqlite:///{store}", "replicates=200", "seed=0"]
    done = run_experiment(experiment, overrides, False, True)
    assert done.failed == 0
    answers = {a.claim.key: a for a in done.answers}
    assert set(answers) == {c.key for c in experiment.claims(slow=True)}
    for kind in ("relu_20", "relu_50", "linear_20", "linear_50"):
        mean, variance = answers[f"mean_{kind}"], answers[f"variance_{kind}"]
        assert mean.measured is not None
        assert variance.measured is not None
        expected = variance.claim.claimed
        assert abs(float(mean.measured.mean) - mean.claim.claimed) < 4 * math.sqrt(expected / 200)
        assert abs(float(variance.measured.mean) - expected) < 4 * expected * math.sqrt(2 / 200)
    assert len(done.figure.axes) == 2


@pytest.mark.parametrize(
    ("activation", "width", "mean", "variance"),
    [("relu", 20, -0.1372, 0.3118), ("relu", 50, -0.0517, 0.1082), ("relu", 100, -0.0254, 0.0519)],
)
def test_moments_of_a_rectifier_layer(
    experiment: Experiment, activation: str, width: int, mean: float, variance: float
) -> None:
    module = experiment.measured.__globals__
    assert module["one_layer"](activation, width) == pytest.approx((mean, variance), abs=6e-5)


@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_moments_equal_those_of_drawn_layers(experiment: Experiment, activation: str) -> None:
    """Draw ‖D Wᵀ u‖² for ‖u‖ = 1, with W of variance 2/n and random D for ReLU, or 1/n and D = 1."""
    n, draws, rng = 8, 200_000, np.random.default_rng(0)
    kept = rng.random((draws, n)) < 0.5 if activation == "relu" else np.ones((draws, n), bool)
    kept = kept[kept.any(axis=1)]
    z = rng.standard_normal(kept.shape) * math.sqrt((2 if activation == "relu" else 1) / n)
    logs = np.log((np.square(z) * kept).sum(axis=1))
    mean, variance = experiment.measured.__globals__["one_layer"](activation, n)
    assert logs.mean() == pytest.approx(mean, abs=4 * math.sqrt(variance / draws))
    assert logs.var() == pytest.approx(variance, rel=0.02)


def synthetic(activation: str, width: str, delta: Array) -> Result:
    summary = Summary(len(delta) - 1)
    summary.add(Record(0, "random_cotangent_delta_rms", tuple(range(1, len(delta) + 1)), delta, True))
    return Result("finite_width", {"activation": activation, "architecture.width": width, "seed": "0"}, {}, summary)


def test_moments_by_hand(experiment: Experiment) -> None:
    """δ^1/δ^L is e^−1, e^0, e^1, e^−1 in four networks. The logarithms of its squares are −2, 0, 2, −2."""
    delta = np.array([np.exp([-1.0, 0.0, 1.0, -1.0]), [5.0, 5.0, 5.0, 5.0], [1.0, 1.0, 1.0, 1.0]])
    results = [synthetic(a, w, delta) for a in ("relu", "identity") for w in ("20", "50")]
    numbers = experiment.measured(results)
    assert float(numbers["mean_relu_50"].mean) == pytest.approx(-0.5)
    assert float(numbers["variance_linear_20"].mean) == pytest.approx(11 / 3)  # (2.25 + .25 + 6.25 + 2.25)/3
    assert float(numbers["variance_linear_20"].high) == pytest.approx(11 / 3 * (1 + 1.96 * math.sqrt(2 / 4)))
    assert float(numbers["shrunk"].mean) == 0.5
