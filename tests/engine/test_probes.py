"""Probes against slow twins: loops over units, examples, weights and pairs, with other formulas."""

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


def values(probe: Probe, step: Step, k: Index = ()) -> dict[tuple[str, int], Any]:
    """Return (part, layer or 0) -> value of member k; with bins, a list of (bin, value) without values of 0."""
    result: dict[tuple[str, int], Any] = {}
    for numbers, array, part, bins, _ in measure(step, probe):
        layers, tail = numbers or (0,), () if bins is None else (len(bins),)
        assert array.shape == (len(layers), *step.network.ensemble, *tail)
        for layer, value in zip(layers, array, strict=True):
            assert (part, layer) not in result
            pairs = None if bins is None else [(e, v) for e, v in zip(bins, value[k].tolist(), strict=True) if v != 0]
            result[part, layer] = float(value[k]) if pairs is None else pairs
    return result


def layer_values(probe: Probe, step: Step, k: Index = ()) -> dict[int, float]:
    return {layer: value for (_, layer), value in values(probe, step, k).items()}


def near(expected: Any, rel: float = 1e-10, absolute: float = 1e-300) -> Any:  # subnormals are imprecise
    return pytest.approx(expected, rel=rel, abs=absolute, nan_ok=True)


def square(x: list[float]) -> float:
    return math.fsum(v * v for v in x)


@pytest.mark.parametrize("hidden", ELEMENTWISE, ids=name)
@settings(max_examples=examples(15), deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=3, max_size=4), softmax=st.booleans(), case=cases)
def test_noise_probes_equal_statistics_of_single_examples(
    hidden: Activation, sizes: list[int], softmax: bool, case: Case
) -> None:
    (ensemble, examples, seed), cost = case, LOG if softmax else HALF
    net = network(sizes, [*[hidden] * (len(sizes) - 2), act.Softmax() if softmax else hidden], ensemble, seed=seed)
    x, y = batch(net, examples, seed)
    step = step_of(net, x, y, cost)
    for k in np.ndindex(ensemble):
        kinds = (
            probes.example_gradient_rms,
            probes.gradient_variance,
            probes.gradient_signal,
            probes.gradient_signal_to_noise,
        )
        rms, variances, signals, snr = (layer_values(probe, step, k) for probe in kinds)
        assert list(rms) == list(variances) == list(signals) == list(snr) == list(range(1, len(sizes)))
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
            assert variances[i] == pytest.approx(trace, rel=1e-10, abs=1e-13 * rms[i] ** 2)
            assert signals[i] == pytest.approx(signal - trace / examples, rel=1e-10, abs=1e-13 * rms[i] ** 2)
            if not g.any():
                assert snr[i] == near(math.nan)
            elif trace > 1e-4 * signal:  # otherwise ρ − 1 has too few digits
                assert snr[i] == pytest.approx(math.sqrt(signal / (trace / examples)), rel=1e-10, abs=1e-14)


def test_noise_probes_of_two_examples_equal_values_by_hand() -> None:
    """θ = 0 and y = −1, so δ = 1 and g = x: parallel, orthogonal, opposite; then a single example."""
    net, y = Network.mlp([2, 1], [act.Identity()]), np.array([[-1.0, -1.0]])
    batches = [[1, 3], [0, 0]], [[1, 0], [0, 1]], [[1, -1], [2, -2]]
    for x, expected in zip(batches, [(2.0, 3.0, 2.0), (1.0, 0.0, 1.0), (10.0, -5.0, 0.0)], strict=True):
        step = step_of(net, np.array(x, float), y, HALF)
        kinds = probes.gradient_variance, probes.gradient_signal, probes.gradient_signal_to_noise
        measured = [layer_values(probe, step)[1] for probe in kinds]
        assert measured == pytest.approx(expected, rel=1e-14, abs=1e-15)
    pairs = probes.gradient_variance, probes.gradient_signal, probes.gradient_signal_to_noise
    for probe in (*pairs, probes.z_cosine, probes.delta_cosine):
        assert values(probe, step_of(net, np.ones((2, 1)), y[:, :1], HALF)) == {}


