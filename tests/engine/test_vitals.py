"""The vitals against slow twins: loops over units, examples, weights and pairs, each quantity computed another way."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from parts import ELEMENTWISE, batch, member, name, network

from engine import activations as act
from engine import costs, probes
from engine.activations import Activation
from engine.arrays import Array, norm
from engine.exponents import INFINITE, NAN, SUBNORMAL, ZERO, exponent_counts, merge
from engine.learning_rates import Constant
from engine.network import Network, slices
from engine.observed import Layers
from engine.optimizers import SGD, ClipGlobalNorm
from engine.probes import Moment, Probe
from engine.sums import Of, Sums, Wanted

Index = tuple[int, ...]
CONF = Path(__file__).parents[2] / "conf"
HALF, LOG, CROSS = costs.HalfSquaredError(), costs.LogLikelihood(), costs.CrossEntropy()
Case = tuple[Index, int, int]  # ensemble, examples, seed
cases = st.tuples(st.sampled_from([(), (2,)]), st.integers(2, 7), st.integers(0, 999))


def built(node: dict[str, Any]) -> Any:
    arguments = {key: built(v) if isinstance(v, dict) else v for key, v in node.items() if key != "_target_"}
    return getattr(probes, node["_target_"].rpartition(".")[2])(**arguments)


PROBES: dict[str, Probe] = {path.stem: built(yaml.safe_load(path.read_text())) for path in CONF.glob("probe/*.yaml")}


def moment(net: Network, x: Array, y: Array, cost: costs.Cost, seed: int = 0) -> Moment:
    """A step with a random update and a random gradient before it; a whole pass is three batches of other sizes."""

    def generators(use: int) -> list[np.random.Generator]:
        return [np.random.default_rng([seed, k, use]) for k in range(net.members)]

    net.forward(x)
    net.backward(y, cost)
    update, previous = np.random.default_rng(seed).standard_normal((2, *net.theta.shape)).astype(net.theta.dtype)
    whole = [batch(net, examples, seed + examples)[0] for examples in (3, 1, 4)]
    return Moment(net, update, y, cost, previous, generators, lambda: iter(whole))


def alone(of: Any, k: Index) -> Moment:
    """The same step of one member by itself."""
    net, place = member(of.network, k), int(np.ravel_multi_index(k, of.network.ensemble)) if k else 0
    net.forward(of.x[k])
    net.backward(of.y[k], of.cost)
    rest = of.y[k], of.cost, of.previous_grad[k], lambda use: [of.generators(use)[place]]
    return Moment(net, of.update[k], *rest, lambda: (x[k] for x in of.inputs()))


def values(probe: Probe, of: Moment, k: Index = ()) -> dict[tuple[str, int], Any]:
    """(part, layer or 0) -> value of one member; with bins a list of (bin, value), bins that are 0 left out."""
    found: dict[tuple[str, int], Any] = {}
    with np.errstate(all="ignore"):
        readings = probe.readings(of)
    for numbers, read, part, bins, _ in readings:
        layers, tail = numbers or (0,), () if bins is None else (len(bins),)
        assert read.shape == (len(layers), *of.network.ensemble, *tail)
        for layer, value in zip(layers, read, strict=True):
            assert (part, layer) not in found
            pairs = None if bins is None else [(e, v) for e, v in zip(bins, value[k].tolist(), strict=True) if v != 0]
            found[part, layer] = float(value[k]) if pairs is None else pairs
    return found


def plain(probe: Probe, of: Moment, k: Index = ()) -> dict[int, float]:
    return {layer: value for (_, layer), value in values(probe, of, k).items()}


def near(expected: Any, rel: float = 1e-10, absolute: float = 1e-300) -> Any:  # subnormal numbers have few digits
    return pytest.approx(expected, rel=rel, abs=absolute, nan_ok=True)


def square(x: list[float]) -> float:
    return math.fsum(v * v for v in x)


@pytest.mark.parametrize("hidden", ELEMENTWISE, ids=name)
@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=3, max_size=4), softmax=st.booleans(), case=cases)
def test_noise_from_every_example_alone(hidden: Activation, sizes: list[int], softmax: bool, case: Case) -> None:
    (ensemble, examples, seed), cost = case, LOG if softmax else HALF
    net = network(sizes, [*[hidden] * (len(sizes) - 2), act.Softmax() if softmax else hidden], ensemble, seed=seed)
    x, y = batch(net, examples, seed)
    seen = moment(net, x, y, cost)
    for k in np.ndindex(ensemble):
        kinds = probes.ExampleGradientRms(), probes.GradientNoiseScale(), probes.GradientSignalToNoise()
        rms, scales, standing = (plain(probe, seen, k) for probe in kinds)
        assert list(rms) == list(scales) == list(standing) == list(range(1, len(sizes)))
        single, rows = member(net, k), []
        for b in range(examples):
            single.forward(x[k][:, [b]])
            single.backward(y[k][:, [b]], cost)
            rows.append(single.grad.copy())
        for i, g in enumerate(net.parameters.weights(np.array(rows)), start=1):
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
    net, y = Network([2, 1], [act.Identity()]), np.array([[-1.0, -1.0]])
    batches = [[1, 3], [0, 0]], [[1, 0], [0, 1]], [[1, -1], [2, -2]]
    for x, expected in zip(batches, [(2 / (4 - 1), 2.0), (math.inf, 1.0), (math.inf, 0.0)], strict=True):
        seen = moment(net, np.array(x, float), y, HALF)
        found = [plain(probe, seen)[1] for probe in (probes.GradientNoiseScale(), probes.GradientSignalToNoise())]
        assert found == near(expected, 1e-14)
    for probe in (probes.GradientNoiseScale(), probes.GradientSignalToNoise(), probes.ZCosine(), probes.DeltaCosine()):
        assert values(probe, moment(net, np.ones((2, 1)), y[:, :1], HALF)) == {}


@pytest.mark.parametrize("sizes", [[3, 5, 1, 1, 2], [68, 67, 2]], ids=str)  # short stretches, and one above 4096
@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1e-30), ("float32", 1e30), ("float64", 1e-200), ("d", 1e200)])
@pytest.mark.parametrize("seed", range(2))
def test_updates_weight_by_weight(sizes: list[int], dtype: str, scale: float, seed: int) -> None:
    """Also where the squares of one member leave the type, and those of the other do not."""
    net = network(sizes, [act.Tanh()] * (len(sizes) - 1), (2,), dtype, seed)
    seen, rng = moment(net, *batch(net, 3), HALF, seed), np.random.default_rng(seed)
    assert seen.previous_grad is not None
    net.grad[1] += 0.5 * seen.previous_grad[1]
    net.grad[rng.random(net.grad.shape) < 0.4] = 0
    seen.update[...] *= 10 ** rng.uniform(-18, 0, net.grad.shape)
    vectors = net.theta, seen.update, net.grad, seen.previous_grad
    for vector in vectors:
        vector[0] *= scale
    net.layers[1].dW[0] = 0  # nothing is learnt there
    norms = probes.WeightNorm(), probes.UpdateNorm(), probes.GradientNorm()
    rel = 1e-5 if dtype == "float32" else 1e-12
    for k in np.ndindex((2,)):
        for i, parts in enumerate(zip(*map(net.parameters.weights, vectors), strict=True), start=1):
            w, dw, g, h = (list(part[k].flat) for part in parts)  # scalars of the run's type
            alive = [(u, v) for u, v, s in zip(w, dw, g, strict=True) if s != 0]
            lost = sum(bool(u + v == u) for u, v in alive)
            assert type(w[0] + dw[0]) is np.dtype(dtype).type
            assert plain(probes.LostUpdates(), seen, k)[i] == (lost / len(alive) if alive else 0.0)
            assert 0 < lost < len(alive) or (i, k) == (2, (0,)) or len(w) < 200
            lengths = [math.hypot(*map(float, part)) for part in (w, dw, g, h)]
            assert [plain(probe, seen, k)[i] for probe in norms] == near(lengths[:3], rel)
            terms = [float(p) / lengths[2] * (float(q) / lengths[3]) for p, q in zip(g, h, strict=True) if p != 0]
            assert plain(probes.GradientCosine(), seen, k)[i] == near(math.fsum(terms) if terms else math.nan, rel, rel)
    assert probes.GradientCosine().readings(Moment(net, seen.update)) == []


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
    for layer in (layer for layer in net.layers if layer.sigma.elementwise):
        slope, units = SLOPES[name(layer.sigma)], zip(layer.z[k].tolist(), layer.a[k].tolist(), strict=True)
        found[layer.number] = [[abs(slope(*pair)) for pair in zip(z, a, strict=True)] for z, a in units]
    return found


@pytest.mark.parametrize("hidden", ELEMENTWISE, ids=name)
@settings(max_examples=15, deadline=None)
@given(
    middle=st.booleans(), steep=st.sampled_from([0.3, 1, 2, 300]), tolerance=st.sampled_from([0.1, 0.88]), case=cases
)
def test_slopes_unit_by_unit(hidden: Activation, middle: bool, steep: float, tolerance: float, case: Case) -> None:
    """A softmax in the middle has no slope, and those around it keep their places."""
    ensemble, examples, seed = case
    sigmas = [hidden, hidden, act.Softmax() if middle else hidden, hidden, act.Softmax()]
    net = network([2, 6, 3, 2, 5, 3], sigmas, ensemble, seed=seed)
    net.theta *= steep if steep < 10 or name(hidden) in HARD else 1.0
    seen, linear = moment(net, *batch(net, examples, seed), LOG, seed), LINEAR.get(name(hidden), 1.0)
    for k in np.ndindex(ensemble):
        tall, single = slopes(net, k), alone(seen, k)
        flat = {i: [v for row in rows for v in row] for i, rows in tall.items()}
        assert list(tall) == ([1, 2, 4] if middle else [1, 2, 3, 4])
        mean = {i: square(every) / len(every) for i, every in flat.items()}
        assert plain(probes.SlopeMeanSquare(), seen, k) == near(mean)
        share = {i: sum(abs(v - linear) <= tolerance * linear for v in flat[i]) / len(flat[i]) for i in flat}
        assert plain(probes.NearLinearFraction(tolerance), seen, k) == share
        share = {i: sum(not any(column) for column in zip(*tall[i], strict=True)) / examples for i in tall}
        assert plain(probes.DeadExamples(), seen, k) == near(share, 1e-14, 1e-15)
        delta = [math.hypot(*layer.delta[k].flat) for layer in net.layers]
        ratios = plain(probes.DeltaRatio(), seen, k)
        assert list(ratios) == [1, 2, 3, 4]
        for i, over, under in zip(ratios, delta, delta[1:], strict=False):
            if not (0 < over < 1e-290 or 0 < under < 1e-290):  # subnormal numbers have few digits
                assert ratios[i] == near((over / under) ** 2 if under else math.inf if over else math.nan)
        above = [layer.W[k].ravel().tolist() for layer in net.layers[1:]]
        local = {i: net.sizes[i] * square(above[i - 1]) / len(above[i - 1]) * mean[i] for i in mean}
        assert plain(probes.DeltaRatioLocal(), seen, k) == near(local)
        passes = [slopes(single.network) for x in single.inputs() if single.network.forward(x).size]
        dead = {i: [not any(any(rows[i][j]) for rows in passes) for j in range(net.sizes[i])] for i in tall}
        assert plain(probes.DeadUnits(), seen, k) == {i: sum(units) / len(units) for i, units in dead.items()}


@settings(max_examples=60, deadline=None)
@given(zeros=st.integers(0, 6), scale=st.sampled_from([1.0, 1e-160, 1e160]), case=cases)
def test_cosines_pair_by_pair(zeros: int, scale: float, case: Case) -> None:
    """The first examples have z = 0 everywhere and the right output, so δ = 0: they form no pair."""
    ensemble, examples, seed = case
    net = network([4, 5, 1, 3], [act.LeakyRelu(0.1)] * 3, ensemble, seed=seed)
    net.theta[..., net.parameters.n_weights :] = 0
    x, y = batch(net, examples, seed)
    x[..., :zeros], y[..., :zeros] = 0, 0
    seen = moment(net, x * scale, y * scale, HALF)
    for k in np.ndindex(ensemble):
        for layer in net.layers:
            for probe, rows in ((probes.ZCosine(), layer.z[k]), (probes.DeltaCosine(), layer.delta[k])):
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
@settings(max_examples=100, deadline=None)
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
    seen = moment(net, *batch(net, 6), HALF)
    for quantity, field in (("gradient", "dW"), ("delta", "delta"), ("activation", "a"), ("weight", "W")):
        for k in np.ndindex((2, 2)):
            found = values(built({"_target_": ".ExponentHistogram", "of": quantity}), seen, k)
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
    seen = moment(net, *batch(net, 4), LOG)
    for k in np.ndindex(ensemble):
        single, expected = alone(seen, k), {}
        for layer in single.network.layers:
            only = Network(layer.W.shape[::-1], [layer.sigma], theta=np.concatenate([layer.W.ravel(), layer.b.ravel()]))
            expected.update(spectra(layer.number, only.forward, layer.a_in[:, :examples]))
        z_alone = Network(net.sizes, [hidden, hidden, act.Identity()], theta=single.network.theta)
        whole = spectra(0, z_alone.forward, single.x[:, :examples])
        for probe, wanted in (("Layer", expected), ("InputOutput", whole)):
            found = values(built({"_target_": f".{probe}JacobianSpectrum", "examples": examples}), seen, k)
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
    seen, probe = moment(net, x, y - far, cost), probes.Sharpness(3000, 1e-11, net.parameters.count)
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
        assert plain(probe, seen, k) == plain(probe, alone(seen, k))
    assert any(downwards) or not far
    assert probes.Sharpness(10, 0.1, net.parameters.count - 1).readings(seen) == []
    assert probe.readings(Moment(net, seen.update, y)) == probe.readings(Moment(net, seen.update, None, cost)) == []


@pytest.mark.parametrize("ensemble", [(), (2,)], ids=str)
def test_random_cotangent_by_hand(ensemble: Index) -> None:
    net = network([3, 5, 4, 2], [act.Tanh(), act.Sigmoid(), act.Softmax()], ensemble)
    seen = moment(net, *batch(net, 6), LOG, seed=8)
    for k in np.ndindex(ensemble):
        delta, expected = np.random.default_rng([8, *(k or (0,)), 1]).standard_normal((2, 6)), {}
        for layer in reversed(net.layers):
            expected[layer.number] = math.sqrt(square(delta.ravel().tolist()) / 6)
            if layer.number > 1:
                slope = np.array(slopes(net, k)[layer.number - 1])
                delta = np.einsum("ij,ib->jb", layer.W[k], delta) * slope
        assert plain(probes.RandomCotangent(probes.DeltaRms()), seen, k) == near(expected)
    assert probes.RandomCotangent(probes.GradientCosine()).readings(seen) == []


def test_no_probe_is_left_out() -> None:
    public = {kind for kind in vars(probes).values() if isinstance(kind, type) and issubclass(kind, Probe)}
    assert {type(probe) for probe in PROBES.values()} == public - {Probe, probes.LayerProbe, probes.VitalProbe}


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 5, 9, 33]), min_size=2, max_size=5),
    hidden=st.sampled_from(ELEMENTWISE),
    case=st.tuples(st.sampled_from([(1,), (3,), (2, 2)]), st.sampled_from([1, 2, 9, 40]), st.integers(0, 999)),
    dtype=st.sampled_from(["float64", "float32"]),
    extreme=st.tuples(st.sampled_from([1.0, 0.0, 1e-200, 1e30, 1e160, np.inf, np.nan]), st.sampled_from([None, 1])),
)
def test_all_probes_change_nothing_and_find_in_a_stack_what_they_find_alone(
    sizes: list[int], hidden: Activation, case: Case, dtype: str, extreme: tuple[float, int | None]
) -> None:
    """Bit for bit and without a warning, also where all of a member's weights, or one, vanished or overflowed."""
    ensemble, examples, seed = case
    net = network(sizes, [*[hidden] * (len(sizes) - 2), act.Softmax()], ensemble, dtype, seed)
    for step in range(2):  # the second one with other weights: what a probe keeps for itself must follow
        with np.errstate(all="ignore"), warnings.catch_warnings():
            net.theta *= 1 + step
            net.theta.reshape(net.members, -1)[0, : extreme[1]] *= np.dtype(dtype).type(extreme[0] if step else 1)
            warnings.simplefilter("error")
            seen = moment(net, *batch(net, examples, seed + step), LOG, seed)
            holders = seen, net, net.rows, *net.layers
            held = [x for holder in holders for x in vars(holder).values() if isinstance(x, np.ndarray)]
            before = [x.tobytes() for x in held]
            found = {key: [values(probe, seen, k) for k in np.ndindex(ensemble)] for key, probe in PROBES.items()}
            for i, k in enumerate(np.ndindex(ensemble)):
                single = alone(seen, k)
                for key in reversed(PROBES):
                    assert repr(found[key][i]) == repr(values(PROBES[key], single)), key
            assert before == [x.tobytes() for x in held]


