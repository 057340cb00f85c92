"""Sizes of activations: claims from few networks, theory by quadrature, and what float32 makes of squares."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.published import answered, outcome
from support.stores import empty

from engine.activations import Activation, Identity, Relu, Tanh
from engine.arrays import Array
from engine.exponents import exponent_counts
from experiments.experiment import load
from experiments.runner import Result
from pipeline.analysis.summary import Summary
from pipeline.training.records import Record

analysis = SimpleNamespace(**load("activation_scale").measured.__globals__)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return "tracking.uri=" + empty(f"sqlite:///{tmp_path_factory.mktemp('store') / 'x.db'}")


def claims(*prefixes: str) -> dict[str, float]:
    return {c.key: c.claimed for c in load("activation_scale").description.claims if c.key.startswith(prefixes)}


@pytest.mark.thorough
def test_ten_layers(store: str) -> None:
    """Two networks of each kind: three times what one scatters by, over √2."""
    done = outcome("activation_scale", store, ("activation_scale", "activation_scale_relu"), "replicates=2", "seed=0")
    found, claimed = answered(done), claims("small", "fan_in", "relu")
    assert set(found) == set(claimed)
    for key, expected in claimed.items():
        if key.startswith(("small", "fan_in")) and key != "small_5":  # printed with one digit
            assert found[key] == pytest.approx(expected, rel=0.015), key
    assert found["small_5"] == pytest.approx(0.00053, rel=0.015)
    assert found["relu_1"] == pytest.approx(0.8256, rel=0.015)
    assert found["relu_theory"] == pytest.approx(0.8256, rel=0.15)
    assert found["relu_fan_in"] == pytest.approx(np.sqrt(0.5), rel=0.035)


@pytest.mark.thorough
def test_fifty_layers(store: str, tmp_path: Path) -> None:
    """Two networks: 2.5% a layer for the width, and three times 1.5% of chance; half a decade, and three times .5."""
    done = outcome("activation_scale", store, ("activation_scale_extremes",), "replicates=2")
    found, claimed = answered(done), claims("factor", "total", "lost", "overflow", "rounding", "squares")
    assert set(found) == set(claimed)
    for key, expected in claims("factor").items():
        assert found[key] == pytest.approx(0.975 * expected, rel=0.05), key
    for key, expected in claims("total").items():
        assert found[key] == pytest.approx(expected - 0.54, abs=1.5), key
    assert found["lost_float32"] == found["squares_lost"] == 1
    assert found["lost_float64"] == 0
    assert 0 < found["rounding_float32"] < 1e-6
    assert found["overflow_layer"] == pytest.approx(45, abs=2)
    assert len(done.figure.axes) == 3
    done.figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize(("sigma", "weight_variance"), [(Tanh(), 1.0), (Tanh(), 0.05), (Relu(), 2.0), (Relu(), 1.0)])
def test_theory_is_the_integral(sigma: Activation, weight_variance: float) -> None:
    """√Var of σ(√q z) on a fine grid, q ↦ σ_w² E σ², from x ~ N(0, 1)."""
    z = np.linspace(-9, 9, 200_001)
    density = np.exp(-np.square(z) / 2)
    density /= density.sum()
    square, expected = 1.0, []
    for _ in range(4):
        a = sigma.value(np.sqrt(weight_variance * square) * z)
        square = float(density @ np.square(a))
        expected.append(np.sqrt(square - float(density @ a) ** 2))
    np.testing.assert_allclose(analysis.theory(sigma, weight_variance, 4), expected, rtol=1e-6)


def test_theory_of_a_straight_line() -> None:
    np.testing.assert_allclose(analysis.theory(Identity(), 0.25, 3), [0.5, 0.25, 0.125])


def made_up(z: list[list[float]], delta: list[list[float]], squared: Array | None = None) -> Result:
    """Two hidden layers and an output layer, two networks."""
    summary = Summary(2)
    for probe, values in (("z_mean_square", z), ("random_cotangent_delta_rms", delta)):
        summary.add(Record(0, probe, (1, 2, 3), np.array([*values, [1.0, 1.0]]), True))
    if squared is not None:
        bins, counts = exponent_counts(squared, np.arange(2)[:, None], 2)
        summary.add(Record(0, "delta_exponents", (1,), counts[None].astype(np.float64), False, bins, True))
    return Result("activation_scale_extremes", {"init.weights.std": "1.0", "dtype": "float32"}, {}, summary)


def test_a_network_that_overflowed_has_no_delta() -> None:
    result = made_up([[4.0, 4.0], [9.0, np.nan]], [[1.0, 0.0], [2.0, 0.0]])
    np.testing.assert_array_equal(analysis.deltas(result), [[1, np.nan], [2, np.nan]])
    found = analysis.measured([result])
    assert float(found["lost_float32"].mean) == 0.5
    assert float(found["overflow_layer"].mean) == 2
    assert "lost_float64" not in found
    assert "total_1.0" not in found


def test_squares_lost_are_those_that_numpy_loses() -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((2, 5000)) * 10.0 ** rng.uniform(-42, 2, (2, 5000))).astype(np.float32)
    values[:, :100] = 0
    with np.errstate(under="ignore"):
        lost = (np.square(values) == 0) & (values != 0)
    expected = lost.sum(axis=1) / (values != 0).sum(axis=1)
    assert 0.3 < expected.min() < expected.max() < 0.7
    result = made_up([[1.0, 1.0]] * 2, [[1.0, 1.0]] * 2, values)
    np.testing.assert_array_equal(analysis.squares_lost(result), expected)


def test_factors_run_from_layer_to_layer() -> None:
    values = np.array([[1.0, 2.0], [5.0, 5.0], [9.0, 18.0]])
    assert float(analysis.factor(values, 1, 3).mean) == pytest.approx(3)
    assert float(analysis.factor(values[::-1], 1, 3).mean) == pytest.approx(1 / 3)
