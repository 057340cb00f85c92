"""Gradients against worked examples, plain loops, directional derivatives and the second world."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.networks import ALL, BLOCKS, ELEMENTWISE, ENSEMBLES, PAIRS, batch, block_network, name, network

from engine import activations as act
from engine import costs
from engine.activations import Activation
from engine.arrays import Array
from engine.costs import Cost
from engine.gradient_check import check_activation, check_cost, check_network
from engine.initializers import Constant, Orthogonal, initialize
from engine.jacobians import activation_jacobian, input_output_jacobian, row_gradients
from engine.network import Dense, Network
from engine.normalisation import BatchNorm, LayerNorm
from engine.residual import Residual

EXAMPLES: dict[str, Any] = json.loads((Path(__file__).parent / "worked_examples.json").read_text())["examples"]


def numbers(text: Any) -> Array:
    return np.array(text, dtype=np.float64)


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES.keys())
@pytest.mark.parametrize("factor", [1, 2], ids=["half_squared_error", "squared_error"])
def test_worked_examples_agree_to_1e_12(example: dict[str, Any], factor: int) -> None:
    """The references of every intermediate number come from 40-digit arithmetic; both worlds, both costs."""
    weights = [numbers(w) for w in example["W"]]
    net = Network.mlp([weights[0].shape[1], *(w.shape[0] for w in weights)], [act.Sigmoid()] * len(weights))
    for layer, w, b in zip(net.layers, weights, example["b"], strict=True):
        layer.W[...], layer.b[...] = w, numbers(b)
    cost: Cost = costs.HalfSquaredError() if factor == 1 else costs.SquaredError()
    y = numbers(example["target"])
    net.forward(numbers(example["input"]))
    net.backward(y, cost)
    expected = float(example["cost_half_squared" if factor == 1 else "cost_squared"])
    assert abs(net.cost(y, cost)[0] - expected) < 1e-12
    rows = row_gradients(net, y, cost)
    for i, layer in enumerate(net.layers):
        assert np.abs(layer.z - numbers(example["z"][i])).max() < 1e-12
        assert np.abs(layer.a - numbers(example["a"][i])).max() < 1e-12
        assert np.abs(np.diag(activation_jacobian(layer)[0]) - numbers(example["sigma_prime"][i])[:, 0]).max() < 1e-12
        for name_, got in (
            ("delta", layer.delta),
            ("grad_W", layer.dW),
            ("grad_b", layer.db),
            ("delta", rows[i].delta[0].T),
            ("grad_W", rows[i].dW),
            ("grad_b", rows[i].db.T),
        ):
            assert np.abs(got - factor * numbers(example[name_][i])).max() < 1e-12, name_
    below = numbers(example["WT_delta"])
    assert np.abs((net.layers[1].W.mT @ net.layers[1].delta)[:, 0] - factor * below.reshape(-1)).max() < 1e-12


def test_sign_that_is_misprinted_in_the_derivation() -> None:
    """δ¹ of the second unit of example 2 is +0.0252; the derivation prints −0.0226."""
    assert numbers(EXAMPLES["example_2_[2,3,2]"]["delta"][0])[1, 0] > 0


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=str)
@pytest.mark.parametrize("hidden", ELEMENTWISE, ids=name)
def test_gradients_of_every_activation_in_a_network(hidden: Activation, ensemble: tuple[int, ...]) -> None:
    net = network([4, 6, 5, 3], [hidden, hidden, act.Softmax()], ensemble)
    x, y = batch(net, 7)
    check_network(net, x, y, costs.LogLikelihood(), np.random.default_rng(1)).require()


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=str)
@pytest.mark.parametrize(("output", "cost"), PAIRS, ids=name)
def test_gradients_of_every_output_with_every_cost(output: Activation, cost: Cost, ensemble: tuple[int, ...]) -> None:
    net = network([4, 5, 3], [act.Tanh(), output], ensemble)
    x, y = batch(net, 7)
    check_network(net, x, y, cost, np.random.default_rng(2)).require()


@pytest.mark.parametrize("sigma", ALL, ids=name)
def test_activations_pass_the_gradient_check(sigma: Activation) -> None:
    check_activation(sigma, np.random.default_rng(3)).require()


@pytest.mark.parametrize(
    "cost", [costs.SquaredError(), costs.HalfSquaredError(), costs.CrossEntropy(), costs.LogLikelihood()], ids=name
)
def test_costs_pass_the_gradient_check(cost: Cost) -> None:
    rng = np.random.default_rng(4)
    a, y = rng.uniform(0.05, 0.95, (3, 20)), rng.uniform(0, 1, (3, 20))
    check_cost(cost, a, y, rng).require()


@dataclass(frozen=True)
class WrongTanh(act.Elementwise):
    """tanh with σ' = 1 − σ instead of 1 − σ²."""

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.tanh(z, out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return np.subtract(1, a, out=out)


@dataclass(frozen=True)
class WrongCost(costs.Cost):
    """Squared error whose ∂C/∂a lacks the factor 2."""

    def value(self, a: Array, y: Array) -> Array:
        return np.add.reduce((a - y) ** 2, axis=-2)

    def gradient(self, a: Array, y: Array) -> Array:
        return a - y


def test_gradient_checks_locate_wrong_parts() -> None:
    rng = np.random.default_rng(5)
    with pytest.raises(AssertionError, match=r"WrongTanh\.pull_back.*WrongTanh\.jacobian"):
        check_activation(WrongTanh(), rng).require()
    with pytest.raises(AssertionError, match=r"WrongCost\.gradient"):
        check_cost(WrongCost(), rng.random((3, 9)), rng.random((3, 9)), rng).require()
    net = network([3, 4, 4, 2], [act.Tanh(), WrongTanh(), act.Identity()])
    x, y = batch(net, 6)
    report = check_network(net, x, y, costs.SquaredError(), rng)
    wrong = {check.part for check in report.checks if not check.passed}
    assert wrong == {f"layer 2 (WrongTanh) ∂C/∂{part}" for part in ("a_in", "W", "b")}


def loops(net: Network, x: Array, y: Array, factor: float) -> list[tuple[list[list[float]], list[float]]]:
    """Return ∂C/∂W and ∂C/∂b per layer of a sigmoid network with C = factor/2 · Σ (a−y)² for one example."""
    activations = [[float(v) for v in x]]
    for layer in net.layers:
        below = activations[-1]
        z = [
            sum(float(w) * a for w, a in zip(row, below, strict=True)) + float(b)
            for row, b in zip(layer.W, layer.b[:, 0], strict=True)
        ]
        activations.append([1 / (1 + math.exp(-v)) for v in z])
    error = [factor * (a - float(t)) * a * (1 - a) for a, t in zip(activations[-1], y, strict=True)]
    gradients = []
    for index in reversed(range(len(net.layers))):
        below = activations[index]
        gradients.append(([[d * a for a in below] for d in error], error))
        weights = net.layers[index].W
        error = [
            sum(float(weights[j, k]) * error[j] for j in range(len(error))) * below[k] * (1 - below[k])
            for k in range(len(below))
        ]
    return gradients[::-1]


@settings(max_examples=examples(25), deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=5), examples=st.integers(1, 4), seed=st.integers(0, 999))
def test_gradients_equal_plain_loops_over_examples(sizes: list[int], examples: int, seed: int) -> None:
    net = network(sizes, [act.Sigmoid()] * (len(sizes) - 1), seed=seed)
    x, y = batch(net, examples, seed)
    net.forward(x)
    net.backward(y, costs.SquaredError())
    each = [loops(net, x[:, b], y[:, b], 2.0) for b in range(examples)]
    for i, layer in enumerate(net.layers):
        assert np.allclose(layer.dW, np.mean([np.array(e[i][0]) for e in each], axis=0), rtol=1e-12, atol=1e-15)
        assert np.allclose(layer.db[:, 0], np.mean([np.array(e[i][1]) for e in each], axis=0), rtol=1e-12, atol=1e-15)


