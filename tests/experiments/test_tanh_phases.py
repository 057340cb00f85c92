"""Three phases of tanh: slopes and the boundary by hand, and a smaller sweep."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.published import answered, outcome

from engine.activations import Tanh
from engine.theory import critical_weight_variance
from experiments.experiment import load
from experiments.runner import Result
from pipeline.analysis.summary import Summary
from pipeline.training.records import Record

analysis = SimpleNamespace(**load("tanh_phases").measured.__globals__)
CHI = {"1.0": 0.7, "1.76": 1.0, "4.0": 1.4}


def synthetic(sweep: str, chi: float, weight_variance: str, bias_variance: str = "0.05") -> Result:
    """δ² changes by χ a layer in two networks, except in the first layers and the last two."""
    layers = np.arange(24)
    delta = chi ** (-layers / 2)
    delta[:8], delta[-2:] = 1e3, 1e-3
    summary = Summary(23)
    values = delta[:, None] * np.array([1.0, 7.0])
    summary.add(Record(0, "random_cotangent_delta_rms", tuple((layers + 1).tolist()), values, True))
    swept = {"init.weights.sigma_w2": weight_variance, "init.biases.sigma_b2": bias_variance}
    return Result(sweep, swept, {}, summary)


def phases() -> list[Result]:
    return [synthetic("tanh_phases", chi, variance) for variance, chi in CHI.items()]


def test_chi_is_the_slope_in_the_middle_of_the_network() -> None:
    numbers = analysis.measured(phases())
    assert set(numbers) == {c.key for c in load("tanh_phases").claims(slow=False)}
    for variance, chi in CHI.items():
        assert float(numbers[f"chi_{variance}"].mean) == pytest.approx(chi)


def test_boundary_is_compared_with_the_critical_variance() -> None:
    """ln χ is σ_w² − (critical σ_w² times 1.1), so the measured boundary is 1.1 times the theoretical one."""
    critical = {b: critical_weight_variance(Tanh(), b) for b in (0.05, 0.3)}
    grid = [
        synthetic("tanh_phases_grid", math.exp(w - 1.1 * critical[b]), str(w), str(b))
        for b in critical
        for w in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
    ]
    numbers = analysis.measured([*phases(), *grid])
    assert set(numbers) == {c.key for c in load("tanh_phases").claims(slow=True)}
    assert float(numbers["boundary"].mean) == pytest.approx(1.1)
    weight_variances, bias_variances, logs = analysis.diagram(grid)
    assert weight_variances.tolist() == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert bias_variances.tolist() == [0.05, 0.3]
    assert logs.shape == (2, 6)


@pytest.mark.thorough
def test_diagram_has_a_colour_scale() -> None:
    figure = analysis.draw_diagram(np.array([0.5, 1.0, 3.0]), np.array([0.0, 0.5]), np.array([[-1, 0, 1], [-2, -1, 1]]))
    assert len(figure.axes) == 2


@pytest.mark.parametrize(
    ("x", "y", "crossing"), [([0.0, 2.0, 3.0], [-1.0, 1.0, 9.0], 1.0), ([1.0, 2.0], [-3, 1], 1.75)]
)
def test_zero_crossing_is_linear_between_points(x: list[float], y: list[float], crossing: float) -> None:
    assert analysis.zero_crossing(np.array(x), np.array(y)) == pytest.approx(crossing)


@pytest.mark.thorough
def test_smaller_networks_follow_theory(tmp_path: Path) -> None:
    """At a quarter of the width and half the depth the slopes scatter more: five percent instead of two."""
    store = f"tracking.uri=sqlite:///{tmp_path / 'x.db'}"
    smaller = ("architecture.width=80", "architecture.depth=22", "data.source.examples=300", "probes=none")
    done = outcome("tanh_phases", store, ["tanh_phases"], *smaller)
    claimed = {c.key: c.claimed for c in load("tanh_phases").description.claims}
    numbers = answered(done)
    assert set(numbers) == set(claimed)
    for key, chi in claimed.items():
        assert numbers[key] == pytest.approx(chi, rel=0.05), key
    (result,) = (r for r in done.results if r.swept["init.weights.sigma_w2"] == "1.0")
    measured = result.values("random_cotangent_delta_rms").mean(axis=1)
    np.testing.assert_allclose(analysis.expected_delta(result, measured[-1]), measured, rtol=0.4)
    assert list(analysis.pages(done.results, "command")) == ["experiments/tanh_phases/slopes.png"]
