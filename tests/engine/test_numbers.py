"""Norm, special functions, initialisers, optimizers, costs and probes against slower references."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.examples import examples
from support.networks import ALL, ELEMENTWISE, batch, name, network, views

from engine import activations as act
from engine import costs
from engine import initializers as init
from engine import learning_rates as rates
from engine.activations import Activation
from engine.arrays import Array, norm
from engine.initializers import Initializer, ParameterShape
from engine.optimizers import SGD, ClipGlobalNorm, ClipPerLayer
from engine.probes import (
    Layer,
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


@np.errstate(all="ignore")
@settings(max_examples=examples(200), deadline=None)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 9)),
    scale=st.floats(-3, 4),
    shift=st.floats(-1e4, 1e4) | st.floats(-120, 120),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_softmax_is_exact_at_any_magnitude(
    seed: int, shape: tuple[int, int], scale: float, shift: float, dtype: str
) -> None:
    """The reference is extended precision. Examples and members of a stack are independent."""
    rng = np.random.default_rng(seed)
    offset = shift * rng.integers(-1, 2, (3, 1, shape[1]))
    z: Array = (offset + 10.0**scale * rng.standard_normal((3, *shape))).astype(dtype)
    a = act.Softmax().value(z)
    below_max = z.astype(np.longdouble) - z.max(axis=-2, keepdims=True)
    exact = np.exp(below_max)
    exact /= exact.sum(axis=-2, keepdims=True)
    info = np.finfo(dtype)
    bound = info.eps * (4 + shape[0] - below_max)  # rounding of z − max z, e^z, the sum and the ratio
    normal = exact > info.tiny / info.eps**2
    assert (np.abs(a - exact) <= bound * exact)[normal].all()
    assert (a[~normal] <= 2 * info.tiny / info.eps**2).all()
    for k in range(3):
        assert np.array_equal(act.Softmax().value(z[k]), a[k])
        changed = z[k].copy()
        changed[:, 1:] = 1e30
        assert np.array_equal(act.Softmax().value(changed)[:, 0], a[k, :, 0])


def slow_norm(values: list[float]) -> float:
    """Return the norm by math.hypot, which scales internally."""
    return math.hypot(*values)


@settings(max_examples=examples(200), deadline=None)
@given(
    x=hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(-1e3, 1e3)),
    exponent=st.integers(-320, 304),
)
def test_norm_equals_hypot_at_any_magnitude(x: Array, exponent: int) -> None:
    with np.errstate(under="ignore"):
        scaled = x * 10.0**exponent
    expected = slow_norm(scaled.ravel().tolist())
    assert math.isclose(float(norm(scaled)), expected, rel_tol=1e-14, abs_tol=1e-323)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1e-200, 1e-200]], math.sqrt(2) * 1e-200),
        ([[5e-324]], 5e-324),
        ([[0.0, -0.0]], 0.0),
        ([[1e308, 1e308]], math.sqrt(2) * 1e308),
        ([[math.inf, 1.0]], math.inf),
        ([[math.nan, 1.0]], math.nan),
        ([[-3.0], [4.0]], 5.0),
    ],
)
def test_norm_of_extreme_values(values: list[list[float]], expected: float) -> None:
    assert float(norm(np.array(values))) == pytest.approx(expected, rel=1e-15, abs=0, nan_ok=True)


def test_norm_in_float32_neither_overflows_nor_underflows() -> None:
    for scale in (1e-30, 1e30, 1.0):
        assert float(norm(np.full((3, 4), scale, np.float32))) == pytest.approx(
            math.sqrt(12) * np.float32(scale), rel=1e-6
        )


def test_norm_of_a_member_does_not_depend_on_other_members() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 5, 6)) * np.array([1.0, 1e-200, 1e200, np.nan])[:, None, None]
    assert np.array_equal(norm(x), [norm(m) for m in x], equal_nan=True)


def test_erf_equals_the_math_module() -> None:
    x = np.concatenate([np.linspace(-7, 7, 40001), [0.0, -0.0, 30.0, -1e300, np.inf]])
    assert np.abs(erf(x) - [math.erf(v) for v in x]).max() < 1e-15


@pytest.mark.parametrize("sigma", ELEMENTWISE, ids=name)
def test_activations_have_the_stated_steepest_slope_and_bounds(sigma: Activation) -> None:
    assert isinstance(sigma, act.Elementwise)
    z: Array = np.linspace(-40, 40, 800_001)[None]
    a = sigma.value(z)
    assert np.abs(sigma.derivative(z, a)).max() == pytest.approx(sigma.steepest, rel=1e-4)
    assert a.min() >= sigma.low
    assert a.max() <= sigma.high


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sigma", ALL, ids=name)
def test_activations_keep_the_dtype_and_write_to_out(sigma: Activation, dtype: type) -> None:
    z: Array = np.random.default_rng(0).standard_normal((4, 5)).astype(dtype)
    out, delta = np.empty_like(z), np.empty_like(z)
    a = sigma.value(z, out=out)
    assert a is out
    assert a.dtype == dtype
    assert np.array_equal(a, sigma.value(z))
    pulled = sigma.pull_back(z, a, np.ones_like(z), out=delta)
    assert pulled is delta
    assert pulled.dtype == dtype
    with np.errstate(over="ignore"):
        extremes = sigma.value(np.array([[-1e4, 1e4, 0.0]], dtype=dtype))
    assert np.isfinite(extremes).all()


INITIALISERS: list[tuple[Initializer, float]] = [  # with the variance of an entry of a 300 x 200 matrix, by hand
    (init.Gaussian(0.3), 0.09),
    (init.GaussianFanIn(2.0), 4 / 200),
    (init.UniformFanIn(), 1 / 600),
    (init.GlorotNormal(), 2 / 500),
    (init.GlorotUniform(), 2 / 500),
    (init.HeNormal(), 2 / 200),
    (init.HeUniform(), 2 / 200),
    (init.LecunNormal(), 1 / 200),
    (init.Matched(act.Relu()), 2 / 200),
    (init.Matched(act.LeakyRelu(0.5)), 2 / 1.25 / 200),
    (init.Matched(act.Tanh()), 1 / 200),
    (init.MeanFieldWeights(1.7), 1.7 / 200),
    (init.MeanFieldBiases(0.05), 0.05),
    (init.Orthogonal(1.5), 2.25 / 300),
    (init.TruncatedNormal(0.1, 2.0), 0.01 * 0.7737413),
    (init.Constant(0.5), 0.25),
]


@pytest.mark.parametrize(("initialiser", "variance"), INITIALISERS, ids=[type(i).__name__ for i, _ in INITIALISERS])
def test_initialisers_have_the_stated_variance(initialiser: Initializer, variance: float) -> None:
    """Tolerance: four standard errors of the mean square of 60,000 draws, 0.6% each."""
    shape = ParameterShape(1, (300, 200), fan_in=200, fan_out=300)
    w = initialiser.sample(np.random.default_rng(0), shape)
    assert w.shape == (300, 200)
    assert initialiser.variance(200, 300) == pytest.approx(variance, rel=1e-6)
    assert np.mean(w**2) == pytest.approx(variance, rel=0.024)


def test_initialisers_keep_bounds_and_orthogonality() -> None:
    rng, shape = np.random.default_rng(0), ParameterShape(1, (300, 200), 200, 300)
    assert np.abs(init.UniformFanIn().sample(rng, shape)).max() <= 200**-0.5
    assert np.abs(init.GlorotUniform().sample(rng, shape)).max() <= (6 / 500) ** 0.5
    assert np.abs(init.TruncatedNormal(0.1, 2.0).sample(rng, shape)).max() <= 0.2
    tall = init.Orthogonal(1.0).sample(rng, shape)
    assert np.abs(tall.T @ tall - np.eye(200)).max() < 1e-13
    wide = init.Orthogonal(2.0).sample(rng, ParameterShape(1, (20, 50), 50, 20))
    assert np.abs(wide @ wide.T - 4 * np.eye(20)).max() < 1e-13


def test_given_values_are_copied_and_misfits_are_refused() -> None:
    net = network([2, 2, 1], [act.Sigmoid()] * 2)
    values = init.Given([[[0.1, 0.3], [0.2, 0.4]], [[0.7, -1.2]]])
    init.initialize(net, values, init.Constant(0.0), [np.random.default_rng(0)])
    assert net.layers[0].W.tolist() == [[0.1, 0.3], [0.2, 0.4]]
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="needs"):
        values.sample(rng, ParameterShape(2, (2, 1), 1, 2))
    with pytest.raises(ValueError, match="has a layer 3"):
        values.sample(rng, ParameterShape(3, (1, 2), 2, 1))
    with pytest.raises(ValueError, match="equal lengths"):
        init.Given([[[1.0], [1.0, 2.0]]]).sample(rng, ParameterShape(1, (2, 2), 2, 2))


def test_initial_values_agree_across_dtypes_and_differ_across_members() -> None:
    wide, narrow = network([4, 3, 2], [act.Tanh()] * 2, (2,)), network([4, 3, 2], [act.Tanh()] * 2, (2,), "float32")
    assert np.array_equal(wide.theta.astype(np.float32), narrow.theta)
    assert not np.array_equal(wide.theta[0], wide.theta[1])
    with pytest.raises(ValueError, match="rngs: 1 for 2 networks; must be one per network"):
        init.initialize(wide, init.HeNormal(), init.Constant(0.0), [np.random.default_rng(0)])


def test_sgd_equals_the_formulas_over_three_steps() -> None:
    net = network([2, 3, 1], [act.Tanh()] * 2)
    start, nw = net.theta.copy(), net.n_weights
    gradients = np.random.default_rng(1).standard_normal((3, net.theta.size))
    for momentum, nesterov, decay in ((0.0, False, 0.0), (0.9, False, 0.0), (0.9, True, 0.1), (0.0, False, 0.2)):
        optimizer = SGD(0.5, momentum, nesterov, decay, None, rates.StepDecay(2, 0.1))
        net.theta[...], state = start, optimizer.start(net)
        theta, velocity = start.copy(), np.zeros_like(start)
        for step, g in enumerate(gradients):
            net.grad[...] = g
            net.theta += optimizer.propose(net, state, step, 3)
            slope = g + decay * np.where(np.arange(theta.size) < nw, theta, 0.0)
            velocity = momentum * velocity + slope
            direction = slope + momentum * velocity if nesterov else velocity
            theta = theta - 0.5 * (1.0 if step < 2 else 0.1) * direction
        assert np.allclose(net.theta, theta, rtol=1e-14, atol=0)


def test_clipping_scales_only_long_gradients() -> None:
    net = network([2, 3, 1], [act.Tanh()] * 2, (2,))
    rng = np.random.default_rng(0)
    g = rng.standard_normal(net.theta.shape) * np.array([[10.0], [0.01]])
    clipped = g.copy()
    ClipGlobalNorm(1.0).clip(clipped, net)
    assert np.allclose(clipped[0], g[0] / np.linalg.norm(g[0]), rtol=1e-14)
    assert np.array_equal(clipped[1], g[1])
    clipped = g.copy()
    ClipPerLayer(1.0).clip(clipped, net)
    for (w, b), (gw, gb) in zip(views(net, clipped), views(net, g), strict=True):
        size = math.sqrt((gw[0] ** 2).sum() + (gb[0] ** 2).sum())
        assert np.allclose(w[0], gw[0] / max(size, 1), rtol=1e-14)
        assert np.allclose(b[0], gb[0] / max(size, 1), rtol=1e-14)


def test_learning_rate_schedules_have_the_values_of_their_formulas() -> None:
    cosine, warm = rates.Cosine(0.2), rates.WarmUp(4, rates.Constant())
    assert [round(cosine.factor(t, 10), 12) for t in (0, 5, 10)] == [1.0, 0.6, 0.2]
    assert [warm.factor(t, 10) for t in (0, 1, 3, 4, 9)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert [rates.StepDecay(3, 0.5).factor(t, 10) for t in (0, 2, 3, 6)] == [1.0, 1.0, 0.5, 0.25]
    assert rates.WarmUp(2, rates.Cosine(0.0)).factor(6, 10) == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_costs_are_finite_at_saturated_outputs(dtype: type) -> None:
    """z = ±800 saturates σ in both types; the cost from z is exact, the cost from a is finite."""
    z: Array = np.array([[800.0, -800.0, 800.0]], dtype)
    y: Array = np.array([[0.0, 1.0, 1.0]], dtype)
    cost = costs.CrossEntropy()
    assert cost.value_from_z(z, y).tolist() == [800.0, 800.0, 0.0]
    a: Array = np.array([[1.0, 0.0, 1.0]], dtype)
    assert np.isfinite(cost.value(a, y)).all()
    assert np.isfinite(cost.gradient(a, y)).all()
    scores: Array = np.array([[800.0], [0.0], [-800.0]], dtype)
    target: Array = np.array([[0.0], [0.0], [1.0]], dtype)
    categorical = costs.LogLikelihood()
    assert categorical.value_from_z(scores, target).tolist() == [1600.0]
    assert np.isfinite(categorical.value(act.Softmax().value(scores), target)).all()
    assert np.isfinite(categorical.gradient(act.Softmax().value(scores), target)).all()


def test_collapsed_and_general_form_of_equation_1_agree() -> None:
    """δ^L = a − y equals Jᵀ ∂C/∂a, and the cost from z equals the cost from a."""
    for sigma, cost in ((act.Sigmoid(), costs.CrossEntropy()), (act.Softmax(), costs.LogLikelihood())):
        net = network([4, 3], [sigma])
        x, y = batch(net, 6)
        net.forward(x)
        net.backward(y, cost)
        top = net.layers[-1]
        general = sigma.pull_back(top.z, top.a, cost.gradient(top.a, y))
        assert np.abs(top.delta - general).max() < 1e-14
        assert np.abs(net.cost(y, cost) - cost.value(top.a, y)).max() < 1e-13


def test_probes_equal_loops_over_examples() -> None:
    net = network([5, 7, 6, 3], [act.Relu(), act.Sigmoid(), act.Softmax()], (2,))
    x, y = batch(net, 9)
    net.forward(x)
    net.backward(y, costs.LogLikelihood())
    net.update[...] = -0.3 * net.grad
    for layer in net.layers:
        observed = Layer(layer)
        for k in range(2):
            deltas = [layer.delta[k, :, b] for b in range(9)]
            mean: Array = np.asarray(sum(deltas)) / 9
            square = sum(float(d @ d) for d in deltas) / 9
            expected = {
                gradient_norm: math.sqrt(sum(v * v for v in layer.dW[k].ravel())),
                bias_gradient_norm: math.sqrt(float(mean @ mean)),
                delta_rms: math.sqrt(square),
                coherence: float(mean @ mean) / square,
                z_mean_square: float(np.mean(layer.z[k] ** 2)),
                activation_mean: float(np.mean(layer.a[k])),
                activation_std: float(np.std(layer.a[k])),
                update_to_weight: 0.3 * float(np.linalg.norm(layer.dW[k]) / np.linalg.norm(layer.W[k])),
            }
            for probe, value in expected.items():
                measured = probe(observed)
                assert measured is not None
                assert float(measured[k]) == pytest.approx(value, rel=1e-12), probe
    relu, sigmoid, softmax = (Layer(layer) for layer in net.layers)
    assert SaturatedFraction(0.05)(softmax) is None
    assert dead_fraction(softmax) is None
    z = net.layers[0].z
    inactive, dead = SaturatedFraction(0.05)(relu), dead_fraction(relu)
    assert inactive is not None
    assert dead is not None
    assert inactive.tolist() == np.mean(z <= 0, axis=(1, 2)).tolist()
    assert dead.tolist() == np.mean((z <= 0).all(axis=2), axis=1).tolist()
    a = net.layers[1].a
    flat = SaturatedFraction(0.05)(sigmoid)
    assert flat is not None
    assert flat.tolist() == np.mean(a * (1 - a) < 0.05 / 4, axis=(1, 2)).tolist()


def test_dead_layer_has_dead_fraction_1_and_no_delta() -> None:
    net = network([3, 4, 2], [act.Relu(), act.Identity()])
    net.layers[0].b[...] = -100
    x, y = batch(net, 5)
    net.forward(x)
    net.backward(y, costs.HalfSquaredError())
    observed = Layer(net.layers[0])
    dead = dead_fraction(observed)
    assert dead is not None
    assert float(dead) == 1.0
    assert float(delta_rms(observed)) == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: act.LeakyRelu(1.0),
        lambda: act.Elu(0.0),
        lambda: init.Gaussian(-1.0),
        lambda: init.Orthogonal(0.0),
        lambda: init.TruncatedNormal(1.0, 0.01),
        lambda: init.Constant(math.inf),
        lambda: SGD(-0.1, 0.0, False, 0.0, None, rates.Constant()),
        lambda: SGD(0.1, 1.0, False, 0.0, None, rates.Constant()),
        lambda: SGD(0.1, 0.0, True, 0.0, None, rates.Constant()),
        lambda: SGD(0.1, 0.0, False, math.nan, None, rates.Constant()),
        lambda: ClipGlobalNorm(0.0),
        lambda: rates.StepDecay(0, 0.5),
        lambda: rates.StepDecay(5, 1.5),
        lambda: rates.Cosine(2.0),
        lambda: rates.WarmUp(0, rates.Constant()),
        lambda: SaturatedFraction(0.0),
    ],
)
def test_values_outside_their_range_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(ValueError, match=r"\w+=.*(must be|needs)"):
        wrong()
