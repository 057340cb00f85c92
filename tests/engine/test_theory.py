"""Theory against closed forms, SciPy, published numbers, iteration of its maps and random networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize
from scipy.special import binom, digamma, erfc, ndtr, polygamma
from support.examples import examples
from support.networks import ELEMENTWISE, name

from engine import activations as act
from engine.activations import Elementwise
from engine.arrays import Array
from engine.network import Dense, Network
from engine.theory import MeanField, critical_weight_variance, expectation, moments, profile
from engine.theory.mean_field import itp_root

Function = Callable[[Array], Array]
SIGMAS = [sigma for sigma in ELEMENTWISE if isinstance(sigma, Elementwise)]
WIDE = [act.Tanh(), act.Relu(), act.Sigmoid(), act.Gelu(), act.Softsign(), act.HardTanh(), act.Elu(1.3), act.Selu()]
EPS = 1e-14  # rounding error of the sum over all panels, relative to E |f|


@np.errstate(over="ignore")
def by_scipy(f: Function, q: float) -> float:
    """Return E f(x), x ~ N(0, q), by QUADPACK between points where activations or the density curve."""
    s = math.sqrt(q)
    right = [*(x for x in (0.01, 0.1, 0.3, 1, 3, 10, 30, 100) if x < 12 * s), s, 3 * s, 6 * s, 12 * s]
    largest = float(f(np.linspace(-s, s, 9)).max())

    def weighted(x: float) -> float:
        return float(f(np.array([x]))[0]) * math.exp(-((x / s) ** 2) / 2) / (s * math.sqrt(2 * math.pi))

    cuts = pairwise(sorted({0.0, *right, *(-x for x in right)}))
    return math.fsum(integrate.quad(weighted, a, b, epsabs=EPS * largest, epsrel=1e-10)[0] for a, b in cuts)


def integrands(sigma: Elementwise) -> list[Function]:
    """Return σ², σ'² and σ'⁴."""
    return [lambda x: sigma.value(x) ** 2, *(lambda x, p=p: sigma.derivative(x, sigma.value(x)) ** p for p in (2, 4))]


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=2), st.floats(0.05, 20), st.floats(-3, 3))
def test_expectation_equals_closed_forms_within_its_error_estimate(
    means: list[float], spread: float, kink: float
) -> None:
    mean, std = np.array(means), np.array([[spread], [1.0], [0.3]])
    scaled = (mean - kink) / std
    distance = std * (2 * np.exp(-scaled * scaled / 2) / math.sqrt(2 * math.pi) + scaled * (1 - 2 * ndtr(-scaled)))
    exponential, k = np.exp(mean / 10 + std**2 / 200), 3 / max(1, spread)
    wave = np.sin(k * mean) * np.exp(-((k * std) ** 2) / 2)
    cases: list[tuple[Function, tuple[float, ...], Array, Array]] = [  # f, its kinks, E f and the order of E |f|
        (np.square, (), mean**2 + std**2, mean**2 + std**2),
        (lambda x: np.abs(x - kink), (kink,), distance, std * (1 + np.abs(scaled))),
        (lambda x: (x > kink).astype(float), (kink,), ndtr(scaled), np.ones_like(scaled)),
        (lambda x: np.exp(x / 10), (), exponential, exponential),
        (lambda x: np.sin(k * x), (), wave, np.ones_like(scaled)),
    ]
    for f, kinks, expected, size in cases:
        value, error = expectation(f, mean, std, kinks)
        assert value.shape == error.shape == (3, 2)
        assert np.all(np.abs(value - expected) <= error + EPS * size)
        assert np.all(error <= 2e-12 * size)  # the error includes the tolerance, 1e-12
        value, error = expectation(f, mean, np.array([[0.0], [1.0]]), kinks)
        assert np.array_equal(value[0], f(mean))
        assert not error[0].any()


@pytest.mark.parametrize("sigma", SIGMAS, ids=name)
@pytest.mark.thorough
def test_moments_equal_scipy_by_quadrature_and_in_closed_form(sigma: Elementwise) -> None:
    kinks = sigma.kinks or [piece.left for piece in sigma.pieces[1:]]
    for q in (1e-6, 1e-4, 1e-2, 0.3, 2.0, 1e2, 1e4):
        for f, average in zip(integrands(sigma), moments(sigma, q), strict=True):
            value, error = expectation(f, 0.0, math.sqrt(q), kinks)
            assert float(value) == pytest.approx(by_scipy(f, q), rel=2e-11)
            assert float(average.value) == pytest.approx(float(value), rel=1e-11)
            assert float(error) <= 2e-12 * float(value)  # the error includes the tolerance


def undeclared_steps() -> tuple[Array, Array]:
    """Return errors of E step(x) for random x with the step at 0 undeclared, and the estimates plus rounding."""
    mean, std = np.random.default_rng(0).standard_normal((2, 300)) * [[2], [1]]
    averages = [expectation(lambda x: (x > 0).astype(float), m, s) for m, s in zip(mean, np.exp(std), strict=True)]
    values, estimates = np.array(averages).T
    return np.abs(values - ndtr(mean / np.exp(std))), estimates + EPS


def test_expectation_of_undeclared_steps_is_more_precise_than_gauss_hermite() -> None:
    nodes, weights = np.polynomial.hermite_e.hermegauss(201)
    assert 2 * float(weights @ (nodes > 0)) / weights.sum() == pytest.approx(0.9117, abs=1e-4)  # 1: χ of He ReLU
    assert undeclared_steps()[0].max() < 2e-3


def test_chi_depth_scales_and_critical_line_equal_published_values() -> None:
    for variance, chi in {1.0: 0.7590, 1.5: 0.9386, 1.76: 0.9998, 2.5: 1.1335, 4.0: 1.3424}.items():
        assert MeanField(act.Tanh(), variance, 0.05).chi_star() == pytest.approx(chi, abs=1e-4)
    for variance, layers in {1.0: 22, 1.5: 95, 2.5: 71, 4.0: 42}.items():
        assert round(6 * MeanField(act.Tanh(), variance, 0.05).correlation_depth_scale()) == layers
    line = {2.01e-5: "1.0500", 1e-4: "1.0860", 1e-3: "1.1892", 0.01: "1.4242", 0.05: "1.76095", 0.09: "1.9477"}
    for bias, printed in {**line, 0.3: "2.5051"}.items():
        assert f"{critical_weight_variance(act.Tanh(), bias):.{len(printed) - 2}f}" == printed


class Plateau(Elementwise):
    """User-defined, unhashable activation with undeclared steps: 3 where |z| > 1.3, else 0."""

    __hash__ = None  # type: ignore[assignment]

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.multiply(np.abs(z) > 1.3, 3.0, out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return np.multiply(z, 0.0, out=out)


def iterated(theory: MeanField, q: float, times: int) -> float:
    for _ in range(times):
        q = float(theory.q_map(q)) if q < 1e12 else math.inf
    return q


@pytest.mark.parametrize("sigma", SIGMAS, ids=name)
@pytest.mark.thorough
def test_fixed_points_are_fixed_and_attract_if_stable_and_end_iteration(sigma: Elementwise) -> None:
    for variance, bias in product((0.7, 1.3, 3.0), (0.0, 0.05)):
        theory = MeanField(sigma, variance, bias)
        for point in theory.q_fixed_points().points:
            v = point.value
            if v:
                assert variance * by_scipy(integrands(sigma)[0], v) + bias == pytest.approx(v, rel=1e-8)
            for start in (1.0001 * v + 1e-10, *([0.9999 * v] if v else [])):
                assert (abs(iterated(theory, start, 5) - v) < abs(start - v)) == point.stable, (variance, bias, point)
        if bias:
            for start in (0.01, 30.0):
                assert theory.q_star(start) == pytest.approx(iterated(theory, start, 300), rel=1e-6), (variance, start)


def test_user_activation_has_all_fixed_points_and_the_start_selects_the_basin() -> None:
    ends = ((0.01, 0.1), (0.1, 1), (1, 20))
    roots = [float(optimize.brentq(lambda q: 9 * erfc(1.3 / math.sqrt(2 * q)) + 0.05 - q, *e)) for e in ends]
    low, middle, high = roots
    theory = MeanField(Plateau(), 1.0, 0.05)
    fixed = theory.q_fixed_points()
    assert [p.value for p in fixed.points] == pytest.approx(roots, rel=1e-3)
    assert [p.stable for p in fixed.points] == [True, False, True]
    assert not fixed.grows
    for start, end in ((1e-3, low), (0.9 * middle, low), (1.1 * middle, high), (1e3, high)):
        assert theory.q_star(start) == pytest.approx(end, rel=1e-3)


@pytest.mark.parametrize(("sigma", "critical"), [(act.Relu(), 2.0), (act.Identity(), 1.0), (act.LeakyRelu(0.5), 1.6)])
def test_q_of_homogeneous_activations_is_constant_shrinks_or_grows(sigma: Elementwise, critical: float) -> None:
    at, below, above = (MeanField(sigma, factor * critical, 0.0) for factor in (1, 0.9, 1.1))
    assert (at.q_fixed_points().everywhere, at.q_star(7.0)) == (True, 7.0)
    assert (below.q_fixed_points().grows, above.q_fixed_points().grows) == (False, True)
    assert (below.q_star(), above.q_star()) == (0.0, math.inf)
    assert MeanField(sigma, 0.9 * critical, 0.5).q_star() == pytest.approx(5.0)
    assert MeanField(sigma, critical, 0.5).q_star() == math.inf


def ends_where_it_starts(theory: MeanField) -> bool:
    """Return whether q_star from a stable fixed point, perturbed by rounding, is this point."""
    point = theory.q_fixed_points().points[-1].value
    return all(abs(theory.q_star(point * (1 + k * 1e-13)) / point - 1) < 1e-9 for k in range(-5, 6))


CORNERS: dict[str, Callable[[], bool]] = {
    "q_star of SELU at σ_w² = 1 from 1, the default": lambda: ends_where_it_starts(MeanField(act.Selu(), 1.0, 0.0)),
    "q_star of tanh from its fixed point": lambda: ends_where_it_starts(MeanField(act.Tanh(), 2.5, 0.05)),
    "growth by σ_b² per layer": lambda: MeanField(act.Relu(), 2.0, 0.1).q_fixed_points().grows,
    "error of a fixed point": lambda: MeanField(act.Selu(), 1.0, 0.0).q_fixed_points().points[-1].error < 1e-9,
    "error estimate of undeclared steps": lambda: np.less_equal(*undeclared_steps()).mean() > 0.95,
}


@pytest.mark.parametrize("case", CORNERS)
def test_special_cases(case: str) -> None:
    assert CORNERS[case]()


@pytest.mark.parametrize("bad", [-1e-300, -1.0, math.nan, math.inf])
def test_invalid_variances_are_named(bad: float) -> None:
    for variances, key in (((bad, 0.1), "weight_variance="), ((1.0, bad), "bias_variance=")):
        with pytest.raises(ValueError, match=key):
            MeanField(act.Tanh(), *variances)


def test_c_map_of_relu_is_the_arccosine_kernel() -> None:
    """Cho & Saul, 2009: E σσ = q (sin θ + (π − θ) cos θ)/2π, E σ'σ' = (π − θ)/2π, θ = arccos c."""
    c = np.linspace(-1, 1, 9)
    theta, theory = np.arccos(c), MeanField(act.Relu(), 1.7, 0.1)
    kernel = (np.sin(theta) + (math.pi - theta) * c) / (2 * math.pi)
    assert theory.c_map(c, 0.6) == pytest.approx((1.7 * 0.6 * kernel + 0.1) / 0.6, abs=1e-9)
    assert np.array_equal(theory.chi(np.geomspace(1e-12, 1e12, 25)), np.full(25, 1.7 / 2))
    slopes = [theory.chi_between(v, 0.6) for v in c.tolist()]
    assert slopes == pytest.approx(1.7 * (math.pi - theta) / (2 * math.pi), abs=1e-9)


@pytest.mark.parametrize("sigma", [act.Tanh(), act.Relu(), act.Gelu(), act.HardTanh(), act.Sigmoid()], ids=name)
def test_c_map_has_slope_chi_at_1(sigma: Elementwise) -> None:
    theory = MeanField(sigma, 1.5, 0.05)
    ends = theory.c_map(np.array([1 - 1e-5, 1.0]), theory.q_star())
    assert ends[1] == pytest.approx(1, abs=1e-11)
    assert (ends[1] - ends[0]) / 1e-5 == pytest.approx(theory.chi_star(), rel=5e-3)  # error √1e-5 where σ' jumps
    assert theory.c_star().value == 1
    with pytest.raises(ValueError, match=r"q\*"):
        MeanField(act.Relu(), 3.0, 0.05).c_star()


def test_c_star_in_the_chaotic_phase_is_a_fixed_point_below_1() -> None:
    theory = MeanField(act.Tanh(), 2.5, 0.05)
    c, s = theory.c_star().value, math.sqrt(theory.q_star())
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    second = np.tanh(s * (c * nodes[:, None] + math.sqrt(1 - c * c) * nodes)) @ weights / weights.sum()
    assert (c < 0.5, theory.c_star().stable) == (True, True)
    assert (2.5 * (weights * np.tanh(s * nodes)) @ second / weights.sum() + 0.05) / s**2 == pytest.approx(c, abs=1e-7)


def test_profiles_of_linear_and_relu_networks_are_exact() -> None:
    sizes, weights, biases, x = [7, 50, 30, 80, 10], [0.3, 0.05, 0.01, 0.2], [0.0, 0.1, 0.2, 0.3], np.array([1.0, 9.0])
    for sigma, share in ((act.Identity(), 1.0), (act.Relu(), 0.5)):
        predicted, q, incoming = profile(sizes, [*[sigma] * 3, act.Softmax()], weights, biases, x), [], x.mean()
        for n, v, b in zip(sizes[1:], weights, biases, strict=True):
            q.append(v * incoming + b)
            incoming = n * share * q[-1]
        chi, variance = share * np.array(sizes[1:-1]) * weights[1:], (3 / share - 1) / np.array(sizes[1:-1])
        assert predicted.z_mean_square == pytest.approx(q)
        assert predicted.activation_mean_square[:-1] == pytest.approx(share * np.array(q[:-1]))
        assert predicted.chi[:-1] == pytest.approx(chi)
        assert predicted.log_variance[:-1] == pytest.approx(variance)
        assert predicted.log10_delta()[[0, -1]] == pytest.approx([math.log10(chi.prod()) / 2, 0])


def test_profile_includes_the_transient_of_each_example() -> None:
    predicted = profile([5, 50, 50, 50], [act.Tanh()] * 3, [0.3, 0.04, 0.04], [0.01] * 3, np.array([0.1, 50.0]))
    (square, slope, _), q = integrands(act.Tanh()), [0.04, 15.01]
    for layer in range(3):
        assert predicted.z_mean_square[layer] == pytest.approx(np.mean(q), rel=1e-9)
        assert predicted.slope_mean_square[layer] == pytest.approx(np.mean([by_scipy(slope, v) for v in q]), rel=1e-9)
        q = [2 * by_scipy(square, v) + 0.01 for v in q]


@pytest.mark.parametrize("depth", [6, *(pytest.param(n, marks=pytest.mark.thorough) for n in (12, 24))])
@pytest.mark.thorough
def test_random_networks_change_by_the_predicted_factors(depth: int) -> None:
    """Mean factor of q and ⟨‖δ‖²⟩ per layer, from arithmetic means over 40 seeds, with an input far from q*.

    Tolerance: 2%; six other sets of seeds deviate by at most 1.6%.
    """
    n, seeds, rng = 200, 40, np.random.default_rng(depth)
    first = Network.mlp([n] * (depth + 1), [act.Tanh()] * depth, (seeds,), "float32")
    draws, n_weights = rng.standard_normal(first.theta.shape, np.float32), first.n_weights
    x, top = (rng.standard_normal(shape, np.float32) for shape in ((n, 10), (seeds, n, 10)))
    x *= 0.5
    for sigma, variance in product(WIDE, (0.5, 1.0, 1.5, 3.0, 4.0)):
        net = Network([Dense(n, n, sigma) for _ in range(depth)], (seeds,), "float32", first.theta)
        np.multiply(draws[:, :n_weights], math.sqrt(variance / n), out=net.theta[:, :n_weights])
        np.multiply(draws[:, n_weights:], math.sqrt(0.05), out=net.theta[:, n_weights:])
        net.forward(x)
        net.backward_from(top)
        q, bottom = (np.square(a, dtype=float).mean() for a in (net.layers[-1].z, net.layers[0].delta))
        ratio = bottom / np.square(top, dtype=float).mean()
        sizes, square = [n] * (depth + 1), np.square(x).sum(axis=0)
        theory = profile(sizes, [sigma] * depth, [variance / n] * depth, [0.05] * depth, square)
        factor = math.exp(np.log(theory.chi[:-1]).mean())
        assert ratio ** (1 / (depth - 1)) == pytest.approx(factor, rel=0.02), (sigma, variance)
        assert (q / theory.z_mean_square[-1]) ** (1 / depth) == pytest.approx(1, rel=0.02), (sigma, variance)


def exact_log_variance(n: int, relu: bool) -> float:
    """Return Var ln(χ²_K/n) with K = n, or K = active units ~ Binomial(n, 1/2) without 0."""
    k = np.arange(1, n + 1)
    p = binom(n, k) / (2.0**n - 1) if relu else np.where(k == n, 1.0, 0.0)
    return float(p @ (polygamma(1, k / 2) + digamma(k / 2) ** 2) - (p @ digamma(k / 2)) ** 2)


@pytest.mark.parametrize(("sigma", "gain"), [(act.Relu(), 2.0), (act.Identity(), 1.0)], ids=name)
def test_ln_delta_varies_over_initialisations_as_predicted(sigma: Elementwise, gain: float) -> None:
    """log_variance is the first order in 1/n; the exact variance is greater by a share of about 4/n (ReLU) or 1/n.

    Tolerance: 4 standard errors of the variance over 3000 networks, plus 5/n of it against the first order.
    """
    assert [exact_log_variance(n, True) for n in (50, 100)] == pytest.approx([0.1082, 0.0519], abs=5e-5)
    n, depth, logs, rng = 50, 6, [], np.random.default_rng(0)
    net = Network.mlp([n] * (depth + 1), [sigma] * depth, (500,), "float32")
    for _ in range(6):
        weights = net.theta[:, : net.n_weights]
        np.multiply(rng.standard_normal(weights.shape, np.float32), math.sqrt(gain / n), out=weights)
        net.forward(rng.standard_normal((500, n, 1), np.float32))
        net.backward_from(rng.standard_normal((500, n, 1), np.float32))
        bottom, top = (np.square(net.layers[i].delta, dtype=float).sum(axis=(-2, -1)) for i in (0, -1))
        logs.extend(np.log(bottom / top).tolist())
    squares = np.square(np.array(logs) - np.mean(logs))
    error = float(squares.std()) / math.sqrt(len(logs))
    predicted = profile([n] * (depth + 1), [sigma] * depth, [gain / n] * depth, [0.0] * depth, np.ones(1))
    first = float(predicted.log_variance[:-1].sum())
    assert squares.mean() == pytest.approx((depth - 1) * exact_log_variance(n, gain == 2), abs=4 * error)
    assert squares.mean() == pytest.approx(first, abs=4 * error + 5 / n * first)


@given(st.floats(-5, 5), st.floats(0.1, 7), st.floats(0.1, 7), st.sampled_from([1, 3, 9]), st.booleans())
def test_itp_root_is_within_the_tolerance_after_few_evaluations(
    zero: float, below: float, above: float, power: int, rising: bool
) -> None:
    points: list[float] = []

    def f(x: float) -> float:
        points.append(x)
        return float((x - zero) ** power) * (1 if rising else -1)

    low, high = zero - below, zero + above
    assert abs(itp_root(f, low, high, 1e-9) - zero) <= 1e-9 * max(1.0, abs(zero))
    assert all(low <= x <= high for x in points)
    assert len(points) <= math.log2((high - low) / 1e-9) + 5
