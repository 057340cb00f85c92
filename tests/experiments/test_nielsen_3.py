"""One neuron: the experiment against a loop over floats, and the two formulas of the analysis."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.experiment import load
from experiments.runner import run_experiment

analysis = SimpleNamespace(**load("nielsen_3").measured.__globals__)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def by_hand(w: float, b: float, rate: float, quadratic: bool) -> tuple[list[float], list[float]]:
    """Return outputs and speeds over 300 steps."""
    outputs, speeds = [], []
    for _ in range(301):
        a = sigmoid(w + b)
        outputs.append(a)
        speeds.append(a * a * (1 - a) if quadratic else a)
        w, b = w - rate * speeds[-1], b - rate * speeds[-1]
    return outputs, speeds


@pytest.mark.thorough
def test_experiment_equals_the_loop(tmp_path: Path) -> None:
    uri = f"tracking.uri=sqlite:///{tmp_path / 'x.db'}"
    done = run_experiment(load("nielsen_3"), [uri], False, True)
    assert done.failed == 0
    assert all(a.within for a in done.answers)
    numbers = {a.claim.key: float(a.measured.mean) for a in done.answers if a.measured is not None}
    assert len(numbers) == len(done.answers)
    for name, start in (("good", (0.6, 0.9)), ("bad", (2.0, 2.0))):
        outputs, speeds = by_hand(*start, 0.15, True)
        assert numbers[f"quadratic_{name}_start"] == pytest.approx(outputs[0], rel=1e-12)
        assert numbers[f"quadratic_{name}_end"] == pytest.approx(outputs[-1], rel=1e-10)
        assert numbers[f"quadratic_{name}_fastest"] == speeds.index(max(speeds))
        outputs, speeds = by_hand(*start, 0.005, False)
        assert numbers[f"entropy_{name}_end"] == pytest.approx(outputs[-1], rel=1e-10)
    assert len(done.figure.axes) == 3
    done.figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize(("start", "end"), [(sigmoid(1.5), 2 / 3), (sigmoid(4.0), 2 / 3), (0.9, 0.2)])
def test_flow_time_is_the_limit_of_small_steps(start: float, end: float) -> None:
    """Compare with a loop of steps that are a hundred times smaller."""
    z, steps, rate = math.log(start / (1 - start)), 0, 0.0015
    while (a := sigmoid(z)) > end:
        z -= 2 * rate * a * a * (1 - a)
        steps += 1
    assert steps / 100 == pytest.approx(analysis.flow_time(start, end, 0.15), abs=0.05)


def test_widths_equal_closed_form_and_grid() -> None:
    """Nielsen's closed form is (2/|w|) ln(|w| (1 + √(1 − 4/|w|))/2 − 1)."""
    weights = np.array([4.5, 5.0, 6.9, 10.0, 40.0])
    closed = 2 / weights * np.log(weights * (1 + np.sqrt(1 - 4 / weights)) / 2 - 1)
    np.testing.assert_allclose(analysis.widths(weights), closed, rtol=1e-12)
    grid = np.linspace(-1, 1, 200_001)
    for w, width in zip(weights.tolist(), closed.tolist(), strict=True):
        a = 1 / (1 + np.exp(-w * (grid + 0.1)))  # a bias of w/10 only moves the window
        assert np.count_nonzero(w * a * (1 - a) >= 1) * 1e-5 == pytest.approx(width, abs=3e-5)