@settings(max_examples=examples(30), deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    pair=st.sampled_from(PAIRS),
    hidden=st.sampled_from(ELEMENTWISE),
    ensemble=st.sampled_from(ENSEMBLES),
    seed=st.integers(0, 999),
)
def test_second_world_equals_the_first(
    sizes: list[int], pair: tuple[Activation, Cost], hidden: Activation, ensemble: tuple[int, ...], seed: int
) -> None:
    output, cost = pair
    net = network(sizes, [*[hidden] * (len(sizes) - 2), output], ensemble, seed=seed)
    x, y = batch(net, 5, seed)
    net.forward(x)
    net.backward(y, cost)
    scale = max(1.0, float(np.abs(net.grad).max()))
    for layer, row in zip(net.layers, row_gradients(net, y, cost), strict=True):
        assert np.abs(layer.dW - row.dW).max() < 1e-12 * scale
        assert np.abs(layer.db - row.db.mT).max() < 1e-12 * scale
        assert np.abs(layer.delta - np.swapaxes(row.delta[..., 0, :], -1, -2)).max() < 1e-12 * scale


@pytest.mark.parametrize("output", ["a", "z"])
@pytest.mark.parametrize("sigma", [act.Sigmoid(), act.Softmax()], ids=name)
def test_input_output_jacobian_equals_complex_steps(sigma: Activation, output: str) -> None:
    net = network([4, 6, 3], [act.Tanh(), sigma])
    x, _ = batch(net, 2)
    net.forward(x)
    jacobian = input_output_jacobian(net, output)
    twin = net.like(net.theta.astype(np.complex128))
    for k in range(4):
        shifted = x.astype(complex)
        shifted[k] += 1e-30j
        twin.forward(shifted)
        top = twin.layers[-1]
        column = (top.a if output == "a" else top.z).imag / 1e-30
        assert np.abs(jacobian[..., k].T - column).max() < 1e-13
    with pytest.raises(ValueError, match="must be 'a' or 'z'"):
        input_output_jacobian(net, "x")


