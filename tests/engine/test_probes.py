"""The probes against slow twins: loops over units, examples, weights and pairs, each quantity computed another way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.examples import examples
from support.networks import (
    ELEMENTWISE,
    PROBES,
    batch,
    build_probe,
    gradient,
    member,
    name,
    network,
    sizes_of,
    step_alone,
    step_of,
    weights,
)

from engine import activations as act
from engine import costs, probes
from engine.activations import Activation
from engine.arrays import Array, norm
from engine.exponents import INFINITE, NAN, SUBNORMAL, ZERO, exponent_counts, merge
from engine.network import Dense, Network
from engine.probes import Layer, Probe, Step, layer_probe, measure, traits_of

Index = tuple[int, ...]
HALF, LOG, CROSS = costs.HalfSquaredError(), costs.LogLikelihood(), costs.CrossEntropy()
Case = tuple[Index, int, int]  # ensemble, examples, seed
cases = st.tuples(st.sampled_from([(), (2,)]), st.integers(2, 7), st.integers(0, 999))


def values(probe: Probe, of: Step, k: Index = ()) -> dict[tuple[str, int], Any]:
    """(part, layer or 0) -> value of one member; with bins a list of (bin, value), bins that are 0 left out."""
    found: dict[tuple[str, int], Any] = {}
    for numbers, read, part, bins, _ in measure(of, probe):
        layers, tail = numbers or (0,), () if bins is None else (len(bins),)
        assert read.shape == (len(layers), *of.network.ensemble, *tail)
        for layer, value in zip(layers, read, strict=True):
            assert (part, layer) not in found
            pairs = None if bins is None else [(e, v) for e, v in zip(bins, value[k].tolist(), strict=True) if v != 0]
            found[part, layer] = float(value[k]) if pairs is None else pairs
    return found


def plain(probe: Probe, of: Step, k: Index = ()) -> dict[int, float]:
    return {layer: value for (_, layer), value in values(probe, of, k).items()}


def near(expected: Any, rel: float = 1e-10, absolute: float = 1e-300) -> Any:  # subnormal numbers have few digits
    return pytest.approx(expected, rel=rel, abs=absolute, nan_ok=True)


def square(x: list[float]) -> float:
    return math.fsum(v * v for v in x)


@pytest.mark.parametrize("hidden", ELEMENTWISE, ids=name)
@settings(max_examples=examples(15), deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=3, max_size=4), softmax=st.booleans(), case=cases)
def test_noise_from_every_example_alone(hidden: Activation, sizes: list[int], softmax: bool, case: Case) -> None:
    (ensemble, examples, seed), cost = case, LOG if softmax else HALF
    net = network(sizes, [*[hidden] * (len(sizes) - 2), act.Softmax() if softmax else hidden], ensemble, seed=seed)
    x, y = batch(net, examples, seed)
    seen = step_of(net, x, y, cost)
    for k in np.ndindex(ensemble):
        kinds = probes.example_gradient_rms, probes.gradient_noise_scale, probes.gradient_signal_to_noise
        rms, scales, standing = (plain(probe, seen, k) for probe in kinds)
        assert list(rms) == list(scales) == list(standing) == list(range(1, len(sizes)))
        single, rows = member(net, k), []
        for b in range(examples):
            single.forward(x[k][:, [b]])
            single.backward(y[k][:, [b]], cost)
            rows.append(single.grad.copy())
        for i, g in enumerate(weights(net, np.array(rows)), start=1):
            g = g.reshape(examples, -1)
            assert rms[i] == pytest.approx(math.sqrt(square(g.ravel().tolist()) / examples), rel=1e-10)
            mean = g.mean(axis=0)
            signal, trace = float(mean @ mean), float(np.trace(np.atleast_2d(np.cov(g.T))))
            if not g.any():
                assert (scales[i], standing[i]) == near((math.nan, math.nan))
            elif trace > 1e-4 * signal:  # else examples agree so well that ρ − 1 has too few digits
                assert standing[i] == pytest.approx(math.sqrt(signal / (trace / examples)), rel=1e-10, abs=1e-14)
                if abs(unbiased := signal - trace / examples) > 1e-4 * signal:
                    assert scales[i] == pytest.approx(trace / unbiased if unbiased > 0 else math.inf, rel=1e-10)


def test_noise_of_two_examples_by_hand() -> None:
    """θ = 0 and y = −1, so δ = 1 and g = x: 1 and 3, orthogonal, opposite; then a single example."""
    net, y = Network.mlp([2, 1], [act.Identity()]), np.array([[-1.0, -1.0]])
    batches = [[1, 3], [0, 0]], [[1, 0], [0, 1]], [[1, -1], [2, -2]]
    for x, expected in zip(batches, [(2 / (4 - 1), 2.0), (math.inf, 1.0), (math.inf, 0.0)], strict=True):
        seen = step_of(net, np.array(x, float), y, HALF)
        found = [plain(probe, seen)[1] for probe in (probes.gradient_noise_scale, probes.gradient_signal_to_noise)]
        assert found == near(expected, 1e-14)
    for probe in (probes.gradient_noise_scale, probes.gradient_signal_to_noise, probes.z_cosine, probes.delta_cosine):
        assert values(probe, step_of(net, np.ones((2, 1)), y[:, :1], HALF)) == {}


@pytest.mark.parametrize("sizes", [[3, 5, 1, 1, 2], [68, 67, 2]], ids=str)  # short stretches, and one above 4096
@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1e-30), ("float32", 1e30), ("float64", 1e-200), ("d", 1e200)])
@pytest.mark.parametrize("seed", range(2))
def test_updates_weight_by_weight(sizes: list[int], dtype: str, scale: float, seed: int) -> None:
    """Also where the squares of one member leave the type, and those of the other do not."""
    net = network(sizes, [act.Tanh()] * (len(sizes) - 1), (2,), dtype, seed)
    seen, rng = step_of(net, *batch(net, 3), HALF, seed), np.random.default_rng(seed)
    assert seen.previous_grad is not None
    net.grad[1] += 0.5 * seen.previous_grad[1]
    net.grad[rng.random(net.grad.shape) < 0.4] = 0
    net.update[...] *= 10 ** rng.uniform(-18, 0, net.grad.shape)
    vectors = net.theta, net.update, net.grad, seen.previous_grad
    for vector in vectors:
        vector[0] *= scale
    net.layers[1].dW[0] = 0  # nothing is learnt there
    norms = probes.weight_norm, probes.update_norm, probes.gradient_norm
    rel = 1e-5 if dtype == "float32" else 1e-12
    for k in np.ndindex((2,)):
        for i, parts in enumerate(zip(*(weights(net, v) for v in vectors), strict=True), start=1):
            w, dw, g, h = (list(part[k].flat) for part in parts)  # scalars of the run's type
            alive = [(u, v) for u, v, s in zip(w, dw, g, strict=True) if s != 0]
            lost = sum(bool(u + v == u) for u, v in alive)
            assert type(w[0] + dw[0]) is np.dtype(dtype).type
            assert plain(probes.lost_updates, seen, k)[i] == (lost / len(alive) if alive else 0.0)
            assert 0 < lost < len(alive) or (i, k) == (2, (0,)) or len(w) < 200
            lengths = [math.hypot(*map(float, part)) for part in (w, dw, g, h)]
            assert [plain(probe, seen, k)[i] for probe in norms] == near(lengths[:3], rel)
            terms = [float(p) / lengths[2] * (float(q) / lengths[3]) for p, q in zip(g, h, strict=True) if p != 0]
            assert plain(probes.gradient_cosine, seen, k)[i] == near(math.fsum(terms) if terms else math.nan, rel, rel)
    assert measure(Step(net), probes.gradient_cosine) == []


def logistic(z: float) -> float:
    return math.exp(min(z, 0)) / (1 + math.exp(-abs(z)))


LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772
SLOPES: dict[str, Callable[[float, float], float]] = {  # σ'(z) from z and a
    "Sigmoid": lambda z, a: a * (1 - a),
    "Tanh": lambda z, a: 1 - a * a,
    "Relu": lambda z, a: float(z > 0),
    "LeakyRelu": lambda z, a: 1.0 if z > 0 else 0.1,
    "Elu": lambda z, a: 1.0 if z > 0 else a + 1.3,
    "Selu": lambda z, a: LAMBDA if z > 0 else a + LAMBDA * ALPHA,
    "Gelu": lambda z, a: (1 + math.erf(z / 2**0.5)) / 2 + z * math.exp(-z * z / 2) / (2 * math.pi) ** 0.5,
    "Silu": lambda z, a: logistic(z) * (1 + z * logistic(-z)),
    "Softplus": lambda z, a: logistic(z),
    "Softsign": lambda z, a: (1 + abs(z)) ** -2,
    "HardTanh": lambda z, a: float(abs(z) < 1),
    "Identity": lambda z, a: 1.0,
}
HARD = ("Sigmoid", "Tanh", "Relu", "Elu", "Selu", "HardTanh")  # float arithmetic knows slopes of exactly 0 here
LINEAR = {"Sigmoid": 0.25, "Selu": LAMBDA}  # the slope where σ is a straight line; else 1


def slopes(net: Network, k: Index = ()) -> dict[int, list[list[float]]]:
    """|σ'(z)| of each layer that has it, unit by unit, example by example."""
    found = {}
    for layer in (layer for layer in net.layers if isinstance(layer.sigma, act.Elementwise)):
        slope, units = SLOPES[name(layer.sigma)], zip(layer.z[k].tolist(), layer.a[k].tolist(), strict=True)
        found[layer.number] = [[abs(slope(*pair)) for pair in zip(z, a, strict=True)] for z, a in units]
    return found