@pytest.mark.parametrize("sizes", [[3, 5, 1, 1, 2], [68, 67, 2]], ids=str)  # layers of 1 to 4556 weights
@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1e-30), ("float32", 1e30), ("float64", 1e-200), ("d", 1e200)])
@pytest.mark.parametrize("seed", range(2))
def test_update_probes_equal_loops_over_weights(sizes: list[int], dtype: str, scale: float, seed: int) -> None:
    """Also where the squares of one member alone overflow or underflow."""
    net = network(sizes, [act.Tanh()] * (len(sizes) - 1), (2,), dtype, seed)
    step, rng = step_of(net, *batch(net, 3), HALF, seed), np.random.default_rng(seed)
    assert step.previous_grad is not None
    net.grad[1] += 0.5 * step.previous_grad[1]
    net.grad[rng.random(net.grad.shape) < 0.4] = 0
    net.update[...] *= 10 ** rng.uniform(-18, 0, net.grad.shape)
    vectors = net.theta, net.update, net.grad, step.previous_grad
    for vector in vectors:
        vector[0] *= scale
    net.layers[1].dW[0] = 0  # no weight has a gradient
    norms = probes.weight_norm, probes.update_norm, probes.gradient_norm
    rel = 1e-5 if dtype == "float32" else 1e-12
    for k in np.ndindex((2,)):
        for i, parts in enumerate(zip(*(weights(net, v) for v in vectors), strict=True), start=1):
            w, dw, g, h = (list(part[k].flat) for part in parts)  # scalars of the run's type
            moved = [(u, v) for u, v, s in zip(w, dw, g, strict=True) if s != 0]
            lost = sum(bool(u + v == u) for u, v in moved)
            assert type(w[0] + dw[0]) is np.dtype(dtype).type
            assert layer_values(probes.lost_updates, step, k)[i] == (lost / len(moved) if moved else 0.0)
            assert 0 < lost < len(moved) or (i, k) == (2, (0,)) or len(w) < 200
            lengths = [math.hypot(*map(float, part)) for part in (w, dw, g, h)]
            assert [layer_values(probe, step, k)[i] for probe in norms] == near(lengths[:3], rel)
            terms = [float(p) / lengths[2] * (float(q) / lengths[3]) for p, q in zip(g, h, strict=True) if p != 0]
            cosine = math.fsum(terms) if terms else math.nan
            assert layer_values(probes.gradient_cosine, step, k)[i] == near(cosine, rel, rel)
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
HARD = ("Sigmoid", "Tanh", "Relu", "Elu", "Selu", "HardTanh")  # σ' is exactly 0 for some z
LINEAR = {"Sigmoid": 0.25, "Selu": LAMBDA}  # σ' where σ is nearly linear; else 1


def slopes(net: Network, k: Index = ()) -> dict[int, list[list[float]]]:
    """Return |σ'(z)| per element-wise layer, unit and example."""
    result = {}
    for layer in (layer for layer in net.layers if isinstance(layer.sigma, act.Elementwise)):
        slope, units = SLOPES[name(layer.sigma)], zip(layer.z[k].tolist(), layer.a[k].tolist(), strict=True)
        result[layer.number] = [[abs(slope(*pair)) for pair in zip(z, a, strict=True)] for z, a in units]
    return result


