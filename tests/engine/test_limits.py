"""Costs, erf, activations and probes at extreme values: saturated, tiny, huge, dead."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.networks import ALL, ELEMENTWISE, ENSEMBLES, batch, name, network, views

import engine
from engine import activations as act
from engine import costs
from engine.activations import Activation
from engine.arrays import Array
from engine.network import Network
from engine.probes import (
    Layer,
    Probe,
    SaturatedFraction,
    activation_mean,
    activation_std,
    bias_gradient_norm,
    coherence,
    dead_fraction,
    delta_rms,
    gradient_norm,
    update_to_weight,
    z_mean_square,
)
from engine.special import erf


def softplus(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


@settings(max_examples=examples(150), deadline=None)
@given(z=st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=4), y=st.sampled_from([0.0, 0.25, 1.0]))
def test_cross_entropy_from_z_equals_the_math_module(z: list[float], y: float) -> None:
    """The reference C = Σ y·softplus(−z) + (1 − y)·softplus(z) has no cancellation."""
    expected = math.fsum(y * softplus(-v) + (1 - y) * softplus(v) for v in z)
    column: Array = np.array(z)[:, None]
    got = costs.CrossEntropy().value_from_z(column, np.full_like(column, y))
    scale = max(abs(v) for v in z) + 1  # ln(1 + e^z) − yz cancels digits of z
    assert abs(float(got[0]) - expected) <= 4e-16 * len(z) * scale + 1e-12 * expected


@settings(max_examples=examples(150), deadline=None)
@given(z=st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=5), target=st.integers(0, 4))
def test_log_likelihood_from_z_equals_the_math_module(z: list[float], target: int) -> None:
    target %= len(z)
    expected = math.log(math.fsum(math.exp(v - max(z)) for v in z)) + max(z) - z[target]
    column: Array = np.array(z)[:, None]
    got = costs.LogLikelihood().value_from_z(column, np.eye(len(z))[:, target : target + 1])
    assert float(got[0]) == pytest.approx(expected, rel=1e-14, abs=4e-16 * (max(map(abs, z)) + 1))
    assert float(got[0]) >= 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("sigma", "cost"), [(act.Sigmoid(), costs.CrossEntropy()), (act.Softmax(), costs.LogLikelihood())], ids=name
)
def test_saturated_outputs_keep_cost_and_delta(sigma: Activation, cost: costs.Cost, dtype: str) -> None:
    """W = 800, x = ±1: outputs are 0 or 1 in both types, the cost follows z, and δ^L = a − y is not 0."""
    net = Network.mlp([1, 2], [sigma], dtype=dtype)
    net.layers[0].W[...] = [[800.0], [-800.0]]
    x: Array = np.array([[1.0, -1.0]], dtype)
    y: Array = np.array([[0.0, 0.0], [1.0, 1.0]], dtype)  # wrong in example 0, right in example 1
    net.forward(x)
    net.backward(y, cost)
    assert net.cost(y, cost).tolist() == [1600.0, 0.0]
    assert net.layers[0].delta.tolist() == [[1.0, 0.0], [-1.0, 0.0]]
    assert net.layers[0].dW.tolist() == [[0.5], [-0.5]]
    assert net.cost(y, cost).dtype == dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cost_gradients_at_outputs_0_and_1_have_their_limits(dtype: type) -> None:
    """∂C/∂a → 1 for a = y = 0, −1 for a = y = 1; where C is infinite, it is huge, finite and of the right sign."""
    a: Array = np.array([[0.0, 1.0, 1.0, 0.0]], dtype)
    y: Array = np.array([[0.0, 1.0, 0.0, 1.0]], dtype)
    slope = costs.CrossEntropy().gradient(a, y)
    assert slope.dtype == dtype
    assert slope[0, :2].tolist() == pytest.approx([1.0, -1.0], rel=1e-6)
    assert np.isfinite(slope).all()
    assert slope[0, 2] > 1e6
    assert slope[0, 3] < -1e30
    values = costs.CrossEntropy().value(a, y)
    assert values[:2].tolist() == [0.0, 0.0]
    assert np.isfinite(values).all()
    assert (values[2:] > 15).all()
    log = costs.LogLikelihood()
    assert log.value(a, y).tolist()[:3] == [0.0, 0.0, 0.0]
    assert log.gradient(a, y)[0, :3].tolist() == [0.0, -1.0, 0.0]
    assert np.isfinite(log.gradient(a, y)).all()
    assert log.gradient(a, y)[0, 3] < -1e30


@settings(max_examples=examples(200), deadline=None)
@given(x=st.floats(-40, 40))
def test_erf_is_odd_and_equals_the_math_module_to_1e_15(x: float) -> None:
    both = erf(np.array([x, -x]))
    assert both[0] == -both[1]
    assert abs(both[0] - math.erf(x)) < 1e-15
    assert abs(both[0]) <= 1


def test_erf_of_float32_nan_infinity_and_any_shape() -> None:
    x: Array = np.linspace(-5, 5, 24, dtype=np.float32).reshape(2, 3, 4)
    assert erf(x).dtype == np.float32
    assert erf(x).shape == x.shape
    assert np.abs(erf(x) - np.vectorize(math.erf)(x)).max() < 2.5e-7
    assert np.isnan(erf(np.array([np.nan]))).all()
    assert erf(np.array([-np.inf, np.inf])).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("sigma", ALL, ids=name)
@settings(max_examples=examples(60), deadline=None)
@given(z=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6))
def test_activation_values_stay_within_their_bounds(sigma: Activation, z: list[float]) -> None:
    column: Array = np.array(z)[:, None]
    with np.errstate(over="ignore", under="ignore"):
        a = sigma.value(column)
    assert (a >= sigma.low).all()
    assert (a <= sigma.high).all()
    if sigma.normalised:
        assert float(a.sum()) == pytest.approx(1.0, rel=1e-15 * len(z))
        shifted = sigma.value(column - column.max())
        info, away = np.finfo(a.dtype), column.max() - column
        assert (np.abs(a - shifted) <= 2 * info.eps * (4 + len(z) + away) * a + info.tiny).all()


@pytest.mark.parametrize("sigma", ELEMENTWISE, ids=name)
@settings(max_examples=examples(60), deadline=None)
@given(z=st.floats(-700, 700))
def test_slopes_do_not_exceed_steepest(sigma: Activation, z: float) -> None:
    assert isinstance(sigma, act.Elementwise)
    point: Array = np.array([[z]])
    assert abs(float(sigma.derivative(point, sigma.value(point))[0, 0])) <= sigma.steepest * 1.0001


def slow(net: Network, layer: int, k: tuple[int, ...], update: Array) -> dict[Probe, float]:
    """Return the value of each probe for one member, computed with lists and the math module."""
    observed = net.layers[layer]
    deltas = observed.delta[k].T.tolist()
    a, z = observed.a[k].ravel().tolist(), observed.z[k].ravel().tolist()
    count = len(deltas)
    mean = [math.fsum(column) / count for column in zip(*deltas, strict=True)]
    square = math.fsum(v * v for d in deltas for v in d) / count
    center = math.fsum(a) / len(a)
    return {
        gradient_norm: math.hypot(*observed.dW[k].ravel().tolist()),
        bias_gradient_norm: math.hypot(*mean),
        delta_rms: math.sqrt(square),
        coherence: math.fsum(v * v for v in mean) / square,
        z_mean_square: math.fsum(v * v for v in z) / len(z),
        activation_mean: center,
        activation_std: math.sqrt(math.fsum((v - center) ** 2 for v in a) / len(a)),
        update_to_weight: math.hypot(*update[k].ravel().tolist()) / math.hypot(*observed.W[k].ravel().tolist()),
    }


SLOPES: dict[str, Callable[[float, float], float]] = {  # |σ'(z)| from z and a, as in the derivation
    "Sigmoid": lambda z, a: a * (1 - a),
    "Tanh": lambda z, a: 1 - a * a,
    "Relu": lambda z, a: float(z > 0),
    "HardTanh": lambda z, a: float(abs(z) < 1),
}
TOP = {"Sigmoid": 0.25, "Tanh": 1.0, "Relu": 1.0, "HardTanh": 1.0}


@np.errstate(all="ignore")
@settings(max_examples=examples(30), deadline=None)
@given(
    ensemble=st.sampled_from(ENSEMBLES),
    examples=st.integers(1, 9),
    hidden=st.sampled_from([act.Sigmoid(), act.Tanh(), act.Relu(), act.HardTanh()]),
    steep=st.sampled_from([1.0, 4.0]),
    threshold=st.sampled_from([0.01, 0.3, 0.9]),
    seed=st.integers(0, 99),
)
def test_probes_equal_slow_twins(
    ensemble: tuple[int, ...], examples: int, hidden: Activation, steep: float, threshold: float, seed: int
) -> None:
    net = network([4, 6, 5, 3], [hidden, hidden, act.Softmax()], ensemble, seed=seed)
    net.theta *= steep
    x, y = batch(net, examples, seed)
    net.forward(x)
    net.backward(y, costs.LogLikelihood())
    net.update[...] = np.random.default_rng(seed).standard_normal(net.theta.shape)
    for i, (layer, (update, _)) in enumerate(zip(net.layers, views(net, net.update), strict=True)):
        observed = Layer(layer)
        for k in np.ndindex(ensemble):
            if not layer.delta[k].any():
                continue  # the rectifiers passed no gradient
            for probe, expected in slow(net, i, k, update).items():
                measured = probe(observed)
                assert measured is not None
                assert measured.shape == ensemble
                assert float(measured[k]) == pytest.approx(expected, rel=1e-11, abs=1e-14), probe
        if i == 2:
            assert SaturatedFraction(threshold)(observed) is None
            assert dead_fraction(observed) is None
            continue
        kind = type(hidden).__name__
        for k in np.ndindex(ensemble):
            pairs = [zip(*both, strict=True) for both in zip(layer.z[k].tolist(), layer.a[k].tolist(), strict=True)]
            slopes = [[SLOPES[kind](z, a) for z, a in row] for row in pairs]
            flat, dead = SaturatedFraction(threshold)(observed), dead_fraction(observed)
            assert flat is not None
            assert dead is not None
            below = sum(v < threshold * TOP[kind] for row in slopes for v in row)
            assert float(flat[k]) == below / (len(slopes) * examples)
            assert float(dead[k]) == sum(not any(row) for row in slopes) / len(slopes)


@pytest.mark.parametrize("scale", [1e-290, 1e-200, 1e-30, 1.0])
def test_delta_rms_and_coherence_do_not_underflow(scale: float) -> None:
    """Scaling δ scales delta_rms and keeps the coherence, although δ² underflows."""
    net = network([3, 5, 2], [act.Tanh(), act.Identity()])
    x, y = batch(net, 7)
    net.forward(x)
    net.backward(y, costs.HalfSquaredError())
    layer = net.layers[0]
    before = Layer(layer)
    rms, agreement = float(delta_rms(before)), float(coherence(before))
    layer.delta *= scale
    layer.db *= scale
    after = Layer(layer)
    assert float(delta_rms(after)) == pytest.approx(rms * scale, rel=1e-13)
    assert float(coherence(after)) == pytest.approx(agreement, rel=1e-12)


class Fold(act.Elementwise):
    """σ(z) = |z|, with slopes of both signs."""

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.abs(z, out=out)

    def pull_back(self, z: Array, a: Array, dC_da: Array, out: Array | None = None) -> Array:
        return np.multiply(np.sign(z), dC_da, out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return np.sign(z, out=out)


def test_slopes_of_both_signs_are_neither_dead_nor_saturated() -> None:
    """Unit 0 has σ' = 1 and −1 on the two examples."""
    net = Network.mlp([1, 2, 1], [Fold(), act.Identity()])
    net.theta[...] = 1.0
    net.layers[0].b[...] = [[0.0], [-1.0]]  # z = ±1 in unit 0; 0 and −2 in unit 1
    net.forward(np.array([[1.0, -1.0]]))
    net.backward(np.zeros((1, 2)), costs.SquaredError())
    observed = Layer(net.layers[0])
    dead, flat = dead_fraction(observed), SaturatedFraction(0.5)(observed)
    assert dead is not None
    assert flat is not None
    assert (float(dead), float(flat)) == (0.0, 0.25)


