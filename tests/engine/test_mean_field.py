"""Mean-field theory as an oracle: the square of delta_rms changes by χ per layer (Schoenholz et al., 2017)."""

from __future__ import annotations

import numpy as np
import pytest

from engine import activations as act
from engine.arrays import Array, norm
from engine.costs import Cost
from engine.initializers import Constant, HeNormal, MeanFieldBiases, MeanFieldWeights, initialize
from engine.network import Network

PUBLISHED = {1.0: 0.7590, 1.5: 0.9386, 1.76: 0.9998, 2.5: 1.1335, 4.0: 1.3424}  # σ_w²: χ, tanh, σ_b² = .05


def theory(sigma_w2: float, sigma_b2: float) -> float:
    """Return χ at the fixed point of q = σ_w² E tanh²(√q z) + σ_b², by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(201)
    weights = weights / weights.sum()
    q = 1.0
    for _ in range(5000):
        q = sigma_w2 * float(weights @ np.tanh(np.sqrt(q) * nodes) ** 2) + sigma_b2
    return sigma_w2 * float(weights @ (1 - np.tanh(np.sqrt(q) * nodes) ** 2) ** 2)


class Cotangent(Cost):
    """Cost with a Gaussian ∂C/∂a, one for each example or one shared by all."""

    def __init__(self, seed: int, shared: bool = False) -> None:
        self.seed, self.shared = seed, shared

    def value(self, a: Array, y: Array) -> Array:
        return np.zeros(a.shape[:-2] + a.shape[-1:])

    def gradient(self, a: Array, y: Array, out: Array | None = None) -> Array:
        shape = (*a.shape[:-1], 1) if self.shared else a.shape
        return np.multiply(np.random.default_rng(self.seed).standard_normal(shape), np.ones_like(a), out=out)


@pytest.mark.parametrize("sigma_w2", list(PUBLISHED))
@pytest.mark.thorough
def test_tanh_networks_follow_chi(sigma_w2: float) -> None:
    chi = theory(sigma_w2, 0.05)
    assert chi == pytest.approx(PUBLISHED[sigma_w2], abs=1e-4)
    width, depth, seeds = 300, 40, 5
    net = Network.mlp([width] * (depth + 1), [act.Tanh()] * depth, (seeds,))
    rngs = [np.random.default_rng(k) for k in range(seeds)]
    initialize(net, MeanFieldWeights(sigma_w2), MeanFieldBiases(0.05), rngs)
    x = np.random.default_rng(9).standard_normal((width, 20))
    net.forward(x)
    net.backward(np.zeros((width, 20)), Cotangent(1))
    logs = np.array([np.log(norm(layer.delta)).mean() for layer in net.layers])
    layers = np.arange(depth)[8:]  # the first 8 layers are in the transient towards q*
    slope = np.polyfit(layers, logs[8:], 1)[0]
    assert np.exp(-2 * slope) == pytest.approx(chi, rel=0.02)


def test_he_relu_networks_keep_delta() -> None:
    """χ = σ_w²/2 = 1 exactly for ReLU; with 20 layers of 400 units and 20 seeds the drift per layer is below 1%."""
    net = Network.mlp([400] * 21, [act.Relu()] * 20, (20,))
    initialize(net, HeNormal(), Constant(0.0), [np.random.default_rng(k) for k in range(20)])
    net.forward(np.random.default_rng(0).standard_normal((400, 8)))
    net.backward(np.zeros((400, 8)), Cotangent(2))
    squares = np.array([(norm(layer.delta) ** 2).mean() for layer in net.layers])
    assert (squares[0] / squares[-1]) ** (1 / 19) == pytest.approx(1.0, rel=0.01)


def test_batch_averages_shrink_although_delta_does_not_vanish() -> None:
    """He ReLU, 30 layers, B = 256, one cotangent for all examples: ‖δ_b‖ is constant, ‖⟨δ_b⟩‖ falls."""
    net = Network.mlp([100] * 31, [*[act.Relu()] * 29, act.Identity()], (20,))
    initialize(net, HeNormal(), Constant(0.0), [np.random.default_rng(k) for k in range(20)])
    net.forward(np.random.default_rng(3).standard_normal((100, 256)))
    net.backward(np.zeros((100, 256)), Cotangent(4, shared=True))
    per_example = [(norm(layer.delta) ** 2).mean() for layer in net.layers]
    averaged = [(norm(layer.db) ** 2).mean() * 256 for layer in net.layers]
    assert averaged[-1] == pytest.approx(per_example[-1])
    assert 0.5 < per_example[0] / per_example[-2] < 2
    assert averaged[0] < 0.3 * averaged[-2]