@pytest.mark.parametrize("hidden", ELEMENTWISE, ids=name)
@settings(max_examples=examples(15), deadline=None)
@given(
    middle=st.booleans(), steep=st.sampled_from([0.3, 1, 2, 300]), tolerance=st.sampled_from([0.1, 0.88]), case=cases
)
def test_slopes_unit_by_unit(hidden: Activation, middle: bool, steep: float, tolerance: float, case: Case) -> None:
    """A softmax in the middle has no slope, and those around it keep their places."""
    ensemble, examples, seed = case
    sigmas = [hidden, hidden, act.Softmax() if middle else hidden, hidden, act.Softmax()]
    net = network([2, 6, 3, 2, 5, 3], sigmas, ensemble, seed=seed)
    net.theta *= steep if steep < 10 or name(hidden) in HARD else 1.0
    seen, linear = step_of(net, *batch(net, examples, seed), LOG, seed), LINEAR.get(name(hidden), 1.0)
    for k in np.ndindex(ensemble):
        tall, single = slopes(net, k), step_alone(seen, k)
        flat = {i: [v for row in rows for v in row] for i, rows in tall.items()}
        assert list(tall) == ([1, 2, 4] if middle else [1, 2, 3, 4])
        mean = {i: square(every) / len(every) for i, every in flat.items()}
        assert plain(probes.slope_mean_square, seen, k) == near(mean)
        share = {i: sum(abs(v - linear) <= tolerance * linear for v in flat[i]) / len(flat[i]) for i in flat}
        assert plain(probes.NearLinearFraction(tolerance), seen, k) == share
        share = {i: sum(not any(column) for column in zip(*tall[i], strict=True)) / examples for i in tall}
        assert plain(probes.dead_examples, seen, k) == near(share, 1e-14, 1e-15)
        delta = [math.hypot(*layer.delta[k].flat) for layer in net.layers]
        ratios = plain(probes.delta_ratio, seen, k)
        assert list(ratios) == [1, 2, 3, 4]
        for i, over, under in zip(ratios, delta, delta[1:], strict=False):
            if not (0 < over < 1e-290 or 0 < under < 1e-290):  # subnormal numbers have few digits
                assert ratios[i] == near((over / under) ** 2 if under else math.inf if over else math.nan)
        above = [layer.W[k].ravel().tolist() for layer in net.layers[1:]]
        local = {i: sizes_of(net)[i] * square(above[i - 1]) / len(above[i - 1]) * mean[i] for i in mean}
        assert plain(probes.delta_ratio_local, seen, k) == near(local)
        passes = [slopes(single.network) for x in single.inputs() if single.network.forward(x).size]
        dead = {i: [not any(any(rows[i][j]) for rows in passes) for j in range(sizes_of(net)[i])] for i in tall}
        assert plain(probes.dead_units, seen, k) == {i: sum(units) / len(units) for i, units in dead.items()}