PLAIN = SGD(0.1, 0.0, False, 0.0, None, Constant())


@given(
    st.sampled_from([np.float32, np.float64]),
    st.lists(st.integers(-320, 300), min_size=1, max_size=3),
    st.sampled_from([0.1, 3.0, 1e-3, 0.0]),
    st.integers(0, 99),
)
def test_the_size_of_a_plain_update_is_known_before_it_is_made(
    dtype: type[np.floating[Any]], exponents: list[int], rate: float, seed: int
) -> None:
    """Also where squares leave the type, and the same for each member alone."""
    optimizer = replace(PLAIN, learning_rate=rate)

    def net(scales: list[int]) -> Network:
        made = Network([3, 4, 2], [act.Tanh(), act.Identity()], (len(scales),), dtype)
        made.forward(np.ones((3, 2), dtype))
        made.theta[...] = 1
        for grad, k in zip(made.grad, scales, strict=True):
            with np.errstate(all="ignore"):
                grad[...] = np.random.default_rng(seed).standard_normal(grad.shape) * np.power(10.0, k)
        return made

    def sizes(scales: list[int]) -> tuple[Array, Array]:
        network = net(scales)
        proposal = optimizer.propose(network, optimizer.start(network), 0, 1)
        with np.errstate(all="ignore"):
            known = Layers.of(network, proposal).update_norm
            weights = network.parameters.weights(proposal.apart())
        return known, np.array([norm(w) for w in weights])

    known, slow = sizes(exponents)
    np.testing.assert_allclose(known, slow, rtol=16 * float(np.finfo(dtype).eps))
    for k, exponent in enumerate(exponents):
        np.testing.assert_array_equal(known[:, k], sizes([exponent])[0][:, 0])