@pytest.mark.parametrize("hidden", ELEMENTWISE, ids=name)
@settings(max_examples=examples(15), deadline=None)
@given(
    middle=st.booleans(), steep=st.sampled_from([0.3, 1, 2, 300]), tolerance=st.sampled_from([0.1, 0.88]), case=cases
)
def test_slope_probes_equal_loops_over_units(
    hidden: Activation, middle: bool, steep: float, tolerance: float, case: Case
) -> None:
    """A softmax in the middle has no slope; the layers around it keep their numbers."""
    ensemble, examples, seed = case
    sigmas = [hidden, hidden, act.Softmax() if middle else hidden, hidden, act.Softmax()]
    net = network([2, 6, 3, 2, 5, 3], sigmas, ensemble, seed=seed)
    net.theta *= steep if steep < 10 or name(hidden) in HARD else 1.0
    step, linear = step_of(net, *batch(net, examples, seed), LOG, seed), LINEAR.get(name(hidden), 1.0)
    for k in np.ndindex(ensemble):
        tall, single = slopes(net, k), step_alone(step, k)
        flat = {i: [v for row in rows for v in row] for i, rows in tall.items()}
        assert list(tall) == ([1, 2, 4] if middle else [1, 2, 3, 4])
        mean = {i: square(every) / len(every) for i, every in flat.items()}
        assert layer_values(probes.slope_mean_square, step, k) == near(mean)
        share = {i: sum(abs(v - linear) <= tolerance * linear for v in flat[i]) / len(flat[i]) for i in flat}
        assert layer_values(probes.NearLinearFraction(tolerance), step, k) == share
        share = {i: sum(not any(column) for column in zip(*tall[i], strict=True)) / examples for i in tall}
        assert layer_values(probes.dead_examples, step, k) == near(share, 1e-14, 1e-15)
        delta = [math.hypot(*layer.delta[k].flat) for layer in net.layers]
        ratios = layer_values(probes.delta_ratio, step, k)
        assert list(ratios) == [1, 2, 3, 4]
        for i, lower, upper in zip(ratios, delta, delta[1:], strict=False):
            if not (0 < lower < 1e-290 or 0 < upper < 1e-290):  # subnormals are imprecise
                assert ratios[i] == near((lower / upper) ** 2 if upper else math.inf if lower else math.nan)
        above = [layer.W[k].ravel().tolist() for layer in net.layers[1:]]
        local = {i: sizes_of(net)[i] * square(above[i - 1]) / len(above[i - 1]) * mean[i] for i in mean}
        assert layer_values(probes.delta_ratio_local, step, k) == near(local)
        passes = [slopes(single.network) for x in single.inputs() if single.network.forward(x).size]
        dead = {i: [not any(any(rows[i][j]) for rows in passes) for j in range(sizes_of(net)[i])] for i in tall}
        assert layer_values(probes.dead_units, step, k) == {i: sum(units) / len(units) for i, units in dead.items()}


@settings(max_examples=examples(60), deadline=None)
@given(zeros=st.integers(0, 6), scale=st.sampled_from([1.0, 1e-160, 1e160]), case=cases)
def test_cosine_probes_equal_loops_over_pairs(zeros: int, scale: float, case: Case) -> None:
    """The first examples have z = 0 and the correct output, so δ = 0: they form no pair."""
    ensemble, examples, seed = case
    net = network([4, 5, 1, 3], [act.LeakyRelu(0.1)] * 3, ensemble, seed=seed)
    net.theta[..., net.n_weights :] = 0
    x, y = batch(net, examples, seed)
    x[..., :zeros], y[..., :zeros] = 0, 0
    step = step_of(net, x * scale, y * scale, HALF)
    for k in np.ndindex(ensemble):
        for layer in net.layers:
            for probe, rows in ((probes.z_cosine, layer.z[k]), (probes.delta_cosine, layer.delta[k])):
                units = [[v / math.hypot(*column) for v in column] for column in rows.T.tolist() if any(column)]
                assert len(units) == max(examples - zeros, 0)
                pairs = [zip(u, v, strict=True) for i, u in enumerate(units) for v in units[:i]]
                cosines = [math.fsum(p * q for p, q in pair) for pair in pairs]
                mean = math.fsum(cosines) / len(cosines) if cosines else math.nan
                assert layer_values(probe, step, k)[layer.number] == near(mean, 1e-11, 1e-13)


def by_frexp(x: Array) -> dict[int, int]:
    counts: dict[int, int] = {}
    for v in x.ravel().tolist():
        e = ZERO if v == 0 else NAN if math.isnan(v) else INFINITE if math.isinf(v) else math.frexp(v)[1] - 1
        e = SUBNORMAL if 0 < abs(v) < float(np.finfo(x.dtype).tiny) else e
        counts[e] = counts.get(e, 0) + 1
    return dict(sorted(counts.items()))


