"""An independent implementation with lists and the math module: one example, one unit at a time.

It shares no code or formula with the engine: σ' is a function of z, and the softmax derivative uses the quotient rule.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.networks import ELEMENTWISE, PAIRS, batch, name, network

from engine import activations as act
from engine import costs
from engine.activations import Activation
from engine.arrays import Array
from engine.costs import Cost
from engine.network import Network

Vector = list[float]
Scalar = Callable[[float], float]

LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772


def s(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def phi(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


FUNCTIONS: dict[str, tuple[Scalar, Scalar]] = {
    "Sigmoid": (s, lambda z: s(z) * s(-z)),
    "Tanh": (math.tanh, lambda z: 1 / math.cosh(z) ** 2),
    "Relu": (lambda z: z if z > 0 else 0.0, lambda z: 1.0 if z > 0 else 0.0),
    "LeakyRelu": (lambda z: z if z > 0 else 0.1 * z, lambda z: 1.0 if z > 0 else 0.1),
    "Elu": (lambda z: z if z > 0 else 1.3 * math.expm1(z), lambda z: 1.0 if z > 0 else 1.3 * math.exp(z)),
    "Selu": (
        lambda z: LAMBDA * z if z > 0 else LAMBDA * ALPHA * math.expm1(z),
        lambda z: LAMBDA if z > 0 else LAMBDA * ALPHA * math.exp(z),
    ),
    "Gelu": (
        lambda z: z * phi(z),
        lambda z: phi(z) + z * math.exp(-z * z / 2) / math.sqrt(2 * math.pi),
    ),
    "Silu": (lambda z: z * s(z), lambda z: s(z) + z * s(z) * s(-z)),
    "Softplus": (lambda z: max(z, 0.0) + math.log1p(math.exp(-abs(z))), s),
    "Softsign": (lambda z: z / (1 + abs(z)), lambda z: 1 / (1 + abs(z)) ** 2),
    "HardTanh": (lambda z: min(1.0, max(-1.0, z)), lambda z: 1.0 if -1 < z < 1 else 0.0),
    "Identity": (lambda z: z, lambda z: 1.0),
}


def activate(kind: str, z: Vector) -> Vector:
    if kind == "Softmax":
        parts = [math.exp(v - max(z)) for v in z]
        return [p / math.fsum(parts) for p in parts]
    return [FUNCTIONS[kind][0](v) for v in z]


def pull_back(kind: str, z: Vector, v: Vector) -> Vector:
    if kind == "Softmax":
        e = [math.exp(u - max(z)) for u in z]
        total, n = math.fsum(e), range(len(z))
        return [math.fsum(v[i] * ((e[i] * total if i == j else 0.0) - e[i] * e[j]) / total**2 for i in n) for j in n]
    return [u * FUNCTIONS[kind][1](w) for u, w in zip(v, z, strict=True)]


def cost_and_gradient(kind: str, z: Vector, a: Vector, y: Vector) -> tuple[float, Vector]:
    """Return C and ∂C/∂a; the cross-entropy has sigmoid outputs, so 1 − a = σ(−z) without cancellation."""
    pairs = list(zip(a, y, strict=True))
    if kind == "SquaredError":
        return math.fsum((p - t) ** 2 for p, t in pairs), [2 * (p - t) for p, t in pairs]
    if kind == "HalfSquaredError":
        return math.fsum((p - t) ** 2 for p, t in pairs) / 2, [p - t for p, t in pairs]
    if kind == "CrossEntropy":
        triples = [(p, s(-v), u) for v, p, u in zip(z, a, y, strict=True)]
        value = -math.fsum(u * math.log(p) + (1 - u) * math.log(q) for p, q, u in triples)
        return value, [(1 - u) / q - u / p for p, q, u in triples]
    return -math.fsum(t * math.log(p) for p, t in pairs), [-t / p for p, t in pairs]


def by_hand(net: Network, x: Vector, y: Vector, cost: str) -> tuple[float, list[Vector], list[Vector]]:
    """Return C, and a and δ of every layer, for one example."""
    layers = [(type(la.sigma).__name__, la.W.tolist(), [row[0] for row in la.b.tolist()]) for la in net.layers]
    below, zs, activations = x, [], []
    for kind, W, b in layers:
        z = [math.fsum([*(w * a for w, a in zip(row, below, strict=True)), b_j]) for row, b_j in zip(W, b, strict=True)]
        below = activate(kind, z)
        zs.append(z)
        activations.append(below)
    value, slope = cost_and_gradient(cost, zs[-1], below, y)
    deltas = []
    for (kind, W, _), z in zip(reversed(layers), reversed(zs), strict=True):
        delta = pull_back(kind, z, slope)
        slope = [math.fsum(W[j][k] * delta[j] for j in range(len(W))) for k in range(len(W[0]))]
        deltas.append(delta)
    return value, activations, deltas[::-1]


def assert_close(got: Array, expected: Array, scale: float = 0.0) -> None:
    """Compare relative to the largest entry, or to ``scale``, the size of the terms before cancellation."""
    assert np.abs(got - expected).max() <= 1e-12 * max(float(np.abs(expected).max()), scale, 1e-300)


def delta_scales(net: Network, cost: Cost, y: Array) -> list[float]:
    """Return the size of δ per layer without cancellation: |a|, |y| and |∂C/∂a| at the top, then times |Wᵀ| sup|σ'|."""
    top = net.layers[-1]
    size = max(float(np.abs(v).max()) for v in (top.a, y, cost.gradient(top.a, y))) * top.sigma.steepest
    sizes = [size]
    for above, layer in zip(net.layers[:0:-1], net.layers[-2::-1], strict=True):
        size *= float(np.abs(above.W).sum(axis=0).max()) * layer.sigma.steepest
        sizes.append(size)
    return sizes[::-1]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(name(part) for part in pair))