def test_what_is_more_than_a_multiple_of_the_gradient_is_made() -> None:
    network = Network([3, 2], [act.Identity()])
    for more in ({"momentum": 0.9}, {"weight_decay": 0.1}, {"clipping": ClipGlobalNorm(1.0)}):
        optimizer = replace(PLAIN, **more)
        assert optimizer.propose(network, optimizer.start(network), 0, 1).factor is None
    assert PLAIN.propose(network, PLAIN.start(network), 0, 1).factor == -0.1


@pytest.mark.parametrize("sigma", ELEMENTWISE, ids=name)
def test_who_says_to_be_a_switch_is_one(sigma: act.Elementwise) -> None:
    """σ' is 0 or 1, at every number there is."""
    z = np.concatenate([np.linspace(-4, 4, 801), [-np.inf, np.inf, np.nan, 1e-310, -0.0]])
    with np.errstate(all="ignore"):
        slopes = set(sigma.derivative(z, sigma.value(z)).tolist())
    assert sigma.switches == (slopes <= {0.0, 1.0})


@pytest.mark.parametrize("ensemble", [(), (3,)])
@pytest.mark.parametrize("sizes", [(70, 80, 90, 5), (3, 4, 4, 2), (70, 80, 80, 4, 3)])
@pytest.mark.parametrize("sigma", [act.Tanh(), act.Relu(), act.Gelu()], ids=name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_summed_on_the_way_is_what_is_summed_afterwards(
    sizes: tuple[int, ...], ensemble: Index, sigma: Activation, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every probe, bit for bit, whatever an onlooker has taken; nothing is left of it after another pass."""
    monkeypatch.setattr("engine.network.GROUP_BYTES", 2**17)  # several groups, of several layers or of one
    monkeypatch.setattr("engine.network.STRETCH_BYTES", 2**17)  # and stretches
    sigmas = [sigma] * (len(sizes) - 2) + [act.Identity()]
    net, rng = Network(sizes, sigmas, ensemble, dtype), np.random.default_rng(0)
    net.theta[...] = rng.standard_normal(net.theta.shape)
    x, y = (rng.standard_normal((*ensemble, n, 200)).astype(dtype) for n in (sizes[0], sizes[-1]))
    proposal = PLAIN.propose(net, PLAIN.start(net), 0, 1)

    fast = [probe for probe in PROBES.values() if not probe.costly]
    wanted = Wanted.together([probe.wanted for probe in fast])
    assert wanted.sums == set(Of)

    @np.errstate(all="ignore")
    def found(onlooker: Wanted | None) -> list[Array]:
        grad = net.gradient(x, y, HALF, onlooker).copy()
        now = Moment(net, proposal, y, HALF, grad[..., ::-1], lambda use: [np.random.default_rng(use)] * net.members)
        return [grad, *(reading.values for probe in fast for reading in probe.readings(now))]

    some = Wanted(frozenset({Of.ZZ, Of.WEIGHTS}), frozenset({0.5}))
    apart = found(None)
    for onlooker in (wanted, some):
        for a, b in zip(found(onlooker), apart, strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
    assert len(net.groups) > 1 or max(sizes) < 10 or (dtype, ensemble) == ("float32", ())
    assert len(net.stretches) > 1 or max(sizes) < 10
    assert net.sighting is not None
    net.backward(y, HALF)
    assert net.sighting is None


@pytest.mark.parametrize("ensemble", [(), (3,)])
@pytest.mark.parametrize("room", [0, 1500])
def test_how_layers_are_grouped_changes_no_bit(room: int, ensemble: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    sigmas = [act.Relu(), act.Relu(), act.Tanh(), act.Softmax(), act.Gelu(), act.Relu(), act.Sigmoid()]
    wanted = Wanted.together([probe.wanted for probe in PROBES.values() if not probe.costly])

    @np.errstate(all="ignore")
    def found() -> tuple[int, list[Array]]:
        net = network([5, 9, 8, 8, 4, 7, 9, 3], sigmas, ensemble)
        x, y = batch(net, 12)
        net.gradient(x, y, HALF, wanted)
        sums = Sums.of(net)
        values = [
            net.grad,
            *(layer.delta for layer in net.layers),
            sums.live().copy(),
            sums.below(0.3),
            sums.below(2.0),
        ]
        net.slope()
        for layer, part in zip(net.layers, slices([layer.b.size for layer in net.layers]), strict=True):
            if isinstance(layer.sigma, act.Elementwise):
                values.append(net.rows.slope[part].reshape(layer.z.shape))
                np.testing.assert_array_equal(values[-1], layer.sigma.derivative(layer.z, layer.a))
        now = Moment(
            net, -net.grad, y, HALF, net.grad[..., ::-1], lambda use: [np.random.default_rng(use)] * net.members
        )
        fast = [probe for probe in PROBES.values() if not probe.costly]
        return len(net.groups), [*values, *(reading.values for probe in fast for reading in probe.readings(now))]

    one, together = found()
    monkeypatch.setattr("engine.network.GROUP_BYTES", room)
    monkeypatch.setattr("engine.network.STRETCH_BYTES", room)
    many, apart = found()
    assert one == 1
    assert many > 2
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("spread", [0.0, 1e-7, 1e-3])
def test_spreads_of_all_but_equal_activations(dtype: str, bias: float, spread: float) -> None:
    """An ordered layer: the mean is rounded by more than the spread, and yet it is measured; 0 where there is none."""
    net = Network([2, 32], [act.Tanh()], dtype=dtype)
    net.theta[...] = np.r_[np.tile([spread, -spread], 32), np.full(32, bias)]
    x, y = np.random.default_rng(0).standard_normal((2, 128)).astype(dtype), np.zeros((32, 128), dtype)
    net.gradient(x, y, HALF, Wanted(frozenset({Of.A, Of.AA})))
    found = float(Layers.of(net, net.grad).activation_std[0])
    expected = float(np.std(net.layers[0].a.astype(np.longdouble)))
    assert found == pytest.approx(expected, rel=1e-5 if dtype == "float32" else 1e-10, abs=0)


@np.errstate(all="ignore")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ensemble", [(), (3,)])
@pytest.mark.parametrize("odd", [1.0, 0.0, 1e9])
def test_where_few_means_cancel_is_where_many_do(
    dtype: str, ensemble: Index, odd: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network([3, 4, 4, 2], [act.Tanh(), act.Tanh(), act.Identity()], ensemble, dtype)
    net.layers[1].W[...] = 1e-5
    net.layers[1].b[...] = 1
    net.layers[2].b[..., 0, 0] = odd
    x, y = batch(net, 9)
    net.gradient(x, y, HALF, Wanted(frozenset(Of)))
    few = Sums.of(net).cancelled()
    monkeypatch.setattr("engine.sums.FEW", 0)
    np.testing.assert_array_equal(few, Sums.of(net).cancelled(), strict=True)
    assert few[1].all()
    assert not few[0].any()


def test_shares_below_a_slope_of_everybody_and_of_nobody() -> None:
    for sigma in (act.Relu(), act.Tanh(), act.Softmax()):
        net = network([3, 4, 2], [sigma, act.Softmax()])
        net.forward(batch(net, 5, 0)[0])
        layers = Layers.of(net, np.zeros_like(net.theta))
        expected = 0.0 if isinstance(sigma, act.Softmax) else 1.0
        assert layers.share_below(1.5).tolist() == [expected, 0.0]
        assert layers.share_below(0.0).tolist() == [0.0, 0.0]


@np.errstate(all="ignore")
def test_a_network_may_be_part_of_a_larger_array() -> None:
    """θ of a stack that is not one block of memory is measured as it is, now and later."""
    whole = np.random.default_rng(0).standard_normal((2, 3, 26))
    net = Network([3, 4, 2], [act.Tanh(), act.Identity()], (2, 2), theta=whole[:, :2])
    x, y = np.ones((2, 2, 3, 5)), np.zeros((2, 2, 2, 5))
    wanted = Wanted(frozenset(Of))
    for _ in range(2):
        net.gradient(x, y, HALF, wanted)
        measured = Layers.of(net, net.grad).weight_norm
        expected = [norm(layer.W) for layer in net.layers]
        np.testing.assert_allclose(measured, expected, rtol=1e-14)
        net.theta *= 2


@given(st.lists(st.sampled_from([*ELEMENTWISE, act.Softmax()]), min_size=2, max_size=5), st.booleans())
def test_slopes_of_many_layers_at_once_are_those_of_each(sigmas: list[Activation], backward: bool) -> None:
    """Kept by the backward pass or taken when asked for, and never those of a pass before."""
    net, rng = Network([3, *[4] * len(sigmas)], sigmas, (2,)), np.random.default_rng(0)
    net.theta[...] = rng.standard_normal(net.theta.shape)
    for _ in range(2):
        net.forward(rng.standard_normal((2, 3, 5)))
        if backward:
            net.backward_from(rng.standard_normal((2, 4, 5)))
        slopes = net.slope()
        for i, layer in enumerate(net.layers):
            if isinstance(layer.sigma, act.Elementwise):
                expected = layer.sigma.derivative(layer.z, layer.a)
                np.testing.assert_array_equal(slopes[8 * i : 8 * i + 8].reshape(2, 4, 5), expected)


@pytest.mark.parametrize("sizes", [(4, 3), (500, 400)])
@pytest.mark.parametrize("strided", [False, True])
def test_an_update_is_the_same_however_it_is_applied(sizes: tuple[int, int], strided: bool) -> None:
    """Made apart, or over the gradient, in one piece or in several."""
    for apart in (True, False):
        room = np.zeros((2, (sizes[0] + 1) * sizes[1] + 5))
        theta = room[:, :-5] if strided else room[:, 5:].copy()
        net, rng = Network(sizes, [act.Tanh()], (2,), theta=theta), np.random.default_rng(0)
        assert (len(net.pieces) > 1) is (sizes[0] == 500 and not strided)
        net.theta[...] = rng.standard_normal(net.theta.shape)
        net.grad[...] = rng.standard_normal(net.grad.shape)
        expected = net.theta + -0.1 * net.grad
        proposal = PLAIN.propose(net, PLAIN.start(net), 0, 1)
        if apart:
            proposal.apart()
        proposal.apply()
        np.testing.assert_array_equal(net.theta, expected)


class Doubled(act.Relu):
    """A user's: nothing that Relu says of its slope is true of it."""

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.multiply(np.minimum(z, 0), -2, out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return np.multiply(z < 0, -2.0, out=out)


def test_what_is_derived_from_a_switch_is_none_unless_it_says_so() -> None:
    assert not Doubled.switches
    assert not Doubled.monotonic
    net = network([5, 6, 3], [Doubled(), act.Identity()], ())
    of = moment(net, *batch(net, 40, 0), HALF)
    z = net.layers[0].z
    assert values(probes.SaturatedFraction(0.1), of)["", 1] == pytest.approx(np.mean(z >= 0))


def test_a_shadows_update_is_the_networks() -> None:
    """Under a random cotangent the gradient is another, and the update about to be made is not."""
    net = network([5, 6, 3], [act.Tanh(), act.Tanh()], ())
    base = moment(net, *batch(net, 4, 0), HALF)
    proposal = PLAIN.propose(net, PLAIN.start(net), 0, 1)
    shadow = replace(base, proposed=proposal).under_random_cotangent.layers
    expected = [norm(w) for w in net.parameters.weights(-0.1 * net.grad)]
    np.testing.assert_allclose(shadow.update_norm, expected)


def test_slopes_of_a_whole_pass_are_of_every_batch() -> None:
    net = network([5, 6, 3], [act.Tanh(), act.Tanh()], ())
    of = moment(net, *batch(net, 4, 0), HALF)
    batches = [batch(net, 4, seed)[0] for seed in (1, 2, 3)]
    total = replace(of, inputs=lambda: iter(batches)).over_whole_pass(lambda layers: layers.slope)
    expected = np.zeros_like(total)
    for x in batches:
        net.forward(x)
        expected += net.slope()
    np.testing.assert_allclose(total, expected)
