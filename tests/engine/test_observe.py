"""Layers observed together give the bits that each layer, and each member of a stack, gives alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import ELEMENTWISE, batch, member, network
from test_stack import PROBES

from engine import activations as act
from engine import costs
from engine.activations import Activation
from engine.arrays import Array, norm, norms
from engine.network import Network
from engine.probes import Moment, Observed

Values = list[list[Array | None]]


def passed(net: Network, x: Array, y: Array) -> None:
    net.forward(x)
    net.backward(y, costs.LogLikelihood())


def together(net: Network, update: Array) -> Values:
    return [[probe(layer) for probe in PROBES] for layer in Moment(net, update).observed]


def apart(net: Network, update: Array) -> Values:
    views = net.parameters.views(update)
    return [
        [probe(Observed(layer, dW, layer.number == net.depth)) for probe in PROBES]
        for layer, (dW, _) in zip(net.layers, views, strict=True)
    ]


def equal(one: Array | None, two: Array | None) -> bool:
    if one is None or two is None:
        return one is two
    return one.shape == two.shape and np.array_equal(one, two, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 5, 9, 33, 130]), min_size=2, max_size=5),
    hidden=st.sampled_from(ELEMENTWISE),
    examples=st.sampled_from([1, 2, 9, 130]),
    ensemble=st.sampled_from([(), (1,), (3,), (2, 2)]),
    dtype=st.sampled_from(["float64", "float32"]),
    extreme=st.sampled_from([None, 0.0, 1e-200, 1e30, np.inf, np.nan]),
    seed=st.integers(0, 99),
)
def test_observed_together_or_alone(
    sizes: list[int],
    hidden: Activation,
    examples: int,
    ensemble: tuple[int, ...],
    dtype: str,
    extreme: float | None,
    seed: int,
) -> None:
    """Also where one member has died, overflowed or vanished: it spoils neither the others nor another layer."""
    net = network(sizes, [*[hidden] * (len(sizes) - 2), act.Softmax()], ensemble, dtype, seed)
    if extreme is not None:
        with np.errstate(under="ignore", over="ignore", invalid="ignore"):
            net.theta.reshape(-1, net.parameters.count)[0] *= np.dtype(dtype).type(extreme)
    x, y = batch(net, examples, seed)
    passed(net, x, y)
    update: Array = (0.1 * np.random.default_rng(seed).standard_normal(net.theta.shape)).astype(dtype)
    measured = together(net, update)
    for layer, alone in zip(measured, apart(net, update), strict=True):
        assert all(equal(one, two) for one, two in zip(layer, alone, strict=True))
    for index in np.ndindex(ensemble):
        single = member(net, index)
        passed(single, x[index], y[index])
        for layer, alone in zip(measured, together(single, update[index]), strict=True):
            for one, two in zip(layer, alone, strict=True):
                assert equal(None if one is None else np.asarray(one[index]), two)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_members_longer_than_a_buffer_of_numpy_do_not_mix(dtype: str) -> None:
    """A reduction that casts works through 8192 numbers at a time, whosever they are: sums must not be cut there."""
    net = network([2, 5003, 3], [act.Tanh(), act.Softmax()], (5,), dtype)
    x, y = batch(net, 3)
    passed(net, x, y)
    measured = together(net, net.grad)
    for index in np.ndindex(5):
        single = member(net, index)
        passed(single, x[index], y[index])
        for layer, alone in zip(measured, together(single, single.grad), strict=True):
            for one, two in zip(layer, alone, strict=True):
                assert equal(None if one is None else np.asarray(one[index]), two)


def test_observing_tells_which_layer_is_the_output() -> None:
    net = network([3, 4, 2], [act.Tanh(), act.Softmax()])
    passed(net, *batch(net, 5))
    seen = Moment(net, net.grad).observed
    assert [o.is_output for o in seen] == [False, True]
    assert [o.layer.number for o in seen] == [1, 2]
    assert all(np.array_equal(o.dW_update, o.layer.dW) for o in seen)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_norms_of_several_arrays_are_the_norms_of_each(dtype: str) -> None:
    """Of other sizes, each with safe and unsafe members."""
    rng = np.random.default_rng(0)
    scales: Array = np.array([1.0, 1e-38, 1e38, 0.0])[:, None, None]
    arrays = [(rng.standard_normal((4, n, m)) * scales).astype(dtype) for n, m in ((1, 1), (3, 5), (40, 60))]
    got = norms(arrays)
    assert got.dtype == np.float64
    assert np.array_equal(got, [norm(x) for x in arrays])
    for row, x in zip(got, arrays, strict=True):
        assert row == pytest.approx(np.linalg.norm(x.astype(np.float64), axis=(1, 2)), rel=1e-6)
