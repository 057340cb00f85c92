"""Residual and normalisation blocks against their equations in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.networks import batch, block_network, gradient, network

from engine import activations as act
from engine import costs
from engine.jacobians import input_output_jacobian
from engine.network import Dense, Network
from engine.normalisation import BatchNorm, LayerNorm
from engine.residual import Residual


def between(block: BatchNorm | LayerNorm) -> Network:
    """Return a network with the block between two layers and random parameters."""
    net = Network([Dense(3, block.n_in, act.Tanh()), block, Dense(block.n_in, 2, act.Softmax())])
    net.theta[...] = np.random.default_rng(0).standard_normal(net.theta.shape)
    return net


def normalised(values: list[float], epsilon: float) -> list[float]:
    mean = math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / len(values)
    return [(v - mean) / math.sqrt(variance + epsilon) for v in values]


@pytest.mark.parametrize("learned", [True, False])
def test_batch_norm_normalises_each_unit_over_the_batch(learned: bool) -> None:
    net = between(block := BatchNorm(4, 0.01, 0.1, learned))
    net.forward(batch(net, 6)[0])
    scale, shift = (block.gamma[:, 0], block.beta[:, 0]) if learned else (np.ones(4), np.zeros(4))
    for unit, row in enumerate(net.layers[0].a.tolist()):
        expected = [float(scale[unit]) * v + float(shift[unit]) for v in normalised(row, 0.01)]
        assert block.a[unit].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("learned", [True, False])
def test_layer_norm_normalises_each_example_over_the_units(learned: bool) -> None:
    net = between(block := LayerNorm(4, 0.01, learned))
    x, _ = batch(net, 6)
    trained = net.forward(x).copy()
    scale, shift = (block.gamma[:, 0], block.beta[:, 0]) if learned else (np.ones(4), np.zeros(4))
    for example, column in enumerate(net.layers[0].a.T.tolist()):
        expected = scale * normalised(column, 0.01) + shift
        assert block.a[:, example].tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    assert np.array_equal(net.forward(x, training=False), trained)


def test_batch_norm_uses_running_statistics_in_evaluation() -> None:
    """After k equal batches they are the batch's mean and unbiased variance, up to (1 − momentum)^k."""
    net = between(block := BatchNorm(4, 1e-5, 0.25, learned=True))
    x, _ = batch(net, 6)
    for _ in range(3):
        net.forward(x)
        net.update_state()
    a, initial_weight = net.layers[0].a, 0.75**3
    mean, variance = a.mean(axis=1, keepdims=True), a.var(axis=1, ddof=1, keepdims=True)
    state = block.state()
    np.testing.assert_allclose(state["mean"], (1 - initial_weight) * mean, rtol=1e-12)
    np.testing.assert_allclose(state["variance"], initial_weight + (1 - initial_weight) * variance, rtol=1e-12)
    net.forward(x, training=False)
    expected = (net.layers[0].a - state["mean"]) / np.sqrt(state["variance"] + 1e-5) * block.gamma + block.beta
    np.testing.assert_allclose(block.a, expected, rtol=1e-12)


def test_forward_does_not_change_the_state() -> None:
    """Only the training loop updates it, once a step; a twin shares it."""
    net = between(BatchNorm(4, 1e-5, 0.25, learned=True))
    before = {name: array.copy() for name, array in net.state().items()}
    gradient(net, *batch(net, 5), costs.LogLikelihood())
    net.forward(batch(net, 3)[0], training=False)
    twin = net.twin("test")
    twin.forward(batch(net, 4)[0])
    assert all(np.array_equal(array, before[name]) for name, array in net.state().items())
    net.forward(batch(net, 5)[0])
    net.update_state()
    assert all(np.array_equal(array, net.state()[name]) for name, array in twin.state().items())
    assert not any(np.array_equal(array, before[name]) for name, array in net.state().items())


def test_jacobian_is_refused_where_the_batch_couples_examples() -> None:
    net = block_network(["batch norm", "residual", "layer norm"], (3, 4, 2), act.Tanh(), act.Sigmoid())
    x, _ = batch(net, 3)
    net.forward(x)
    with pytest.raises(ValueError, match="couples the examples"):
        input_output_jacobian(net)
    net.forward(x, training=False)
    jacobian = input_output_jacobian(net)
    complex_net = net.like(net.theta.astype(complex))
    for k in range(3):
        shifted = x.astype(complex)
        shifted[k] += 1e-30j
        column = complex_net.forward(shifted, training=False).imag / 1e-30
        assert np.abs(jacobian[..., k].T - column).max() < 1e-13


@pytest.mark.parametrize("scale", [1.0, -0.3, 0.0])
def test_residual_adds_its_branch_to_its_input(scale: float) -> None:
    branch = network([4, 3, 4], [act.Tanh(), act.Relu()])
    net = Network([Dense(4, 4, act.Identity()), Residual(branch.blocks, scale), Dense(4, 2, act.Identity())])
    net.theta[...] = np.random.default_rng(1).standard_normal(net.theta.shape)
    x, _ = batch(net, 5)
    net.forward(x)
    alone = Network([block.twin() for block in branch.blocks])
    for layer, own in zip(alone.layers, net.layers[1:3], strict=True):
        layer.W[...], layer.b[...] = own.W, own.b
    below = net.layers[0].a
    np.testing.assert_allclose(net.blocks[1].a, below + scale * alone.forward(below), rtol=1e-14)


def test_residual_network_keeps_gradients_that_a_plain_network_loses() -> None:
    """60 layers with small weights: δ falls by 20 decades without shortcuts, by less than 2 with them."""

    def first_to_last(residual: bool) -> float:
        layers = [Dense(8, 8, act.Tanh()) for _ in range(60)]
        middle = [Residual([layer]) for layer in layers] if residual else layers
        net = Network([Dense(3, 8, act.Tanh()), *middle, Dense(8, 2, act.Softmax())])
        net.theta[...] = 0.1 * np.random.default_rng(0).standard_normal(net.theta.shape)
        gradient(net, *batch(net, 9), costs.LogLikelihood())
        return float(np.linalg.norm(net.layers[0].delta) / np.linalg.norm(net.layers[-1].delta))

    assert first_to_last(residual=False) < 1e-20
    assert first_to_last(residual=True) > 1e-2