@settings(max_examples=examples(60), deadline=None)
@given(zeros=st.integers(0, 6), scale=st.sampled_from([1.0, 1e-160, 1e160]), case=cases)
def test_cosines_pair_by_pair(zeros: int, scale: float, case: Case) -> None:
    """The first examples have z = 0 everywhere and the right output, so δ = 0: they form no pair."""
    ensemble, examples, seed = case
    net = network([4, 5, 1, 3], [act.LeakyRelu(0.1)] * 3, ensemble, seed=seed)
    net.theta[..., net.n_weights :] = 0
    x, y = batch(net, examples, seed)
    x[..., :zeros], y[..., :zeros] = 0, 0
    seen = step_of(net, x * scale, y * scale, HALF)
    for k in np.ndindex(ensemble):
        for layer in net.layers:
            for probe, rows in ((probes.z_cosine, layer.z[k]), (probes.delta_cosine, layer.delta[k])):
                units = [[v / math.hypot(*column) for v in column] for column in rows.T.tolist() if any(column)]
                assert len(units) == max(examples - zeros, 0)
                pairs = [zip(u, v, strict=True) for i, u in enumerate(units) for v in units[:i]]
                cosines = [math.fsum(p * q for p, q in pair) for pair in pairs]
                mean = math.fsum(cosines) / len(cosines) if cosines else math.nan
                assert plain(probe, seen, k)[layer.number] == near(mean, 1e-11, 1e-13)