def test_orthogonal_linear_network_keeps_every_norm() -> None:
    """Saxe et al., 2014: all singular values of the input-output Jacobian are 1, and ‖δ‖ is constant."""
    net = Network.mlp([60] * 31, [act.Identity()] * 30)
    initialize(net, Orthogonal(1.0), Constant(0.0), [np.random.default_rng(0)])
    x, y = batch(net, 4)
    net.forward(x)
    net.backward(y, costs.HalfSquaredError())
    deltas = np.array([np.linalg.norm(layer.delta, axis=0) for layer in net.layers])
    assert np.abs(deltas / deltas[-1] - 1).max() < 1e-13
    singular = np.linalg.svd(input_output_jacobian(net)[0], compute_uv=False)
    assert np.abs(singular - 1).max() < 1e-13


def test_backward_overwrites_gradients() -> None:
    net = network([3, 4, 2], [act.Tanh(), act.Sigmoid()])
    x, y = batch(net, 5)
    net.forward(x)
    first = net.backward(y, costs.CrossEntropy()).copy()
    second = net.backward(y, costs.CrossEntropy())
    assert np.array_equal(first, second)


def test_parameters_and_gradients_are_views_into_flat_vectors() -> None:
    net = network([3, 4, 2], [act.Tanh(), act.Sigmoid()], (2, 3))
    for layer in net.layers:
        assert np.shares_memory(layer.W, net.theta)
        assert np.shares_memory(layer.b, net.theta)
        assert np.shares_memory(layer.dW, net.grad)
    net.theta[...] = 7
    assert all((layer.W == 7).all() and (layer.b == 7).all() for layer in net.layers)
    assert sum(layer.W[0, 0].size for layer in net.layers) == net.n_weights


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (lambda: [], "the last one must be a Dense layer"),
        (lambda: [Dense(3, 2, act.Tanh()), LayerNorm(2, 1e-5, learned=True)], "the last one must be a Dense layer"),
        (lambda: [Dense(3, 2, act.Tanh()), Dense(3, 2, act.Tanh())], "2 outputs are followed by a block of 3 inputs"),
        (lambda: [Dense(3, 0, act.Tanh())], "n_out=0: must be >= 1"),
        (lambda: [Residual([Dense(3, 2, act.Tanh())])], "must have as many outputs as inputs"),
        (lambda: [Residual([Dense(3, 3, act.Tanh())], math.inf)], "scale=inf: must be finite"),
        (lambda: [LayerNorm(3, 0.0, learned=True)], "epsilon=0.0: must be > 0"),
        (lambda: [BatchNorm(3, 1e-5, 1.5, learned=True)], r"momentum=1.5: must be in \(0, 1\]"),
    ],
)
def test_invalid_networks_are_refused(blocks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Network(blocks())


def test_parameters_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"theta: shape \(9,\); must be \(2, 8\)"):
        Network([Dense(3, 2, act.Tanh())], (2,), theta=np.zeros(9))


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=str)
@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.thorough
def test_gradients_of_every_block_in_a_network(kind: str, ensemble: tuple[int, ...]) -> None:
    """Input and parameter gradients of each block, alone and in the network, for one network and for stacks."""
    for sigma in (act.Tanh(), act.Gelu(), act.Relu()):
        net = block_network([kind, "dense", kind], (4, 5, 3), sigma, act.Softmax(), ensemble)
        x, y = batch(net, 7)
        parts = check_network(net, x, y, costs.LogLikelihood(), np.random.default_rng(1)).require().checks
        assert len(parts) >= len(net.modules) + len(net.parameters) + 2


@settings(max_examples=examples(30), deadline=None)
@given(
    kinds=st.lists(st.sampled_from([kind for kind in BLOCKS if "batch" not in kind]), min_size=1, max_size=4),
    pair=st.sampled_from(PAIRS),
    hidden=st.sampled_from(ELEMENTWISE),
    ensemble=st.sampled_from(ENSEMBLES),
    seed=st.integers(0, 999),
)
def test_second_world_equals_the_first_for_blocks(
    kinds: list[str], pair: tuple[Activation, Cost], hidden: Activation, ensemble: tuple[int, ...], seed: int
) -> None:
    """The second world uses the explicit Jacobians of residual blocks and layer norm."""
    output, cost = pair
    net = block_network(kinds, (3, 4, 2), hidden, output, ensemble, seed=seed)
    x, y = batch(net, 5, seed)
    net.forward(x)
    net.backward(y, cost)
    scale = max(1.0, float(np.abs(net.grad).max()))
    for layer, row in zip(net.layers, row_gradients(net, y, cost), strict=True):
        assert np.abs(layer.dW - row.dW).max() < 1e-12 * scale
        assert np.abs(layer.db - row.db.mT).max() < 1e-12 * scale