@settings(max_examples=examples(15), deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    hidden=st.lists(st.sampled_from(ELEMENTWISE), min_size=3, max_size=3),
    examples=st.integers(1, 4),
    seed=st.integers(0, 999),
)
def test_network_equals_plain_loops(
    pair: tuple[Activation, Cost], sizes: list[int], hidden: list[Activation], examples: int, seed: int
) -> None:
    output, cost = pair
    net = network(sizes, [*hidden[: len(sizes) - 2], output], seed=seed)
    x, y = batch(net, examples, seed)
    net.forward(x)
    net.backward(y, cost)
    references = [by_hand(net, x[:, i].tolist(), y[:, i].tolist(), type(cost).__name__) for i in range(examples)]
    assert np.allclose(net.cost(y, cost), [value for value, _, _ in references], rtol=1e-12, atol=1e-14)
    if sizes[-1] == 1 and isinstance(output, act.Softmax):
        assert np.abs(net.grad).max() < 1e-15  # one softmax unit is always 1: its gradient is rounding only
        return
    below, scales = x.T.tolist(), delta_scales(net, cost, y)
    for i, layer in enumerate(net.layers):
        activations, deltas = [r[1][i] for r in references], [r[2][i] for r in references]
        # the absolute error of Φ in z Φ(z) is 1e-15, its relative error is not
        assert_close(layer.a, np.array(activations).T, float(np.abs(layer.z).max()))
        assert_close(layer.delta, np.array(deltas).T, scales[i])
        n, m = layer.W.shape
        mean = [
            [math.fsum(d[j] * a[k] for d, a in zip(deltas, below, strict=True)) for k in range(m)] for j in range(n)
        ]
        size = scales[i] * max(1.0, max(abs(a) for row in below for a in row))
        assert np.abs(layer.dW - np.array(mean) / examples).max() <= 1e-12 * size
        assert np.abs(layer.db[:, 0] - np.array(deltas).mean(axis=0)).max() <= 1e-12 * scales[i]
        below = activations


def test_engine_has_the_correct_sign_of_the_misprinted_delta() -> None:
    """δ¹ of the second unit of example 2 is +0.0252; the derivation prints −0.0226."""
    data = json.loads((Path(__file__).parent / "worked_examples.json").read_text())["examples"]["example_2_[2,3,2]"]
    net = Network.mlp([2, 3, 2], [act.Sigmoid()] * 2)
    for layer, W, b in zip(net.layers, data["W"], data["b"], strict=True):
        layer.W[...], layer.b[...] = np.array(W, float), np.array(b, float)
    net.forward(np.array(data["input"], float))
    net.backward(np.array(data["target"], float), costs.HalfSquaredError())
    assert net.layers[0].delta[1, 0] == pytest.approx(0.025167276180871424, rel=1e-12)