def by_exponent(x: Array) -> dict[int, int]:
    bins, counts = exponent_counts(x)
    return dict(zip(bins, counts[0].tolist(), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=examples(100), deadline=None)
@given(data=st.data())
def test_exponent_counts_equal_frexp_and_merge_in_any_order(dtype: str, data: st.DataObject) -> None:
    info = np.finfo(dtype)
    edges = 0, 1, 1 - info.epsneg, info.tiny, info.smallest_subnormal, info.tiny - info.smallest_subnormal, info.max
    special = st.sampled_from([sign * float(v) for v in (*edges, math.inf, math.nan) for sign in (1, -1)])
    arrays = hnp.arrays(
        dtype, hnp.array_shapes(max_dims=2), elements=special | st.floats(width=32 if dtype == "float32" else 64)
    )
    a, b, c = (data.draw(arrays) for _ in range(3))
    for x in (a, a.T, a[::2]):
        assert list(by_exponent(x).items()) == list(by_frexp(x).items())
    p, q, r = map(by_exponent, (a, b, c))
    concatenated = by_exponent(np.concatenate([a.ravel(), b.ravel(), c.ravel()]))
    for merged in (merge(p, q, r), merge(r, p, q), merge(merge(p, q), r), merge(p, merge(q, r))):
        assert list(merged.items()) == list(concatenated.items())
    assert (by_exponent(a), merge(), merge(p)) == (p, {}, p)  # merging does not change its arguments


def test_exponent_histogram_equals_counts_per_layer() -> None:
    net = network([3, 5, 4, 2], [act.Tanh(), act.Relu(), act.Identity()], (2, 2), "float32")
    step = step_of(net, *batch(net, 6), HALF)
    for quantity, field in (("gradient", "dW"), ("delta", "delta"), ("activation", "a"), ("weight", "W")):
        for k in np.ndindex((2, 2)):
            histograms = values(build_probe({"_target_": ".ExponentHistogram", "of": quantity}), step, k)
            expected = {("", layer.number): by_frexp(getattr(layer, field)[k]) for layer in net.layers}
            assert {key: dict(pairs) for key, pairs in histograms.items()} == expected


def spectra(layer: int, function: Callable[[Array], Array], points: Array) -> dict[tuple[str, int], Any]:
    """Return the spectra of ∂function/∂point at each of the points [m, B], from central differences."""
    steps = 1e-6 * np.eye(len(points))[:, :, None]
    columns = [(function(points + h).copy() - function(points - h).copy()) / 2e-6 for h in steps]
    s = np.array([np.linalg.svd(jacobian.T)[1] for jacobian in np.array(columns).transpose(2, 0, 1)])
    parts = {"mean": s.mean(), "max": s.max(), "min": s.min(), "condition": (s[:, 0] / s[:, -1]).max()}
    return {(part, layer): value for part, value in {**parts, "spectrum": list(enumerate(s.ravel()))}.items()}


@pytest.mark.parametrize("hidden", [act.Tanh(), act.Sigmoid(), act.Gelu(), act.LeakyRelu(0.1)], ids=name)
@pytest.mark.parametrize(("ensemble", "examples"), [((), 2), ((2,), 1), ((2,), 9)], ids=str)
def test_spectra_equal_finite_differences(hidden: Activation, ensemble: Index, examples: int) -> None:
    net = network([3, 5, 3, 4], [hidden, hidden, act.Softmax()], ensemble, seed=3)
    step = step_of(net, *batch(net, 4), LOG)
    for k in np.ndindex(ensemble):
        single, expected = step_alone(step, k), {}
        for layer in single.network.layers:
            theta = np.concatenate([layer.W.ravel(), layer.b.ravel()])
            layer_net = Network([layer.twin()], theta=theta)
            expected.update(spectra(layer.number, layer_net.forward, layer.a_in[:, :examples]))
        blocks = [layer.twin() for layer in single.network.layers]
        blocks[-1].sigma = act.Identity()
        z_net = Network(blocks, theta=single.network.theta)
        whole = spectra(0, z_net.forward, single.network.x[:, :examples])
        for probe, references in (("Layer", expected), ("InputOutput", whole)):
            measured = values(build_probe({"_target_": f".{probe}JacobianSpectrum", "examples": examples}), step, k)
            assert sorted(measured) == sorted(references)
            for key, value in references.items():
                assert np.array(measured[key]) == near(np.array(value), 1e-6, 1e-8), key


@pytest.mark.parametrize("sigma", [act.Tanh(), act.Sigmoid()], ids=name)
@pytest.mark.parametrize(("cost", "low"), [(costs.SquaredError(), 0), (costs.SquaredError(), 6), (HALF, 0), (CROSS, 0)])
@pytest.mark.thorough
def test_sharpness_is_the_top_eigenvalue_of_the_dense_hessian(sigma: Activation, cost: costs.Cost, low: float) -> None:
    """Targets far below the outputs make the eigenvalue of largest magnitude negative."""
    net = network([2, 3, 2], [sigma, act.Sigmoid()], (3,), seed=5)
    x, y = batch(net, 4)
    net.layers[1].b[...] += low / 4
    step, probe = step_of(net, x, y - low, cost), probes.Sharpness(3000, 1e-11, net.theta.shape[-1])
    negative = []
    for k in np.ndindex((3,)):
        single, columns = member(net, k), []
        for h in 1e-5 * np.eye(single.theta.size):
            for change in (h, -2 * h, h):  # to θ + h, to θ − h and back
                single.theta += change
                single.forward(x[k])
                columns.append(single.backward(y[k] - low, cost).copy())
        eigenvalues = np.linalg.eigvalsh((np.array(columns[::3]) - columns[1::3]) / 2e-5)
        negative.append(bool(-eigenvalues[0] > eigenvalues[-1]))
        assert layer_values(probe, step, k) == near({0: float(eigenvalues[-1])}, 1e-5)
        assert layer_values(probe, step, k) == layer_values(probe, step_alone(step, k))
    assert any(negative) or not low
    assert measure(step, probes.Sharpness(10, 0.1, net.theta.shape[-1] - 1)) == []
    assert measure(Step(net, y), probe) == measure(Step(net, None, cost), probe) == []


@pytest.mark.parametrize("ensemble", [(), (2,)], ids=str)
def test_random_cotangent_equals_loops(ensemble: Index) -> None:
    net = network([3, 5, 4, 2], [act.Tanh(), act.Sigmoid(), act.Softmax()], ensemble)
    step = step_of(net, *batch(net, 6), LOG, seed=8)
    for k in np.ndindex(ensemble):
        delta, expected = np.random.default_rng([8, *(k or (0,)), 1]).standard_normal((2, 6)), {}
        for layer in reversed(net.layers):
            expected[layer.number] = math.sqrt(square(delta.ravel().tolist()) / 6)
            if layer.number > 1:
                slope = np.array(slopes(net, k)[layer.number - 1])
                delta = np.einsum("ij,ib->jb", layer.W[k], delta) * slope
        assert layer_values(probes.RandomCotangent(probes.delta_rms), step, k) == near(expected)
    assert measure(step, probes.RandomCotangent(probes.gradient_cosine)) == []


def test_every_public_probe_has_an_option_in_conf() -> None:
    public = {key for key, value in vars(probes).items() if hasattr(value, "traits")}
    assert {getattr(probe, "__name__", type(probe).__name__) for probe in map(bare, PROBES.values())} == public
    assert len(PROBES) == 34


def bare(probe: Any) -> Any:
    return getattr(probe, "func", probe)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("spread", [0.0, 1e-7, 1e-3])
def test_activation_std_is_precise_for_nearly_equal_activations(dtype: str, bias: float, spread: float) -> None:
    """The rounding error of the float32 mean exceeds the spread of such an ordered layer."""
    net = Network.mlp([2, 32], [act.Tanh()], dtype=dtype)
    net.theta[...] = np.r_[np.tile([spread, -spread], 32), np.full(32, bias)]
    x = np.random.default_rng(0).standard_normal((2, 128)).astype(dtype)
    net.forward(x)
    measured = float(probes.activation_std(Layer(net.layers[0])))
    expected = float(np.std(net.layers[0].a.astype(np.longdouble)))
    noise = 0.0 if spread else 2 * float(np.finfo(dtype).eps)  # rounding of the mean of equal activations
    assert measured == pytest.approx(expected, rel=1e-5 if dtype == "float32" else 1e-10, abs=noise)


def test_theta_may_be_a_view_of_a_larger_array() -> None:
    whole = np.random.default_rng(0).standard_normal((2, 3, 26))
    blocks = [Dense(3, 4, act.Tanh()), Dense(4, 2, act.Identity())]
    net = Network(blocks, (2, 2), theta=whole[:, :2])
    for _ in range(2):
        x, y = np.ones((2, 2, 3, 5)), np.zeros((2, 2, 2, 5))
        gradient(net, x, y, HALF)
        (norms,) = (m.values for m in measure(Step(net), probes.weight_norm))
        np.testing.assert_allclose(norms, [norm(layer.W) for layer in net.layers], rtol=1e-14)
        net.theta *= 2


def test_random_cotangent_keeps_the_update_of_the_optimizer() -> None:
    net = network([5, 6, 3], [act.Tanh(), act.Tanh()], ())
    step = step_of(net, *batch(net, 4, 0), HALF)
    expected = {i: float(norm(w)) for i, w in enumerate(weights(net, net.update), start=1)}
    assert layer_values(probes.RandomCotangent(probes.update_norm), step) == near(expected)


def test_arrays_of_a_layer_are_read_only() -> None:
    net = network([5, 6, 6, 3], [act.Tanh(), act.Tanh(), act.Softmax()], (2,))
    step = step_of(net, *batch(net, 4, 0), LOG)
    for layer in step.layers:
        for name_ in ("W", "b", "dW", "db", "W_update", "b_update", "a_in", "z", "a", "delta", "slope"):
            array = getattr(layer, name_)
            if array is not None:
                with pytest.raises(ValueError, match="read-only"):
                    array[...] = 0
    with pytest.raises(AttributeError, match="weights: a layer has no such array; allowed: W, b"):
        _ = step.layers[0].weights


def test_user_functions_are_probes_of_a_layer() -> None:
    """An undeclared function has the default traits, a declared function its own."""
    net = network([3, *[4] * 5, 2], [act.Tanh()] * 6, (2,))
    step = step_of(net, *batch(net, 4, 0), HALF)

    def largest(layer: Layer) -> Array | None:
        return np.abs(layer.dW).max(axis=-1).max(axis=-1) if layer.number > 1 else None

    @layer_probe(geometric=True)
    def declared(layer: Layer) -> Array:
        return norm(layer.dW)

    (measurement,) = measure(step, largest)
    assert measurement.layers == (2, 3, 4, 5, 6)
    assert np.array_equal(measurement.values, [np.abs(layer.dW).max(axis=(1, 2)) for layer in net.layers[1:]])
    assert (traits_of(largest).geometric, traits_of(declared).geometric) == (False, True)
    (user,), (reference,) = measure(step, declared), measure(step, probes.gradient_norm)
    assert user.layers == reference.layers
    assert np.array_equal(user.values, reference.values)


def test_slope_probes_accept_truth_values() -> None:
    class BooleanRelu(act.Relu):
        """ReLU whose derivative returns truth values."""

        def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
            return z > 0

    boolean, floating = (network([4, 6, 3], [sigma, act.Identity()]) for sigma in (BooleanRelu(), act.Relu()))
    x, y = batch(floating, 9)
    for probe in (probes.slope_mean_square, probes.dead_fraction, probes.SaturatedFraction(0.1)):
        assert values(probe, step_of(boolean, x, y, HALF)) == values(probe, step_of(floating, x, y, HALF))


def test_step_without_generators_or_inputs_raises_lookup_error() -> None:
    net = network([3, 4, 2], [act.Tanh(), act.Tanh()])
    gradient(net, *batch(net, 4), HALF)
    with pytest.raises(LookupError, match="generators: the step has none"):
        measure(Step(net), probes.RandomCotangent(probes.delta_rms))
    with pytest.raises(LookupError, match="inputs: the step has none"):
        measure(Step(net), probes.dead_units)
    assert measure(replace(Step(net), inputs=lambda: iter(())), probes.dead_units) == []