def test_saturated_fractions_with_several_thresholds_are_independent() -> None:
    net = network([3, 40, 2], [act.Sigmoid(), act.Softmax()])
    net.theta *= 4
    x, y = batch(net, 30)
    net.forward(x)
    net.backward(y, costs.LogLikelihood())
    layer = net.layers[0]
    observed, thresholds, shares = Layer(layer), (0.9, 0.1, 0.5, 0.9), []
    for threshold in thresholds:
        share = SaturatedFraction(threshold)(observed)
        assert share is not None
        shares.append(float(share))
    assert shares == [float(np.mean(layer.a * (1 - layer.a) < threshold / 4)) for threshold in thresholds]
    assert shares[1] < shares[2] < shares[0] == shares[3]


def test_activation_mean_of_float32_is_within_300_roundings() -> None:
    """The 300 examples of a unit and the 200 units add fewer than 300 float32 roundings."""
    net = network([3, 200], [act.Sigmoid()], (2,), "float32")
    x, y = batch(net, 300)
    net.forward(x)
    net.backward(y, costs.CrossEntropy())
    layer = net.layers[0]
    mean = activation_mean(Layer(layer))
    for k in range(2):
        assert float(mean[k]) == pytest.approx(math.fsum(layer.a[k].ravel().tolist()) / 60_000, rel=300 * 2**-24)