def by_frexp(x: Array) -> dict[int, int]:
    found: dict[int, int] = {}
    for v in x.ravel().tolist():
        e = ZERO if v == 0 else NAN if math.isnan(v) else INFINITE if math.isinf(v) else math.frexp(v)[1] - 1
        e = SUBNORMAL if 0 < abs(v) < float(np.finfo(x.dtype).tiny) else e
        found[e] = found.get(e, 0) + 1
    return dict(sorted(found.items()))


def by_exponent(x: Array) -> dict[int, int]:
    bins, counts = exponent_counts(x)
    return dict(zip(bins, counts[0].tolist(), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=examples(100), deadline=None)
@given(data=st.data())
def test_exponents_against_frexp_and_their_merging(dtype: str, data: st.DataObject) -> None:
    info = np.finfo(dtype)
    edges = 0, 1, 1 - info.epsneg, info.tiny, info.smallest_subnormal, info.tiny - info.smallest_subnormal, info.max
    odd = st.sampled_from([sign * float(v) for v in (*edges, math.inf, math.nan) for sign in (1, -1)])
    arrays = hnp.arrays(
        dtype, hnp.array_shapes(max_dims=2), elements=odd | st.floats(width=32 if dtype == "float32" else 64)
    )
    a, b, c = (data.draw(arrays) for _ in range(3))
    for x in (a, a.T, a[::2]):
        assert list(by_exponent(x).items()) == list(by_frexp(x).items())
    p, q, r = map(by_exponent, (a, b, c))
    together = by_exponent(np.concatenate([a.ravel(), b.ravel(), c.ravel()]))
    for merged in (merge(p, q, r), merge(r, p, q), merge(merge(p, q), r), merge(p, merge(q, r))):
        assert list(merged.items()) == list(together.items())
    assert (by_exponent(a), merge(), merge(p)) == (p, {}, p)  # neither merging nor counting changed anything


def test_exponents_layer_by_layer() -> None:
    net = network([3, 5, 4, 2], [act.Tanh(), act.Relu(), act.Identity()], (2, 2), "float32")
    seen = step_of(net, *batch(net, 6), HALF)
    for quantity, field in (("gradient", "dW"), ("delta", "delta"), ("activation", "a"), ("weight", "W")):
        for k in np.ndindex((2, 2)):
            found = values(build_probe({"_target_": ".ExponentHistogram", "of": quantity}), seen, k)
            expected = {("", layer.number): by_frexp(getattr(layer, field)[k]) for layer in net.layers}
            assert {key: dict(pairs) for key, pairs in found.items()} == expected


def spectra(layer: int, function: Callable[[Array], Array], points: Array) -> dict[tuple[str, int], Any]:
    """Of ∂function/∂point, column by column from central differences, at each of the points [m, B]."""
    steps = 1e-6 * np.eye(len(points))[:, :, None]
    columns = [(function(points + h).copy() - function(points - h).copy()) / 2e-6 for h in steps]
    s = np.array([np.linalg.svd(jacobian.T)[1] for jacobian in np.array(columns).transpose(2, 0, 1)])
    parts = {"mean": s.mean(), "max": s.max(), "min": s.min(), "condition": (s[:, 0] / s[:, -1]).max()}
    return {(part, layer): value for part, value in {**parts, "spectrum": list(enumerate(s.ravel()))}.items()}


@pytest.mark.parametrize("hidden", [act.Tanh(), act.Sigmoid(), act.Gelu(), act.LeakyRelu(0.1)], ids=name)
@pytest.mark.parametrize(("ensemble", "examples"), [((), 2), ((2,), 1), ((2,), 9)], ids=str)
def test_spectra_from_finite_differences(hidden: Activation, ensemble: Index, examples: int) -> None:
    net = network([3, 5, 3, 4], [hidden, hidden, act.Softmax()], ensemble, seed=3)
    seen = step_of(net, *batch(net, 4), LOG)
    for k in np.ndindex(ensemble):
        single, expected = step_alone(seen, k), {}
        for layer in single.network.layers:
            theta = np.concatenate([layer.W.ravel(), layer.b.ravel()])
            only = Network([layer.twin()], theta=theta)
            expected.update(spectra(layer.number, only.forward, layer.a_in[:, :examples]))
        blocks = [layer.twin() for layer in single.network.layers]
        blocks[-1].sigma = act.Identity()
        z_alone = Network(blocks, theta=single.network.theta)
        whole = spectra(0, z_alone.forward, single.network.x[:, :examples])
        for probe, wanted in (("Layer", expected), ("InputOutput", whole)):
            found = values(build_probe({"_target_": f".{probe}JacobianSpectrum", "examples": examples}), seen, k)
            assert sorted(found) == sorted(wanted)
            for key, value in wanted.items():
                assert np.array(found[key]) == near(np.array(value), 1e-6, 1e-8), key


@pytest.mark.parametrize("sigma", [act.Tanh(), act.Sigmoid()], ids=name)
@pytest.mark.parametrize(("cost", "far"), [(costs.SquaredError(), 0), (costs.SquaredError(), 6), (HALF, 0), (CROSS, 0)])
def test_sharpness_is_the_top_eigenvalue_of_the_dense_hessian(sigma: Activation, cost: costs.Cost, far: float) -> None:
    """Targets far below the outputs bend the squared error downwards: the eigenvalue of largest magnitude is < 0."""
    net = network([2, 3, 2], [sigma, act.Sigmoid()], (3,), seed=5)
    x, y = batch(net, 4)
    net.layers[1].b[...] += far / 4
    seen, probe = step_of(net, x, y - far, cost), probes.Sharpness(3000, 1e-11, net.theta.shape[-1])
    downwards = []
    for k in np.ndindex((3,)):
        single, columns = member(net, k), []
        for h in 1e-5 * np.eye(single.theta.size):
            for step in (h, -2 * h, h):  # to θ + h, to θ − h and back
                single.theta += step
                single.forward(x[k])
                columns.append(single.backward(y[k] - far, cost).copy())
        eigenvalues = np.linalg.eigvalsh((np.array(columns[::3]) - columns[1::3]) / 2e-5)
        downwards.append(bool(-eigenvalues[0] > eigenvalues[-1]))
        assert plain(probe, seen, k) == near({0: float(eigenvalues[-1])}, 1e-5)
        assert plain(probe, seen, k) == plain(probe, step_alone(seen, k))
    assert any(downwards) or not far
    assert measure(seen, probes.Sharpness(10, 0.1, net.theta.shape[-1] - 1)) == []
    assert measure(Step(net, y), probe) == measure(Step(net, None, cost), probe) == []


@pytest.mark.parametrize("ensemble", [(), (2,)], ids=str)
def test_random_cotangent_by_hand(ensemble: Index) -> None:
    net = network([3, 5, 4, 2], [act.Tanh(), act.Sigmoid(), act.Softmax()], ensemble)
    seen = step_of(net, *batch(net, 6), LOG, seed=8)
    for k in np.ndindex(ensemble):
        delta, expected = np.random.default_rng([8, *(k or (0,)), 1]).standard_normal((2, 6)), {}
        for layer in reversed(net.layers):
            expected[layer.number] = math.sqrt(square(delta.ravel().tolist()) / 6)
            if layer.number > 1:
                slope = np.array(slopes(net, k)[layer.number - 1])
                delta = np.einsum("ij,ib->jb", layer.W[k], delta) * slope
        assert plain(probes.RandomCotangent(probes.delta_rms), seen, k) == near(expected)
    assert measure(seen, probes.RandomCotangent(probes.gradient_cosine)) == []


def test_every_public_probe_has_an_option_in_conf() -> None:
    public = {key for key, value in vars(probes).items() if hasattr(value, "traits")}
    assert {getattr(probe, "__name__", type(probe).__name__) for probe in map(bare, PROBES.values())} == public
    assert len(PROBES) == 33


def bare(probe: Any) -> Any:
    return getattr(probe, "func", probe)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("spread", [0.0, 1e-7, 1e-3])
def test_spreads_of_nearly_equal_activations(dtype: str, bias: float, spread: float) -> None:
    """An ordered layer: rounding the mean costs more than the spread, and yet it is measured; 0 where there is none."""
    net = Network.mlp([2, 32], [act.Tanh()], dtype=dtype)
    net.theta[...] = np.r_[np.tile([spread, -spread], 32), np.full(32, bias)]
    x = np.random.default_rng(0).standard_normal((2, 128)).astype(dtype)
    net.forward(x)
    found = float(probes.activation_std(Layer(net.layers[0])))
    expected = float(np.std(net.layers[0].a.astype(np.longdouble)))
    noise = 0.0 if spread else 2 * float(np.finfo(dtype).eps)  # of the mean, where all activations are equal
    assert found == pytest.approx(expected, rel=1e-5 if dtype == "float32" else 1e-10, abs=noise)


def test_parameters_may_be_part_of_a_larger_array() -> None:
    whole = np.random.default_rng(0).standard_normal((2, 3, 26))
    blocks = [Dense(3, 4, act.Tanh()), Dense(4, 2, act.Identity())]
    net = Network(blocks, (2, 2), theta=whole[:, :2])
    for _ in range(2):
        x, y = np.ones((2, 2, 3, 5)), np.zeros((2, 2, 2, 5))
        gradient(net, x, y, HALF)
        (found,) = (m.values for m in measure(Step(net), probes.weight_norm))
        np.testing.assert_allclose(found, [norm(layer.W) for layer in net.layers], rtol=1e-14)
        net.theta *= 2


def test_the_update_under_a_random_cotangent_is_the_optimizers() -> None:
    """The gradient is another, and the update about to be made is not."""
    net = network([5, 6, 3], [act.Tanh(), act.Tanh()], ())
    step = step_of(net, *batch(net, 4, 0), HALF)
    expected = {i: float(norm(w)) for i, w in enumerate(weights(net, net.update), start=1)}
    assert plain(probes.RandomCotangent(probes.update_norm), step) == near(expected)


def test_probes_read_arrays_that_they_cannot_change() -> None:
    net = network([5, 6, 6, 3], [act.Tanh(), act.Tanh(), act.Softmax()], (2,))
    step = step_of(net, *batch(net, 4, 0), LOG)
    for layer in step.layers:
        for name_ in ("W", "b", "dW", "db", "W_update", "b_update", "a_in", "z", "a", "delta", "slope"):
            array = getattr(layer, name_)
            if array is not None:
                with pytest.raises(ValueError, match="read-only"):
                    array[...] = 0
    with pytest.raises(AttributeError, match="a layer has no weights"):
        _ = step.layers[0].weights


def test_a_function_of_a_users_own_reads_one_layer_at_a_time() -> None:
    """Undeclared, it may look at the layer's number; declared, it is averaged as it says."""
    net = network([3, *[4] * 5, 2], [act.Tanh()] * 6, (2,))
    step = step_of(net, *batch(net, 4, 0), HALF)

    def largest(layer: Layer) -> Array | None:
        return np.abs(layer.dW).max(axis=-1).max(axis=-1) if layer.number > 1 else None

    @layer_probe(geometric=True)
    def declared(layer: Layer) -> Array:
        return norm(layer.dW)

    (found,) = measure(step, largest)
    assert found.layers == (2, 3, 4, 5, 6)
    assert np.array_equal(found.values, [np.abs(layer.dW).max(axis=(1, 2)) for layer in net.layers[1:]])
    assert (traits_of(largest).geometric, traits_of(declared).geometric) == (False, True)
    (own,), (ours,) = measure(step, declared), measure(step, probes.gradient_norm)
    assert own.layers == ours.layers
    assert np.array_equal(own.values, ours.values)


def test_a_slope_may_be_any_array_of_a_users_own() -> None:
    class Switch(act.Relu):
        """Its σ' are truth values."""

        def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
            return z > 0

    theirs, ours = (network([4, 6, 3], [sigma, act.Identity()]) for sigma in (Switch(), act.Relu()))
    x, y = batch(ours, 9)
    for probe in (probes.slope_mean_square, probes.dead_fraction, probes.SaturatedFraction(0.1)):
        assert values(probe, step_of(theirs, x, y, HALF)) == values(probe, step_of(ours, x, y, HALF))


def test_a_step_without_randomness_or_data_says_so() -> None:
    net = network([3, 4, 2], [act.Tanh(), act.Tanh()])
    gradient(net, *batch(net, 4), HALF)
    with pytest.raises(LookupError, match="no randomness"):
        measure(Step(net), probes.RandomCotangent(probes.delta_rms))
    with pytest.raises(LookupError, match="no data"):
        measure(Step(net), probes.dead_units)
    assert measure(replace(Step(net), inputs=lambda: iter(())), probes.dead_units) == []
