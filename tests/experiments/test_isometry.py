"""Spectra of Jacobians: narrower networks, and spectra by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from engine.activations import Tanh
from engine.arrays import Array
from engine.theory import MeanField, moments
from experiments.experiment import Experiment, load
from experiments.runner import Result, run_experiment
from pipeline.analysis.summary import Summary
from pipeline.config.compose import compose_run
from pipeline.training.records import Record

pytestmark = pytest.mark.xdist_group("isometry")

KINDS = ("relu_gaussian", "relu_orthogonal", "tanh_orthogonal", "linear_orthogonal")


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return load("isometry")


@pytest.mark.thorough
def test_narrower_networks_follow_theory(experiment: Experiment, tmp_path: Path) -> None:
    """Eight layers of 128, so that L/n = 1/16 again: Gaussian 8 + 9, orthogonal 8, tanh 8/32 of 0.054, linear 0."""
    overrides = [f"tracking.uri=sqlite:///{tmp_path / 'x.db'}", "replicates=8", "architecture.depth=8"]
    overrides += [f"{key}=128" for key in ("architecture.width", "architecture.outputs", "data.source.inputs")]
    done = run_experiment(experiment, [*overrides, "data.source.classes=128"], False, True)
    assert done.failed == 0
    numbers = {a.claim.key: a.measured for a in done.answers}
    assert set(numbers) == {c.key for c in experiment.claims(slow=False)}
    expected = {
        "relu_gaussian": 17.0,
        "relu_orthogonal": 8.0,
        "tanh_orthogonal": 0.054 / 4,
        "mean_square_tanh": 1.03056,
    }
    for key, value in expected.items():
        measured = numbers[key]
        assert measured is not None
        assert float(measured.mean) == pytest.approx(value, rel=0.2), key
    rounding = numbers["linear_orthogonal"]
    assert rounding is not None
    assert float(rounding.mean) < 1e-13
    assert len(done.figure.axes) == 2


def test_tanh_nets_are_critical_at_one_sixty_fourth() -> None:
    """Compare the gain, the bias and the inputs of the sweep with the theory of one layer."""
    raw_config = compose_run(["experiment=isometry_tanh_orthogonal"])
    q = 1 / 64
    square, slope, fourth = (float(m.value) for m in moments(Tanh(), q))
    gain, bias = raw_config["init"]["weights"]["gain"], raw_config["init"]["biases"]["value"]
    assert gain == pytest.approx(1 / math.sqrt(slope), rel=1e-9)
    assert gain**2 * square + bias**2 == pytest.approx(q, rel=1e-9)
    assert raw_config["data"]["source"]["variance"] == pytest.approx(square, rel=1e-9)
    assert MeanField(Tanh(), gain**2, bias**2).chi_star() == pytest.approx(1, abs=1e-6)
    assert 32 * (fourth / slope**2 - 1) == pytest.approx(0.054, abs=1e-4)


def synthetic(kind: str, singular: Array) -> Result:
    summary = Summary(1)
    bins = tuple(range(singular.shape[-1]))
    summary.add(Record(0, "input_output_jacobian_spectrum", (), singular[None], True, bins))
    return Result(f"isometry_{kind}", {}, {}, summary)


def test_spread_by_hand(experiment: Experiment) -> None:
    """s² = 3, 1 has mean 2 and variance 1; s² = 4, 0 has mean 2 and variance 4. The spreads are 1/4 and 1."""
    singular = np.sqrt(np.array([[3.0, 1.0], [4.0, 0.0]]))
    numbers = experiment.measured([synthetic(kind, singular) for kind in KINDS])
    assert float(numbers["relu_gaussian"].mean) == pytest.approx(5 / 8)
    assert float(numbers["mean_square_tanh"].mean) == pytest.approx(2)
    assert float(numbers["linear_orthogonal"].mean) == pytest.approx((math.sqrt(3) - 1 + 1) / 2)
    assert not any(key.startswith("accuracy") for key in numbers), "the slow sweeps were not run"
