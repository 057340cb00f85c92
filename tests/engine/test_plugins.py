"""User-defined activations, costs and inputs: passes are correct for any array that they return."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.networks import batch, gradient, network

from engine import activations as act
from engine import costs
from engine.arrays import Array
from engine.costs import Cost
from engine.network import Network


@settings(max_examples=examples(20), deadline=None)
@given(examples=st.integers(1, 6), seed=st.integers(0, 99))
def test_batch_gradient_is_the_mean_over_examples(examples: int, seed: int) -> None:
    """Section 1.6 of the derivation. A batch of copies has the gradient of one example."""
    net = network([3, 4, 2], [act.Silu(), act.Sigmoid()], seed=seed)
    x, y = batch(net, examples, seed)
    cost, singles = costs.SquaredError(), []
    for b in range(examples):
        net.forward(x[:, b : b + 1])
        singles.append(net.backward(y[:, b : b + 1], cost).copy())
    net.forward(x)
    together = net.backward(y, cost).copy()
    scale = max(float(np.abs(g).max()) for g in singles)
    assert np.abs(together - np.mean(singles, axis=0)).max() < 1e-14 * scale
    net.forward(np.repeat(x[:, :1], 4, axis=1))
    assert np.abs(net.backward(np.repeat(y[:, :1], 4, axis=1), cost) - singles[0]).max() < 1e-14 * scale


@pytest.mark.parametrize("ensemble", [(), (2,)])
def test_activations_and_costs_may_return_new_arrays(ensemble: tuple[int, ...]) -> None:
    """They may ignore ``out`` or write other values to it."""

    class OwnTanh(act.Tanh):
        def value(self, z: Array, *, out: Array | None = None) -> Array:  # type: ignore[override]
            return np.tanh(z) if (z > 0.5).any() else super().value(z, out)

        def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
            return super().derivative(z, a)

    class OwnSoftmax(act.Softmax):
        def pull_back(self, z: Array, a: Array, dC_da: Array, out: Array | None = None) -> Array:
            if out is not None:
                out[...] = np.nan
            return super().pull_back(z, a, dC_da)

    class OwnCost(costs.SquaredError):
        def gradient(self, a: Array, y: Array, weight: float = 1.0) -> Array:
            return weight * super().gradient(a, y)

    def passes(net: Network, cost: Cost) -> Array:
        for seed in (0, 1):  # buffers are uninitialised in the first pass
            x, y = batch(net, 5, seed)
            gradient(net, x, y, cost)
        return np.concatenate([net.grad, *(layer.a.reshape(*ensemble, -1) for layer in net.layers)], axis=-1)

    sizes = [4, 6, 5, 3, 2]
    user_net = network(sizes, [OwnTanh(), OwnSoftmax(), OwnTanh(), OwnTanh()], ensemble)
    engine_net = network(sizes, [act.Tanh(), act.Softmax(), act.Tanh(), act.Tanh()], ensemble)
    assert np.array_equal(passes(user_net, OwnCost()), passes(engine_net, costs.SquaredError()))


class Exponential(act.Elementwise):
    """σ = e^z, whose derivative returns the same array as its value."""

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.exp(z, out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return a


class BooleanRelu(act.Relu):
    """ReLU whose derivative returns truth values."""

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return z > 0


@pytest.mark.parametrize("sigma", [Exponential(), BooleanRelu()], ids=["value", "truth values"])
def test_derivative_may_return_any_array(sigma: act.Elementwise) -> None:
    """The passes do not change that array, in hidden layers or in the output layer."""
    net = network([4, 6, 3, 2], [sigma] * 3)
    net.theta *= 0.1
    x, y = batch(net, 5)
    a = net.forward(x).copy()
    grad = net.backward(y, costs.SquaredError())
    assert np.array_equal(net.layers[-1].a, a)
    delta = 2 * (a - y) * sigma.derivative(net.layers[-1].z, a)
    np.testing.assert_allclose(net.layers[-1].delta, delta, rtol=1e-15)
    np.testing.assert_allclose(grad[-2:], delta.mean(axis=-1), rtol=1e-14)
    hidden, top = net.layers[1:]
    slope = sigma.derivative(hidden.z, hidden.a)
    np.testing.assert_allclose(hidden.delta, top.W.T @ delta * slope, rtol=1e-13)


@pytest.mark.parametrize("size", [7, 2**11 - 1, 2**11, 2**11 + 1, 5000, 2**18 + 1])
@pytest.mark.parametrize("start", [0, 1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_relu_is_exact_at_any_position_in_memory(size: int, start: int, dtype: str) -> None:
    tiny = float(np.finfo(dtype).smallest_subnormal)
    values = np.array([-0.0, 0.0, np.nan, np.inf, -np.inf, tiny, -tiny, 1, -1], dtype)
    z = np.random.default_rng(start).choice(values, size + start)[start:]
    expected = np.where(np.isnan(z) | (z > 0), z, 0).astype(dtype)
    a = act.Relu().value(z)
    assert np.array_equal(a, expected, equal_nan=True)
    assert not np.signbit(a[a == 0]).any()


def test_inputs_of_other_dtypes_are_rounded_once() -> None:
    """Integer and float64 inputs of a float32 network equal their rounded values."""
    net = network([3, 4, 2], [act.Tanh(), act.Softmax()], (2,), dtype="float32")
    x = np.random.default_rng(0).random((2, 3, 5)) * 10
    out = net.forward(x).copy()
    assert np.array_equal(out, net.forward(x.astype("float32")))
    assert np.array_equal(net.forward(np.rint(x).astype(int)).copy(), net.forward(np.rint(x).astype("float32")))
    with pytest.raises(TypeError):
        net.forward(x + 1j)
