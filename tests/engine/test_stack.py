"""A member of a stack is bit-identical to the same network alone, whatever is done to both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import ELEMENTWISE, PAIRS, batch, member, network

from engine import activations as act
from engine import costs
from engine.activations import Activation
from engine.arrays import Array
from engine.costs import Cost
from engine.learning_rates import Constant, Cosine
from engine.network import Network
from engine.optimizers import SGD, ClipGlobalNorm, ClipPerLayer, Clipping
from engine.probes import (
    ActivationMean,
    ActivationStd,
    BiasGradientNorm,
    Coherence,
    DeadFraction,
    DeltaRms,
    GradientNorm,
    LayerProbe,
    Observed,
    SaturatedFraction,
    UpdateToWeight,
    ZMeanSquare,
)

PROBES: list[LayerProbe] = [
    GradientNorm(),
    BiasGradientNorm(),
    DeltaRms(),
    Coherence(),
    ZMeanSquare(),
    ActivationMean(),
    ActivationStd(),
    SaturatedFraction(0.05),
    DeadFraction(),
    UpdateToWeight(),
]
OPTIMIZERS = [
    SGD(0.3, 0.0, False, 0.0, None, Constant()),
    SGD(0.1, 0.9, False, 0.0, None, Cosine(0.1)),
    SGD(0.1, 0.9, True, 0.01, ClipGlobalNorm(0.5), Constant()),
    SGD(0.1, 0.0, False, 0.1, ClipPerLayer(0.2), Constant()),
]


def train(net: Network, batches: list[tuple[Array, Array]], cost: Cost, optimizer: SGD) -> list[Array]:
    """Everything a few steps leave behind."""
    state, seen = optimizer.start(net), []
    for step, (x, y) in enumerate(batches):
        net.forward(x)
        net.backward(y, cost)
        update = optimizer.update(net, state, step, len(batches))
        for layer, (dW, _) in zip(net.layers, net.parameters.views(update), strict=True):
            observed = Observed(layer, dW, layer.number == net.depth)
            values = [probe(observed) for probe in PROBES]
            seen += [np.array(v) for v in values if v is not None]
            seen += [layer.z.copy(), layer.a.copy(), layer.delta.copy(), layer.dW.copy(), layer.db.copy()]
        seen.append(net.cost(y, cost))
        net.theta += update
        seen.append(net.theta.copy())
    return seen


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    sizes_of_batches=st.lists(st.integers(1, 33), min_size=1, max_size=3),
    hidden=st.sampled_from(ELEMENTWISE),
    pair=st.sampled_from(PAIRS),
    optimizer=st.sampled_from(OPTIMIZERS),
    ensemble=st.sampled_from([(1,), (3,), (2, 2)]),
    dtype=st.sampled_from(["float64", "float32"]),
    seed=st.integers(0, 99),
)
def test_a_stack_equals_a_loop_bitwise(
    sizes: list[int],
    sizes_of_batches: list[int],
    hidden: Activation,
    pair: tuple[Activation, Cost],
    optimizer: SGD,
    ensemble: tuple[int, ...],
    dtype: str,
    seed: int,
) -> None:
    output, cost = pair
    stack = network(sizes, [*[hidden] * (len(sizes) - 2), output], ensemble, dtype, seed)
    alone = {index: member(stack, index) for index in np.ndindex(ensemble)}
    rows = [batch(stack, size, seed + i) for i, size in enumerate(sizes_of_batches)]
    # as the pipeline hands them over: rows in memory, transposed
    batches = [tuple(np.ascontiguousarray(v.mT).mT for v in pair_) for pair_ in rows]
    together = train(stack, [(x, y) for x, y in batches], cost, optimizer)
    for index, net in alone.items():
        one = train(net, [(x[index], y[index]) for x, y in batches], cost, optimizer)
        for stacked, single in zip(together, one, strict=True):
            assert np.array_equal(stacked[index], single, equal_nan=True)


def test_a_shared_input_is_the_same_input_for_all() -> None:
    stack = network([5, 4, 3], [act.Tanh(), act.Softmax()], (3,))
    x, y = batch(network([5, 4, 3], [act.Tanh(), act.Softmax()]), 6)
    stack.forward(x)
    shared = stack.backward(y, costs.LogLikelihood()).copy()
    stack.forward(np.stack([x] * 3))
    assert np.array_equal(shared, stack.backward(np.stack([y] * 3), costs.LogLikelihood()))


def test_measuring_changes_nothing() -> None:
    net = network([5, 8, 8, 3], [act.Relu(), act.Gelu(), act.Softmax()], (2,))
    x, y = batch(net, 9)
    net.forward(x)
    net.backward(y, costs.LogLikelihood())
    update = -0.1 * net.grad
    arrays = [net.theta, net.grad, update, *(v for la in net.layers for v in (la.z, la.a, la.delta, la.a_in))]
    before = [v.copy() for v in arrays]
    for layer, (dW, _) in zip(net.layers, net.parameters.views(update), strict=True):
        for probe in PROBES:
            probe(Observed(layer, dW, False))
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


@pytest.mark.parametrize("clipping", [ClipGlobalNorm(1e-3), ClipPerLayer(1e-3)], ids=["global", "per_layer"])
def test_a_diverged_member_leaves_the_others_alone(clipping: Clipping) -> None:
    """NaN and infinity in one member of the stack touch no other."""
    optimizer = SGD(0.1, 0.9, False, 0.01, clipping, Constant())
    stack = network([4, 6, 3], [act.Relu(), act.Identity()], (3,))
    alone = member(stack, (2,))
    stack.theta[0] = np.inf
    stack.theta[1, 5] = np.nan
    x, y = batch(stack, 8)
    train(stack, [(x, y)] * 4, costs.HalfSquaredError(), optimizer)
    train(alone, [(x[2], y[2])] * 4, costs.HalfSquaredError(), optimizer)
    assert np.array_equal(stack.theta[2], alone.theta)
    assert np.isfinite(alone.theta).all()