@settings(max_examples=examples(40), deadline=None)
@given(examples=st.integers(1, 20), seed=st.integers(0, 999))
def test_coherence_is_between_0_and_1_and_1_for_equal_examples(examples: int, seed: int) -> None:
    net = network([3, 5, 2], [act.Tanh(), act.Identity()], seed=seed)
    x, y = batch(net, examples, seed)
    for inputs, targets, least in ((x, y, 0.0), (x[:, [0] * examples], y[:, [0] * examples], 1 - 1e-14)):
        net.forward(inputs)
        net.backward(targets, costs.SquaredError())
        for layer in net.layers:
            assert least <= float(coherence(Layer(layer))) <= 1 + 1e-14


def test_measuring_is_repeatable_and_does_not_change_training() -> None:
    """A run measured twice a step ends with the parameters of an unmeasured run."""
    cost = costs.LogLikelihood()
    probes: list[Probe] = [*slow_probes(), SaturatedFraction(0.1), dead_fraction]
    measured, plain = (network([4, 6, 5, 3], [act.Gelu(), act.Relu(), act.Softmax()], (2,)) for _ in range(2))
    for step in range(4):
        for net in (measured, plain):
            x, y = batch(net, 3 + step % 2, step)
            net.forward(x)
            net.backward(y, cost)
        arrays = [measured.theta, measured.grad, *(v for la in measured.layers for v in (la.z, la.a, la.delta))]
        copies = [v.copy() for v in arrays]
        for layer in measured.layers:
            both = ([p(Layer(layer)) for p in probes] for _ in range(2))
            for first, second in zip(*both, strict=True):
                assert (first is None) == (second is None)
                assert first is None or (second is not None and np.array_equal(first, second, equal_nan=True))
        assert all(np.array_equal(v, c) for v, c in zip(arrays, copies, strict=True))
        for net in (measured, plain):
            net.theta -= 0.3 * net.grad
        assert np.array_equal(measured.theta, plain.theta)


def slow_probes() -> list[Probe]:
    return [
        gradient_norm,
        bias_gradient_norm,
        delta_rms,
        coherence,
        z_mean_square,
        activation_mean,
        activation_std,
        update_to_weight,
    ]


def test_every_public_class_and_function_has_a_docstring() -> None:
    assert engine.__file__ is not None
    undocumented = []
    for path in sorted(Path(engine.__file__).parent.glob("**/*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        public = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and not n.name.startswith("_")]
        undocumented += [f"{path.name}: {each.name}" for each in public if not ast.get_docstring(each)]
        assert ast.get_docstring(tree), path
    assert undocumented == []


def test_engine_does_not_import_the_pipeline_even_inside_functions() -> None:
    assert engine.__file__ is not None
    for path in Path(engine.__file__).parent.glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert all(m.partition(".")[0] not in ("pipeline", "experiments", "conf") for m in modules), path
            assert not (isinstance(node, ast.Call) and "import" in ast.unparse(node.func)), path
