"""The second world against the first in relative terms, and its Jacobians against complex steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.networks import ALL, ELEMENTWISE, ENSEMBLES, batch, name, network

from engine import activations as act
from engine import costs
from engine.activations import Activation
from engine.arrays import Array
from engine.gradient_check import directional_derivative
from engine.initializers import Constant, Orthogonal, initialize
from engine.jacobians import input_output_jacobian, row_gradients, weight_jacobian
from engine.network import Network


def relative(got: Array, expected: Array) -> float:
    scale = float(np.abs(expected).max())
    assert scale > 0
    return float(np.abs(got - expected).max()) / scale


@settings(max_examples=examples(25), deadline=None)
@given(
    depth=st.integers(3, 14),
    width=st.integers(2, 6),
    scale=st.sampled_from([1e-3, 0.1, 1.0]),
    ensemble=st.sampled_from(ENSEMBLES),
    softmax=st.booleans(),
    seed=st.integers(0, 999),
)
def test_worlds_agree_relatively_where_gradients_vanish(
    depth: int, width: int, scale: float, ensemble: tuple[int, ...], softmax: bool, seed: int
) -> None:
    """Sigmoid layers with weights down to 1e-3: ∂C/∂W¹ falls below 1e-40 and agrees to a relative 1e-12."""
    top: Activation = act.Softmax() if softmax else act.Sigmoid()
    net = network([width] * (depth + 1), [*[act.Sigmoid()] * (depth - 1), top], ensemble, seed=seed)
    for layer in net.layers[:-1]:  # almost equal z of a softmax would cancel in its J
        layer.W *= scale
    x, y = batch(net, 4, seed)
    for cost in (costs.HalfSquaredError(), costs.LogLikelihood() if softmax else costs.CrossEntropy()):
        net.forward(x)
        net.backward(y, cost)
        for layer, rows in zip(net.layers, row_gradients(net, y, cost), strict=True):
            assert relative(layer.delta, np.swapaxes(rows.delta[..., 0, :], -1, -2)) < 1e-12
            assert relative(layer.dW, rows.dW) < 1e-12
            assert relative(layer.db, rows.db.mT) < 1e-12


def test_gradients_of_a_deep_sigmoid_network_fall_below_1e_40() -> None:
    """The test above covers this regime: 14 layers, max|∂C/∂W¹| < 1e-40 and not 0."""
    net = network([4] * 15, [act.Sigmoid()] * 14)
    for layer in net.layers[:-1]:
        layer.W *= 1e-3
    x, y = batch(net, 4)
    net.forward(x)
    net.backward(y, costs.HalfSquaredError())
    assert 0 < np.abs(net.layers[0].dW).max() < 1e-40


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=str)
@pytest.mark.parametrize("sigma", ALL, ids=name)
def test_input_output_jacobian_of_every_activation(sigma: Activation, ensemble: tuple[int, ...]) -> None:
    """J v equals the directional derivative of the forward pass along v in input space."""
    inner = sigma if sigma in ELEMENTWISE else act.Tanh()
    net = network([4, 6, 5, 3], [inner, inner, sigma], ensemble)
    x, _ = batch(net, 3)
    v = np.random.default_rng(5).standard_normal(x.shape)
    net.forward(x)
    for output in ("a", "z"):
        jacobian = input_output_jacobian(net, output)
        assert jacobian.shape == (*ensemble, 3, 3, 4)

        def forward(inputs: Array, output: str = output) -> Array:
            twin = net.like(net.theta.astype(inputs.dtype))
            twin.forward(inputs)
            return np.array(getattr(twin.layers[-1], output))

        expected, method = directional_derivative(forward, x, v)
        got = (jacobian @ np.swapaxes(v, -1, -2)[..., None])[..., 0]
        assert relative(got, np.swapaxes(expected, -1, -2)) < (1e-12 if method == "complex step" else 1e-7)


def test_weight_and_layer_jacobians_equal_their_formulas() -> None:
    net = network([3, 4, 2], [act.Tanh(), act.Softmax()], (2,))
    x, _ = batch(net, 5)
    net.forward(x)
    for layer in net.layers:
        n, m = layer.W.shape[-2:]
        dz_dW, da_da = weight_jacobian(layer).reshape(2, 5, n, n, m), layer.jacobian()
        for e, b, i, j, k in np.ndindex(2, 5, n, n, m):
            assert dz_dW[e, b, i, j, k] == (layer.a_in[e, k, b] if i == j else 0.0)
        for e, b, i, k in np.ndindex(2, 5, n, m):
            a = layer.a[e, :, b]
            if isinstance(layer.sigma, act.Softmax):
                expected = sum(a[i] * ((i == j) - a[j]) * layer.W[e, j, k] for j in range(n))
            else:
                expected = (1 - a[i] ** 2) * layer.W[e, i, k]
            assert da_da[e, b, i, k] == pytest.approx(expected, rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("sizes", [[40] * 21, [20, 30, 40, 50]], ids=["square", "widening"])
def test_orthogonal_linear_networks_are_isometries(sizes: list[int]) -> None:
    """Widening orthogonal layers keep ‖a‖ and have singular values 1; square layers keep ‖δ‖ too."""
    net = Network.mlp(sizes, [act.Identity()] * (len(sizes) - 1), (3,))
    initialize(net, Orthogonal(1.0), Constant(0.0), [np.random.default_rng(k) for k in range(3)])
    x, y = batch(net, 4)
    net.forward(x)
    net.backward(y, costs.SquaredError())
    singular = np.linalg.svd(input_output_jacobian(net), compute_uv=False)
    assert singular.shape == (3, 4, sizes[0])
    assert np.abs(singular - 1).max() < 1e-13
    start = np.linalg.norm(x, axis=-2)
    for layer in net.layers:
        assert np.abs(np.linalg.norm(layer.a, axis=-2) / start - 1).max() < 1e-13
    if len(set(sizes)) == 1:
        top = np.linalg.norm(net.layers[-1].delta, axis=-2)
        for layer in net.layers:
            assert np.abs(np.linalg.norm(layer.delta, axis=-2) / top - 1).max() < 1e-13
