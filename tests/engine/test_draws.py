"""Initialisers: shape, bounds and fans of each distribution, and fixed values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.networks import name, network

from engine import activations as act
from engine import initializers as init
from engine.arrays import Array
from engine.initializers import Initializer, ParameterShape
from engine.network import Network

FAN_IN, FAN_OUT = 200, 300
SHAPE = ParameterShape(1, (FAN_OUT, FAN_IN), FAN_IN, FAN_OUT)
NORMAL: list[Initializer] = [
    init.Gaussian(0.3),
    init.GaussianFanIn(2.0),
    init.GlorotNormal(),
    init.HeNormal(),
    init.LecunNormal(),
    init.Matched(act.Relu()),
    init.MeanFieldWeights(1.7),
    init.MeanFieldBiases(0.05),
]
UNIFORM: list[tuple[Initializer, float]] = [  # with the half-width, by hand
    (init.UniformFanIn(), 1 / math.sqrt(200)),
    (init.GlorotUniform(), math.sqrt(6 / 500)),
    (init.HeUniform(), math.sqrt(6 / 200)),
]


def moments(w: Array) -> tuple[float, float, float]:
    """Return mean, mean square and kurtosis."""
    square = float(np.mean(w**2))
    return float(np.mean(w)), square, float(np.mean(w**4)) / square**2


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("initialiser", NORMAL, ids=name)
def test_normal_draws_have_the_moments_of_the_distribution(initialiser: Initializer, seed: int) -> None:
    """Tolerance: five standard errors of N draws, σ/√N, σ²√(2/N) and √(24/N)."""
    w = initialiser.sample(np.random.default_rng(seed), SHAPE)
    mean, square, kurtosis = moments(w)
    claimed = initialiser.variance(FAN_IN, FAN_OUT)
    assert abs(mean) < 5 * math.sqrt(claimed / w.size)
    assert abs(square / claimed - 1) < 5 * math.sqrt(2 / w.size)
    assert abs(kurtosis - 3) < 5 * math.sqrt(24 / w.size)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("initialiser", "half_width"), UNIFORM, ids=[name(i) for i, _ in UNIFORM])
def test_uniform_draws_fill_their_interval(initialiser: Initializer, half_width: float, seed: int) -> None:
    """Draws reach ±r; the variance is r²/3 with standard error r²√(4/45/N), the kurtosis 9/5."""
    w = initialiser.sample(np.random.default_rng(seed), SHAPE)
    assert half_width * 0.999 < np.abs(w).max() <= half_width
    assert w.min() < -0.999 * half_width
    mean, square, kurtosis = moments(w)
    assert abs(mean) < 5 * half_width / math.sqrt(3 * w.size)
    assert abs(square - half_width**2 / 3) < 5 * half_width**2 * math.sqrt(4 / 45 / w.size)
    assert kurtosis == pytest.approx(1.8, abs=0.02)
    assert initialiser.variance(FAN_IN, FAN_OUT) == pytest.approx(half_width**2 / 3, rel=1e-14)


@pytest.mark.parametrize("cut", [0.5, 1.0, 2.0, 4.0, 40.0])
def test_truncated_normal_draws_stay_within_the_cut(cut: float) -> None:
    """Draws reach ±c·s but not beyond; the variance is computed by midpoint quadrature of the density."""
    initialiser = init.TruncatedNormal(0.2, cut)
    w = initialiser.sample(np.random.default_rng(0), SHAPE)
    assert np.abs(w).max() <= 0.2 * cut
    if cut <= 2:
        assert w.max() > 0.2 * cut * 0.99
        assert w.min() < -0.2 * cut * 0.99
    reach = min(cut, 12.0)
    t = (np.arange(200_000) + 0.5) / 200_000 * 2 * reach - reach
    density = np.exp(-(t**2) / 2)
    variance = 0.04 * float(np.sum(t**2 * density) / np.sum(density))
    assert initialiser.variance(1, 1) == pytest.approx(variance, rel=1e-8)
    assert abs(np.mean(w**2) / variance - 1) < 5 * math.sqrt(2 / w.size)


@pytest.mark.parametrize("shape", [(7, 7), (9, 4), (4, 9), (1, 5), (5, 1), (1, 1)])
def test_orthogonal_draws_have_the_gain_as_singular_values(shape: tuple[int, int]) -> None:
    """The mean square then equals the stated variance exactly."""
    n, m = shape
    q = init.Orthogonal(1.7).sample(np.random.default_rng(0), ParameterShape(1, shape, m, n))
    assert q.shape == shape
    assert np.abs(np.linalg.svd(q, compute_uv=False) - 1.7).max() < 1e-14
    assert np.mean(q**2) == pytest.approx(init.Orthogonal(1.7).variance(m, n), rel=1e-14)


def test_orthogonal_draws_are_uniform() -> None:
    """E q_ij = 0 and E (tr Q)² = 1; without the signs of Mezzadri, 2007, the diagonal has a preferred sign."""
    rng, shape = np.random.default_rng(0), ParameterShape(1, (3, 3), 3, 3)
    draws = np.array([init.Orthogonal(1.0).sample(rng, shape) for _ in range(4000)])
    assert np.abs(draws.mean(axis=0)).max() < 5 * math.sqrt(1 / 3 / 4000)
    traces = np.trace(draws, axis1=1, axis2=2)
    assert abs(float(np.mean(traces**2)) - 1) < 5 * math.sqrt(2 / 4000)  # E (tr Q)⁴ = 3 in three dimensions
    determinants = np.linalg.det(draws)
    assert abs(float(np.mean(determinants))) < 5 / math.sqrt(4000)  # as many reflections as rotations


def test_initialize_passes_the_fans_of_each_layer() -> None:
    """fan_in counts the layer below and fan_out the layer, for biases too; weights precede biases."""
    calls: list[ParameterShape] = []

    class Recording(init.Constant):
        def sample(self, rng: np.random.Generator, parameter: ParameterShape) -> Array:
            calls.append(parameter)
            return super().sample(rng, parameter)

    net = Network.mlp([5, 4, 3], [act.Tanh()] * 2)
    init.initialize(net, Recording(1.0), Recording(2.0), [np.random.default_rng(0)])
    assert calls == [
        ParameterShape(1, (4, 5), 5, 4),
        ParameterShape(1, (4, 1), 5, 4),
        ParameterShape(2, (3, 4), 4, 3),
        ParameterShape(2, (3, 1), 4, 3),
    ]
    assert net.theta.tolist() == [1.0] * 32 + [2.0] * 7


def test_given_values_reach_every_member_and_other_shapes_are_refused() -> None:
    net = Network.mlp([2, 2, 1], [act.Sigmoid()] * 2, (3,))
    weights, biases = init.Given([[[1, 2], [3, 4]], [[5, 6]]]), init.Given([[[7], [8]], [[9]]])
    init.initialize(net, weights, biases, [np.random.default_rng(k) for k in range(3)])
    assert net.theta.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9]] * 3
    assert math.isnan(weights.variance(2, 2))
    with pytest.raises(ValueError, match=r"values\[0\]: shape \(2, 2\); layer 1 needs \(3, 2\)"):
        init.initialize(network([2, 3, 1], [act.Tanh()] * 2), weights, biases, [np.random.default_rng(0)])
    with pytest.raises(ValueError, match="values: holds 2 matrices, the network has a layer 3"):
        init.initialize(
            Network.mlp([2, 2, 1, 1], [act.Tanh()] * 3), weights, init.Constant(0.0), [np.random.default_rng(0)]
        )


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize(
    "make",
    [
        init.Gaussian,
        init.GaussianFanIn,
        init.MeanFieldWeights,
        init.MeanFieldBiases,
        init.Orthogonal,
        lambda v: init.TruncatedNormal(v, 2.0),
    ],
    ids=["Gaussian", "GaussianFanIn", "MeanFieldWeights", "MeanFieldBiases", "Orthogonal", "TruncatedNormal"],
)
def test_invalid_scales_are_refused(make: type, value: float) -> None:
    with pytest.raises(ValueError, match=r"\w+=.*must be"):
        make(value)
