"""Each member of a stack has the same numbers, byte for byte, as the same network alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.networks import (
    BLOCKS,
    ELEMENTWISE,
    PAIRS,
    PROBES,
    batch,
    block_network,
    gradient,
    measured,
    member,
    network,
    step_alone,
    step_of,
)

import engine
from engine import activations as act
from engine import costs
from engine.activations import Activation
from engine.arrays import Array, PerMember
from engine.costs import Cost
from engine.initializers import Constant as ConstantWeights
from engine.initializers import Gaussian, GaussianFanIn, Orthogonal, initialize
from engine.learning_rates import Constant, Cosine
from engine.network import Dense, Network
from engine.optimizers import SGD, Adam, ClipGlobalNorm, ClipPerLayer, Clipping, Optimizer
from engine.probes import traits_of

FAST = {key: probe for key, probe in PROBES.items() if not traits_of(probe).costly}
SPECIAL = [0.0, -0.0, 1.0, -2.0, np.inf, -np.inf, np.nan, 1e-45]


def each(values: PerMember, k: int) -> PerMember:
    """Return the hyperparameter of member k."""
    return values if isinstance(values, float) else float(values.reshape(-1)[k])


def optimizer_of(optimizer: SGD | Adam, k: int) -> Optimizer:
    """Return the optimizer of member k alone."""
    clipping = optimizer.clipping
    if isinstance(clipping, ClipGlobalNorm | ClipPerLayer):
        clipping = type(clipping)(each(clipping.max_norm, k))
    own: dict[str, Any] = {name: each(getattr(optimizer, name), k) for name in optimizer.per_member_names}
    return replace(optimizer, clipping=clipping, **own)


@np.errstate(all="ignore")
def trained(net: Network, batches: list[tuple[Array, Array]], cost: Cost, optimizer: Optimizer) -> Iterator[Array]:
    """Yield all arrays of a few steps of training and of a final evaluation."""
    state = optimizer.start(net)
    for step, (x, y) in enumerate(batches):
        net.forward(x)
        net.backward(y, cost)
        optimizer.propose(net, state, step, len(batches))
        for layer in net.layers:
            yield from (layer.z, layer.a, layer.delta)
        yield from (net.cost(y, cost), net.grad, net.update)
        net.theta += net.update
        net.update_state()
        yield from (net.theta, *net.state().values())
    yield net.forward(batches[0][0], training=False)


def same(stacked: Array, index: tuple[int, ...], alone: Array) -> bool:
    """Return whether a member has these bytes; all NaNs are equal."""
    values = stacked[index]
    return np.where(np.isnan(values), np.nan, values).tobytes() == np.where(np.isnan(alone), np.nan, alone).tobytes()


def assert_stack_equals_loop(
    stack: Network, batches: list[tuple[Array, Array]], cost: Cost, optimizer: SGD | Adam, shared: bool = False
) -> None:
    """Train a stack and each of its members alone, and compare the bytes of all arrays."""
    members = [(k, index, member(stack, index)) for k, index in enumerate(np.ndindex(stack.ensemble))]
    stacked_arrays = [array.copy() for array in trained(stack, batches, cost, optimizer)]
    for k, index, net in members:
        own = batches if shared else [(x[index], y[index]) for x, y in batches]
        alone = trained(net, own, cost, optimizer_of(optimizer, k))
        assert all(same(stacked, index, array) for stacked, array in zip(stacked_arrays, alone, strict=True))


@st.composite
def optimizers(draw: st.DrawFn, ensemble: tuple[int, ...]) -> SGD | Adam:
    """Draw an optimizer whose hyperparameters are one number or one per member."""

    def value(low: float, high: float) -> PerMember:
        if draw(st.booleans()):
            return draw(st.floats(low, high))
        count = int(np.prod(ensemble))
        return np.array(draw(st.lists(st.floats(low, high), min_size=count, max_size=count))).reshape(ensemble)

    decay = value(0.001, 0.1) if draw(st.booleans()) else 0.0
    clipping: Clipping | None = None
    if (kind := draw(st.sampled_from([None, ClipGlobalNorm, ClipPerLayer]))) is not None:
        clipping = kind(value(0.01, 2.0))
    rate, schedule = value(0.0, 0.5), draw(st.sampled_from([Constant(), Cosine(0.1)]))
    if draw(st.booleans()):
        beta1, beta2 = draw(st.sampled_from([(0.9, 0.999), (0.0, 0.5), (0.7, 0.0)]))
        return Adam(rate, beta1, beta2, draw(st.sampled_from([1e-8, 1e-30, 0.1])), decay, clipping, schedule)
    momentum = value(0.1, 0.95) if draw(st.booleans()) else 0.0
    nesterov = bool(np.any(momentum)) and draw(st.booleans())
    return SGD(rate, momentum, nesterov, decay, clipping, schedule)


@settings(max_examples=examples(90), deadline=None)
@given(data=st.data(), dtype=st.sampled_from(["float64", "float32"]), seed=st.integers(0, 99))
def test_stack_equals_loop_for_random_networks(data: st.DataObject, dtype: str, seed: int) -> None:
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=2, max_size=5))
    hidden, (output, cost) = data.draw(st.sampled_from(ELEMENTWISE)), data.draw(st.sampled_from(PAIRS))
    ensemble = data.draw(st.sampled_from([(1,), (3,), (2, 2)]))
    stack = network(sizes, [*[hidden] * (len(sizes) - 2), output], ensemble, dtype, seed)
    rows = [
        batch(stack, size, seed + i)
        for i, size in enumerate(data.draw(st.lists(st.integers(1, 33), min_size=1, max_size=3)))
    ]
    # the pipeline passes transposed arrays, with examples as rows in memory
    batches = [(np.ascontiguousarray(x.mT).mT, np.ascontiguousarray(y.mT).mT) for x, y in rows]
    assert_stack_equals_loop(stack, batches, cost, data.draw(optimizers(ensemble)))


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data(), dtype=st.sampled_from(["float64", "float32"]), seed=st.integers(0, 99))
def test_stack_equals_loop_for_random_blocks(data: st.DataObject, dtype: str, seed: int) -> None:
    kinds = data.draw(st.lists(st.sampled_from(list(BLOCKS)), min_size=1, max_size=4))
    hidden, (output, cost) = data.draw(st.sampled_from(ELEMENTWISE)), data.draw(st.sampled_from(PAIRS))
    ensemble = data.draw(st.sampled_from([(1,), (3,), (2, 2)]))
    sizes = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5)))
    stack = block_network(kinds, sizes, hidden, output, ensemble, dtype, seed)
    batches = [
        batch(stack, examples, seed + i)
        for i, examples in enumerate(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    ]
    assert_stack_equals_loop(stack, batches, cost, data.draw(optimizers(ensemble)))


@settings(max_examples=examples(12), deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 7, 129, 257, 300]), min_size=2, max_size=4),
    examples=st.sampled_from([1, 2, 8, 128, 129, 260]),
    hidden=st.sampled_from([act.Tanh(), act.Relu(), act.Gelu()]),
    ensemble=st.sampled_from([(1,), (2,), (5,), (2, 2)]),
    dtype=st.sampled_from(["float64", "float32"]),
    shared=st.booleans(),
    rows=st.booleans(),
    seed=st.integers(0, 99),
)
def test_stack_equals_loop_for_wide_layers(
    sizes: list[int],
    examples: int,
    hidden: Activation,
    ensemble: tuple[int, ...],
    dtype: str,
    shared: bool,
    rows: bool,
    seed: int,
) -> None:
    """Sizes at which BLAS and NumPy change algorithms; input shared or per member; examples as columns or rows."""
    stack = network(sizes, [*[hidden] * (len(sizes) - 2), act.Softmax()], ensemble, dtype, seed)
    first = (0,) * len(ensemble)
    batches = []
    for k in range(2):
        x, y = (v[first] if shared else v for v in batch(stack, examples, seed + k))
        x, y = (np.ascontiguousarray(v.mT).mT if rows else np.ascontiguousarray(v) for v in (x, y))
        batches.append((x, y))
    optimizer = SGD(0.1, 0.9, True, 0.01, ClipPerLayer(0.1), Constant())
    assert_stack_equals_loop(stack, batches, costs.LogLikelihood(), optimizer, shared)


@settings(max_examples=examples(60), deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 5, 9, 33]), min_size=2, max_size=5),
    hidden=st.sampled_from(ELEMENTWISE),
    ensemble=st.sampled_from([(1,), (3,), (2, 2)]),
    examples=st.sampled_from([1, 2, 9, 40]),
    dtype=st.sampled_from(["float64", "float32"]),
    extreme=st.tuples(st.sampled_from([1.0, 0.0, 1e-200, 1e30, 1e160, np.inf, np.nan]), st.sampled_from([None, 1])),
    seed=st.integers(0, 999),
)
def test_probes_measure_the_same_in_a_stack_and_alone(
    sizes: list[int],
    hidden: Activation,
    ensemble: tuple[int, ...],
    examples: int,
    dtype: str,
    extreme: tuple[float, int | None],
    seed: int,
) -> None:
    """Also with a dead, overflowed or vanished member. No array of the network changes."""
    net = network(sizes, [*[hidden] * (len(sizes) - 2), act.Softmax()], ensemble, dtype, seed)
    with np.errstate(all="ignore"):
        net.theta.reshape(net.members, -1)[0, : extreme[1]] *= np.dtype(dtype).type(extreme[0])
        step = step_of(net, *batch(net, examples, seed), costs.LogLikelihood(), seed)
        arrays = [net.theta, net.grad, net.update, *(v for x in net.layers for v in (x.z, x.a, x.delta, x.a_in))]
        before = [x.tobytes() for x in arrays]
        for k in np.ndindex(ensemble):
            assert measured(step, PROBES, k) == measured(step_alone(step, k), PROBES)
        assert before == [x.tobytes() for x in arrays]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_members_longer_than_a_numpy_buffer_are_independent(dtype: str) -> None:
    """A reduction that casts processes blocks of 8192 numbers, across members."""
    net = network([2, 5003, 3], [act.Tanh(), act.Softmax()], (5,), dtype)
    step = step_of(net, *batch(net, 3), costs.LogLikelihood())
    for k in np.ndindex(5):
        assert measured(step, FAST, k) == measured(step_alone(step, k), FAST)


def test_shared_input_equals_one_copy_per_member() -> None:
    stack = network([5, 4, 3], [act.Tanh(), act.Softmax()], (3,))
    x, y = batch(network([5, 4, 3], [act.Tanh(), act.Softmax()]), 6)
    shared = gradient(stack, x, y, costs.LogLikelihood()).copy()
    assert np.array_equal(shared, gradient(stack, np.stack([x] * 3), np.stack([y] * 3), costs.LogLikelihood()))


def test_values_do_not_depend_on_the_position_of_a_member() -> None:
    """Odd sizes place equal members at every alignment in memory."""
    stack = network([13, 37, 11, 3], [act.Tanh(), act.Silu(), act.Softmax()], (9,), "float32")
    stack.theta[...] = stack.theta[0]
    x, y = (v[0] for v in batch(stack, 19))
    optimizer = SGD(0.2, 0.9, True, 0.1, ClipPerLayer(0.1), Constant())
    for array in trained(stack, [(x, y)] * 3, costs.LogLikelihood(), optimizer):
        assert all(same(array, (k,), array[0]) for k in range(9))


@pytest.mark.parametrize("ensemble", [(4,), (2, 2)])
def test_each_member_has_its_own_generator_and_initialiser(ensemble: tuple[int, ...]) -> None:
    """Member k equals the single network of generator k and initialiser k."""
    seeds, kinds = (7, 3, 9, 1), [GaussianFanIn(1.0), Gaussian(0.3), Orthogonal(1.2), GaussianFanIn(2.0)]
    stack = Network.mlp([5, 4, 3], [act.Tanh()] * 2, ensemble)
    initialize(stack, kinds, ConstantWeights(0.1), [np.random.default_rng(k) for k in seeds])
    for index, seed, kind in zip(np.ndindex(ensemble), seeds, kinds, strict=True):
        alone = Network.mlp([5, 4, 3], [act.Tanh()] * 2)
        initialize(alone, kind, ConstantWeights(0.1), [np.random.default_rng(seed)])
        assert same(stack.theta, index, alone.theta)
    with pytest.raises(ValueError, match="weights: 2 for 4 networks; must be one per network"):
        initialize(stack, kinds[:2], ConstantWeights(0.0), [np.random.default_rng(k) for k in seeds])


@pytest.mark.parametrize("sizes_of_batches", [[7, 3, 7, 1, 3, 7]])
def test_passes_do_not_depend_on_earlier_batch_sizes(sizes_of_batches: list[int]) -> None:
    used = network([4, 6, 3], [act.Gelu(), act.Softmax()], (2,))
    for k, size in enumerate(sizes_of_batches):
        x, y = batch(used, size, k)
        fresh = network([4, 6, 3], [act.Gelu(), act.Softmax()], (2,))
        assert np.array_equal(gradient(used, x, y, costs.LogLikelihood()), gradient(fresh, x, y, costs.LogLikelihood()))
        assert used.batch_size == size
        assert np.array_equal(used.cost(y, costs.LogLikelihood()), fresh.cost(y, costs.LogLikelihood()))


@settings(max_examples=examples(40), deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 5]), min_size=2, max_size=4),
    examples=st.sampled_from([1, 2, 5]),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99),
)
def test_zeros_keep_their_signs_in_products_of_vectors(sizes: list[int], examples: int, dtype: str, seed: int) -> None:
    stack = network(sizes, [act.Relu()] * (len(sizes) - 1), (2,), dtype=dtype, seed=seed)
    rng = np.random.default_rng(seed)
    stack.theta[rng.random(stack.theta.shape) < 0.2] = 0
    x, y = batch(stack, examples, seed)
    x[rng.random(x.shape) < 0.2] = rng.choice(SPECIAL)
    assert_stack_equals_loop(stack, [(x, y)], costs.SquaredError(), SGD(0.1, 0.0, False, 0.0, None, Constant()))


@pytest.mark.parametrize("layout", ["strided", "broadcast", "transposed", "wide rows"])
@pytest.mark.parametrize("units", [1, 20])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_do_not_depend_on_the_memory_layout_of_the_input(layout: str, units: int, dtype: str) -> None:
    net = network([30, units, 10], [act.Tanh(), act.Softmax()], (2,), dtype=dtype)
    rng = np.random.default_rng(0)
    wide, column = rng.random((2, 60, 24)).astype(dtype), rng.random((2, 30, 1)).astype(dtype)
    x = {
        "strided": wide[:, ::2, ::2],
        "broadcast": np.broadcast_to(column, (2, 30, 12)),
        "transposed": np.ascontiguousarray(wide[:, :30, :12].mT).mT,
        "wide rows": wide[:, :30, :12],
    }[layout]
    y = rng.random((2, 10, 12)).astype(dtype)
    stacked = gradient(net, x, y, costs.HalfSquaredError()).copy()
    assert same(stacked, (1,), gradient(member(net, (1,)), x[1], y[1], costs.HalfSquaredError()))


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.1, 0.9, False, 0.01, ClipGlobalNorm(1e-3), Constant()),
        SGD(0.1, 0.9, False, 0.01, ClipPerLayer(1e-3), Constant()),
        Adam(0.1, 0.9, 0.999, 1e-8, 0.01, ClipPerLayer(1e-3), Constant()),
    ],
    ids=["global", "per_layer", "Adam"],
)
def test_diverged_members_do_not_change_other_members(optimizer: Optimizer) -> None:
    stack = network([4, 6, 3], [act.Relu(), act.Identity()], (3,))
    alone = member(stack, (2,))
    stack.theta[0] = np.inf
    stack.theta[1, 5] = np.nan
    x, y = batch(stack, 8)
    for _ in trained(stack, [(x, y)] * 4, costs.HalfSquaredError(), optimizer):
        pass
    for _ in trained(alone, [(x[2], y[2])] * 4, costs.HalfSquaredError(), optimizer):
        pass
    assert np.array_equal(stack.theta[2], alone.theta)
    assert np.isfinite(alone.theta).all()


@pytest.mark.parametrize("sgd", ["momentum", "weight_decay"])
def test_optimizer_terms_on_for_some_members_only_are_refused(sgd: str) -> None:
    values: dict[str, PerMember] = {"momentum": 0.0, "weight_decay": 0.0, sgd: np.array([0.0, 0.1])}
    with pytest.raises(ValueError, match=rf"^{sgd}=.*: must be 0 for all members or for none"):
        SGD(0.1, values["momentum"], False, values["weight_decay"], None, Constant())
    if sgd == "weight_decay":
        with pytest.raises(ValueError, match=r"^weight_decay=.*: must be 0 for all members or for none"):
            Adam(0.1, 0.9, 0.999, 1e-8, values["weight_decay"], None, Constant())


PASSES = ["network", "residual", "normalisation", "costs", "optimizers", "probes/*"]


def test_passes_and_probes_follow_the_rules_of_stacks() -> None:
    """No einsum, no reduction over two axes at once, no square by the power operator: their bytes depend on shapes."""
    folder = Path(engine.__file__).parent
    for path in (path for name in PASSES for path in folder.glob(f"{name}.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Attribute) and node.attr == "einsum"), path
            assert not (isinstance(node, ast.keyword) and node.arg == "axis" and isinstance(node.value, ast.Tuple)), (
                path
            )
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
                assert ast.unparse(node.right) != "2", path


def test_dense_layers_in_blocks_are_numbered_from_the_input() -> None:
    net = block_network(["nested residual", "dense"], (4, 5, 2), act.Tanh(), act.Softmax())
    assert [layer.number for layer in net.layers] == [1, 2, 3, 4, 5, 6]
    assert all(isinstance(layer, Dense) for layer in net.layers)
