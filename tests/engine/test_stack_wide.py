"""A stack equals a loop, bitwise, in the shapes where BLAS and NumPy change their ways: wide, one unit, one example."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import batch, member, network
from test_stack import train

from engine import activations as act
from engine import costs
from engine.activations import Activation
from engine.arrays import Array, multiplier
from engine.costs import Cost
from engine.initializers import Gaussian, GaussianFanIn, initialize
from engine.learning_rates import Constant
from engine.network import Network
from engine.optimizers import SGD, ClipGlobalNorm, ClipPerLayer

OUTPUTS: list[tuple[Activation, Cost]] = [
    (act.Softmax(), costs.LogLikelihood()),
    (act.Softmax(), costs.HalfSquaredError()),
    (act.Sigmoid(), costs.CrossEntropy()),
]


def same(together: list[Array], alone: list[Array], index: tuple[int, ...]) -> None:
    for stacked, single in zip(together, alone, strict=True):
        assert np.array_equal(stacked[index], single, equal_nan=True)


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 7, 129, 257, 300]), min_size=2, max_size=4),
    examples=st.sampled_from([1, 2, 8, 128, 129, 260]),
    output=st.sampled_from(OUTPUTS),
    hidden=st.sampled_from([act.Tanh(), act.Relu(), act.Gelu()]),
    optimizer=st.sampled_from(
        [
            SGD(0.1, 0.9, True, 0.01, ClipGlobalNorm(0.5), Constant()),
            SGD(0.1, 0.9, False, 0.01, ClipPerLayer(0.1), Constant()),
        ]
    ),
    ensemble=st.sampled_from([(1,), (2,), (5,), (2, 2)]),
    dtype=st.sampled_from(["float64", "float32"]),
    shared=st.booleans(),
    rows=st.booleans(),
    seed=st.integers(0, 99),
)
def test_wide_stacks_equal_a_loop_bitwise(
    sizes: list[int],
    examples: int,
    output: tuple[Activation, Cost],
    hidden: Activation,
    optimizer: SGD,
    ensemble: tuple[int, ...],
    dtype: str,
    shared: bool,
    rows: bool,
    seed: int,
) -> None:
    """Probes, z, a, δ, ∂C/∂W and θ over two steps; one input for all or one each; examples as columns or as rows."""
    sigma, cost = output
    stack = network(sizes, [*[hidden] * (len(sizes) - 2), sigma], ensemble, dtype, seed)
    first = (0,) * len(ensemble)
    batches = []
    for k in range(2):
        x, y = batch(stack, examples, seed + k)
        pair = (x[first], y[first]) if shared else (x, y)
        batches.append(tuple(np.ascontiguousarray(v.mT).mT if rows else np.ascontiguousarray(v) for v in pair))
    members = {index: member(stack, index) for index in np.ndindex(ensemble)}
    together = train(stack, [(x, y) for x, y in batches], cost, optimizer)
    for index, net in members.items():
        own = [(x, y) if shared else (x[index], y[index]) for x, y in batches]
        same(together, train(net, own, cost, optimizer), index)


def test_values_do_not_depend_on_where_a_member_sits() -> None:
    """Odd sizes put the members at every alignment; the same member in every place gives the same bits."""
    stack = network([13, 37, 11, 3], [act.Tanh(), act.Silu(), act.Softmax()], (9,), "float32")
    stack.theta[...] = stack.theta[0]
    x, y = (v[0] for v in batch(stack, 19))
    for seen in train(
        stack, [(x, y)] * 3, costs.LogLikelihood(), SGD(0.2, 0.9, True, 0.1, ClipPerLayer(0.1), Constant())
    ):
        assert all(np.array_equal(seen[0], other) for other in seen[1:])


def test_each_member_draws_from_its_own_generator_alone() -> None:
    """Member k of a stack starts as the network of generator k, whatever the others are."""
    for ensemble in ((4,), (2, 2)):
        stack = Network([5, 4, 3], [act.Tanh()] * 2, ensemble)
        initialize(stack, GaussianFanIn(1.0), Gaussian(0.3), [np.random.default_rng(k) for k in (7, 3, 9, 1)])
        for index, seed in zip(np.ndindex(ensemble), (7, 3, 9, 1), strict=True):
            alone = Network([5, 4, 3], [act.Tanh()] * 2)
            initialize(alone, GaussianFanIn(1.0), Gaussian(0.3), [np.random.default_rng(seed)])
            assert np.array_equal(stack.theta[index], alone.theta)


@pytest.mark.parametrize("sizes_of_batches", [[7, 3, 7, 1, 3, 7]])
def test_buffers_of_other_batch_sizes_leave_no_trace(sizes_of_batches: list[int]) -> None:
    """A network that has seen other batch sizes computes what a fresh one computes, bit for bit."""
    used = network([4, 6, 3], [act.Gelu(), act.Softmax()], (2,))
    for k, size in enumerate(sizes_of_batches):
        x, y = batch(used, size, k)
        fresh = network([4, 6, 3], [act.Gelu(), act.Softmax()], (2,))
        for net in (used, fresh):
            net.forward(x)
            net.backward(y, costs.LogLikelihood())
        assert used.batch_size == size
        assert np.array_equal(used.grad, fresh.grad)
        assert np.array_equal(used.cost(y, costs.LogLikelihood()), fresh.cost(y, costs.LogLikelihood()))


@settings(max_examples=20, deadline=None)
@given(examples=st.integers(1, 6), seed=st.integers(0, 99))
def test_the_batch_gradient_is_the_mean_of_the_examples(examples: int, seed: int) -> None:
    """Section 1.6 of the derivation; and a batch of copies has the gradient of one."""
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


SPECIAL = [0.0, -0.0, 1.0, -2.0, np.inf, -np.inf, np.nan, 1e-45]


def bits(x: Array) -> bytes:
    """One NaN is as good as another."""
    return np.where(np.isnan(x), np.nan, x).tobytes()


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(*[st.sampled_from([1, 2, 3, 10, 30, 64, 129, 256])] * 3),
    turned=st.tuples(st.booleans(), st.booleans()),
    dtype=st.sampled_from(["float32", "float64", "complex128"]),
    special=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_single_matrix_is_multiplied_as_one_of_a_stack(
    shape: tuple[int, int, int], turned: tuple[bool, bool], dtype: str, special: bool, seed: int
) -> None:
    """Whatever lies transposed in memory, wherever it begins, and with zeros of both signs, infinities and NaNs."""
    rng, (n, m, B) = np.random.default_rng(seed), shape

    def drawn(rows: int, columns: int, turn: bool) -> Array:
        lies = (columns, rows) if turn else (rows, columns)
        size = 2, 3 + rows * columns
        flat = (rng.choice(SPECIAL, size) if special else rng.standard_normal(size)).astype(dtype)
        x = flat[:, 3:].reshape(2, *lies)
        return x.mT if turn else x

    x, y = drawn(n, m, turned[0]), drawn(m, B, turned[1])
    together = np.empty((2, n, B), dtype)
    with np.errstate(all="ignore"):
        multiplier(x, B)(y, together)
        for k in range(2):
            alone = np.empty((n, B), dtype)
            multiplier(x[k], B)(y[k], alone)
            assert bits(alone) == bits(together[k])


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 5]), min_size=2, max_size=4),
    examples=st.sampled_from([1, 2, 5]),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99),
)
def test_zeros_keep_their_signs_and_nothing_is_lost_in_chains(
    sizes: list[int], examples: int, dtype: str, seed: int
) -> None:
    """A product of vectors has many ways through BLAS."""
    stack = network(sizes, [act.Relu()] * (len(sizes) - 1), (2,), dtype=dtype, seed=seed)
    rng = np.random.default_rng(seed)
    stack.theta[rng.random(stack.theta.shape) < 0.2] = 0
    x, y = batch(stack, examples, seed)
    x[rng.random(x.shape) < 0.2] = rng.choice(SPECIAL)
    together = stack.gradient(x, y, costs.SquaredError())
    alone = member(stack, (1,))
    assert bits(alone.gradient(x[1], y[1], costs.SquaredError())) == bits(together[1])
    assert bits(alone.layers[-1].a) == bits(stack.layers[-1].a[1])


@pytest.mark.parametrize("ensemble", [(), (2,)])
def test_activations_and_costs_may_return_arrays_of_their_own(ensemble: tuple[int, ...]) -> None:
    """And leave alone, or spoil, the one they were given."""

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
        def gradient(self, a: Array, y: Array, weight: float = 1.0, out: Array | None = None) -> Array:  # type: ignore[override]
            return weight * super().gradient(a, y)

    def gradient(net: Network, cost: Cost) -> Array:
        for seed in (0, 1):  # with the first of a size, buffers are still empty
            x, y = batch(net, 5, seed)
            net.gradient(x, y, cost)
        return np.concatenate([net.grad, *(layer.a.reshape(*ensemble, -1) for layer in net.layers)], axis=-1)

    sizes = [4, 6, 5, 3, 2]
    theirs = network(sizes, [OwnTanh(), OwnSoftmax(), OwnTanh(), OwnTanh()], ensemble)
    ours = network(sizes, [act.Tanh(), act.Softmax(), act.Tanh(), act.Tanh()], ensemble)
    assert np.array_equal(gradient(theirs, OwnCost()), gradient(ours, costs.SquaredError()))


class Exponential(act.Elementwise):
    """Its σ' is its value: the very array."""

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.exp(z, out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return a


class Step(act.Relu):
    """Its σ' are truth values."""

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return z > 0


@pytest.mark.parametrize("sigma", [Exponential(), Step()], ids=["its value", "truth values"])
def test_slopes_may_be_any_array(sigma: act.Elementwise) -> None:
    """In the output layer, too; and what they are is left as it is."""
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


@pytest.mark.parametrize("ensemble", [(), (1,), (1, 1)])
def test_a_stack_of_one_takes_inputs_of_one(ensemble: tuple[int, ...]) -> None:
    net = network([4, 3], [act.Tanh()], ensemble)
    x = np.random.default_rng(0).random((4, 5))
    expected = net.forward(x).copy()
    for shape in ((1, 4, 5), (1, 1, 4, 5)):
        assert np.array_equal(net.forward(x.reshape(shape)), expected)
    with pytest.raises(ValueError, match="reshape"):
        net.forward(np.zeros((5, 4, 5)))


@pytest.mark.parametrize("size", [7, 2**11 - 1, 2**11, 2**11 + 1, 5000, 2**18 + 1])
@pytest.mark.parametrize("start", [0, 1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_rectifier_cuts_off_below_0_wherever_a_number_lies(size: int, start: int, dtype: str) -> None:
    tiny = float(np.finfo(dtype).smallest_subnormal)
    values = np.array([-0.0, 0.0, np.nan, np.inf, -np.inf, tiny, -tiny, 1, -1], dtype)
    z = np.random.default_rng(start).choice(values, size + start)[start:]
    expected = np.where(np.isnan(z) | (z > 0), z, 0).astype(dtype)
    a = act.Relu().value(z)
    assert np.array_equal(a, expected, equal_nan=True)
    assert not np.signbit(a[a == 0]).any()


def test_inputs_of_another_type_are_rounded_once() -> None:
    """An integer or a float64 image in a float32 network is what its rounding is."""
    net = network([3, 4, 2], [act.Tanh(), act.Softmax()], (2,), dtype="float32")
    x = np.random.default_rng(0).random((2, 3, 5)) * 10
    out = net.forward(x).copy()
    assert np.array_equal(out, net.forward(x.astype("float32")))
    assert np.array_equal(net.forward(np.rint(x).astype(int)).copy(), net.forward(np.rint(x).astype("float32")))
    with pytest.raises(TypeError):
        net.forward(x + 1j)


@pytest.mark.parametrize("lies", ["every second", "repeated", "turned", "wide rows"])
@pytest.mark.parametrize("units", [1, 20])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_how_an_input_lies_in_memory_does_not_matter(lies: str, units: int, dtype: str) -> None:
    """To whether the network is one of a stack."""
    net = network([30, units, 10], [act.Tanh(), act.Softmax()], (2,), dtype=dtype)
    rng = np.random.default_rng(0)
    wide, column = rng.random((2, 60, 24)).astype(dtype), rng.random((2, 30, 1)).astype(dtype)
    x = {
        "every second": wide[:, ::2, ::2],
        "repeated": np.broadcast_to(column, (2, 30, 12)),
        "turned": np.ascontiguousarray(wide[:, :30, :12].mT).mT,
        "wide rows": wide[:, :30, :12],
    }[lies]
    y = rng.random((2, 10, 12)).astype(dtype)
    together = net.gradient(x, y, costs.HalfSquaredError()).copy()
    alone = member(net, (1,))
    assert np.array_equal(alone.gradient(x[1], y[1], costs.HalfSquaredError()), together[1])
