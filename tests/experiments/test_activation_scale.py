"""Sizes of activations: claims from few networks, theory by quadrature, and squares in float32."""

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

pytestmark = pytest.mark.xdist_group("activation_scale")

analysis = SimpleNamespace(**load("activation_scale").measured.__globals__)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return "tracking.uri=" + empty(f"sqlite:///{tmp_path_factory.mktemp('store') / 'x.db'}")


def claims(*prefixes: str) -> dict[str, float]:
    return {c.key: c.claimed for c in load("activation_scale").description.claims if c.key.startswith(prefixes)}


@pytest.mark.thorough
def test_ten_layers_follow_the_claims(store: str) -> None:
    """Two networks of each kind: three standard deviations of one, over √2."""
    done = outcome("activation_scale", store, ("activation_scale", "activation_scale_relu"), "replicates=2", "seed=0")
    numbers, claimed = answered(done), claims("small", "fan_in", "relu")
    assert set(numbers) == set(claimed)
    for key, expected in claimed.items():
        if key.startswith(("small", "fan_in")) and key != "small_5":  # printed with one digit
            assert numbers[key] == pytest.approx(expected, rel=0.015), key
    assert numbers["small_5"] == pytest.approx(0.00053, rel=0.015)
    assert numbers["relu_1"] == pytest.approx(0.8256, rel=0.015)
    assert numbers["relu_theory"] == pytest.approx(0.8256, rel=0.15)
    assert numbers["relu_fan_in"] == pytest.approx(np.sqrt(0.5), rel=0.035)


@pytest.mark.thorough
def test_fifty_layers_follow_the_claims(store: str, tmp_path: Path) -> None:
    """Two networks: 2.5% a layer for the width and three times 1.5% of chance; .54 decades and three times .5."""
    done = outcome("activation_scale", store, ("activation_scale_extremes",), "replicates=2")
    numbers, claimed = answered(done), claims("factor", "total", "lost", "overflow", "rounding", "squares")
    assert set(numbers) == set(claimed)
    for key, expected in claims("factor").items():
        assert numbers[key] == pytest.approx(0.975 * expected, rel=0.05), key
    for key, expected in claims("total").items():
        assert numbers[key] == pytest.approx(expected - 0.54, abs=1.5), key
    assert numbers["lost_float32"] == numbers["squares_lost"] == 1
    assert numbers["lost_float64"] == 0
    assert 0 < numbers["rounding_float32"] < 1e-6
    assert numbers["overflow_layer"] == pytest.approx(45, abs=2)
    assert len(done.figure.axes) == 3
    done.figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize(("sigma", "weight_variance"), [(Tanh(), 1.0), (Tanh(), 0.05), (Relu(), 2.0), (Relu(), 1.0)])
def test_theory_equals_the_integral(sigma: Activation, weight_variance: float) -> None:
    """Compute √Var of σ(√q z) on a fine grid, with q ↦ σ_w² E σ² from x ~ N(0, 1)."""
    z = np.linspace(-9, 9, 200_001)
    density = np.exp(-np.square(z) / 2)
    density /= density.sum()
    square, expected = 1.0, []
    for _ in range(4):
        a = sigma.value(np.sqrt(weight_variance * square) * z)
        square = float(density @ np.square(a))
        expected.append(np.sqrt(square - float(density @ a) ** 2))
    np.testing.assert_allclose(analysis.theory(sigma, weight_variance, 4), expected, rtol=1e-6)


def test_theory_of_the_identity_is_exact() -> None:
    np.testing.assert_allclose(analysis.theory(Identity(), 0.25, 3), [0.5, 0.25, 0.125])


def synthetic(z: list[list[float]], delta: list[list[float]], squared: Array | None = None) -> Result:
    """Return records of two hidden layers and an output layer in two networks."""
    summary = Summary(2)
    for probe, values in (("z_mean_square", z), ("random_cotangent_delta_rms", delta)):
        summary.add(Record(0, probe, (1, 2, 3), np.array([*values, [1.0, 1.0]]), True))
    if squared is not None:
        bins, counts = exponent_counts(squared, np.arange(2)[:, None], 2)
        summary.add(Record(0, "delta_exponents", (1,), counts[None].astype(np.float64), False, bins, True))
    return Result("activation_scale_extremes", {"init.weights.std": "1.0", "dtype": "float32"}, {}, summary)


def test_delta_is_missing_after_overflow() -> None:
    result = synthetic([[4.0, 4.0], [9.0, np.nan]], [[1.0, 0.0], [2.0, 0.0]])
    np.testing.assert_array_equal(analysis.deltas(result), [[1, np.nan], [2, np.nan]])
    numbers = analysis.measured([result])
    assert float(numbers["lost_float32"].mean) == 0.5
    assert float(numbers["overflow_layer"].mean) == 2
    assert "lost_float64" not in numbers
    assert "total_1.0" not in numbers


def test_squares_lost_equal_the_zero_squares_of_numpy() -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((2, 5000)) * 10.0 ** rng.uniform(-42, 2, (2, 5000))).astype(np.float32)
    values[:, :100] = 0
    with np.errstate(under="ignore"):
        lost = (np.square(values) == 0) & (values != 0)
    expected = lost.sum(axis=1) / (values != 0).sum(axis=1)
    assert 0.3 < expected.min() < expected.max() < 0.7
    result = synthetic([[1.0, 1.0]] * 2, [[1.0, 1.0]] * 2, values)
    np.testing.assert_array_equal(analysis.squares_lost(result), expected)


def test_factor_is_the_geometric_mean_between_layers() -> None:
    values = np.array([[1.0, 2.0], [5.0, 5.0], [9.0, 18.0]])
    assert float(analysis.factor(values, 1, 3).mean) == pytest.approx(3)
    assert float(analysis.factor(values[::-1], 1, 3).mean) == pytest.approx(1 / 3)
