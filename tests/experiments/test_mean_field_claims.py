"""Depth scales of tanh nets: a smaller sweep against theory, and slopes and crossings by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.experiment import Experiment, load
from experiments.runner import Result, run_experiment
from pipeline.analysis.summary import Summary
from pipeline.training.records import Record

pytestmark = pytest.mark.xdist_group("mean_field_claims")

CHI = {"1.0": 0.6, "1.5": 0.9, "1.76": 0.95, "2.5": 1.1, "4.0": 1.3}


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return load("mean_field")


@pytest.mark.thorough
def test_smaller_sweep_follows_theory(experiment: Experiment, tmp_path: Path) -> None:
    """At half the width and two thirds of the depth slopes scatter about twice as much: five percent instead of two."""
    overrides = [f"tracking.uri=sqlite:///{tmp_path / 'x.db'}", "architecture.width=150", "architecture.depth=28"]
    done = run_experiment(experiment, overrides, False, True)
    assert done.failed == 0
    for answer in done.answers:
        assert answer.measured is not None, answer.claim.key
        if answer.claim.key.startswith("chi"):
            assert float(answer.measured.mean) == pytest.approx(answer.claim.claimed, rel=0.05)
        elif answer.claim.key != "critical_measured":
            assert answer.within, answer.claim.key
    assert len(done.figure.axes) == 2


def synthetic(sigma_w2: str, chi: float) -> Result:
    """δ² changes by χ a layer in two networks, except in the first 8 layers and the output layer."""
    layers = np.arange(1, 32)
    delta = chi ** (-layers / 2)
    delta[:8], delta[-1] = 1e3, 1e-3
    summary = Summary(30)
    values = delta[:, None] * np.array([1.0, 7.0])
    summary.add(Record(0, "random_cotangent_delta_rms", tuple(layers.tolist()), values, True))
    return Result("mean_field", {"init.weights.sigma_w2": sigma_w2}, {}, summary)


def test_chi_and_crossing_by_hand(experiment: Experiment) -> None:
    numbers = experiment.measured([synthetic(*pair) for pair in CHI.items()])
    for sigma_w2, chi in CHI.items():
        assert float(numbers[f"chi_{sigma_w2}"].mean) == pytest.approx(chi)
    share = np.log(1 / 0.95) / np.log(1.1 / 0.95)
    assert float(numbers["critical_measured"].mean) == pytest.approx(1.76 + share * 0.74)
    assert not any(key.startswith("learns") for key in numbers), "the slow sweep was not run"


@pytest.mark.parametrize(("accuracies", "share"), [([0.1, 0.2, 0.5], 0.0), ([0.1, 0.51, 0.9], 2 / 3)])
def test_network_learns_if_more_than_half_is_right(
    experiment: Experiment, accuracies: list[float], share: float
) -> None:
    summary = Summary(80)
    summary.add(Record(0, "accuracy/train", (), np.full((1, 3), 0.9), False))
    summary.add(Record(7, "accuracy/train", (), np.array([accuracies]), False))
    swept = {"init.weights.sigma_w2": "1.0", "architecture.depth": "80"}
    trained = Result("mean_field_training", swept, {}, summary)
    numbers = experiment.measured([*(synthetic(*pair) for pair in CHI.items()), trained])
    assert float(numbers["learns_1.0_80"].mean) == pytest.approx(share)
