"""Updates against their formulas in the documented order: clip, decay, momentum, learning rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.networks import network

from engine import activations as act
from engine.arrays import Array
from engine.learning_rates import Constant, Cosine, LearningRateSchedule, StepDecay, WarmUp
from engine.optimizers import SGD, ClipGlobalNorm, ClipPerLayer, Clipping

SIZES = [2, 3, 2]
WEIGHTS = 12  # 2·3 + 3·2, then 3 + 2 biases
LAYERS = [[*range(6), 12, 13, 14], [*range(6, 12), 15, 16]]  # entries of theta: weights, then biases, of each layer


def clipped(g: Array, clipping: Clipping | None) -> Array:
    g = g.copy()
    if isinstance(clipping, ClipGlobalNorm):
        groups = [list(range(17))]
    elif isinstance(clipping, ClipPerLayer):
        groups = LAYERS
    else:
        return g
    for group in groups:
        size = math.sqrt(math.fsum(float(v) ** 2 for v in g[group]))
        g[group] *= min(1.0, clipping.max_norm / size)
    return g


@settings(max_examples=examples(80), deadline=None)
@given(
    rate=st.floats(1e-3, 1.0),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    nesterov=st.booleans(),
    decay=st.sampled_from([0.0, 0.1, 2.0]),
    clipping=st.sampled_from([None, ClipGlobalNorm(0.5), ClipPerLayer(0.5), ClipGlobalNorm(1e3)]),
    schedule=st.sampled_from([Constant(), Cosine(0.1), StepDecay(2, 0.5), WarmUp(2, Constant())]),
    seed=st.integers(0, 999),
)
def test_updates_equal_the_formulas_over_four_steps(
    rate: float,
    momentum: float,
    nesterov: bool,
    decay: float,
    clipping: Clipping | None,
    schedule: LearningRateSchedule,
    seed: int,
) -> None:
    nesterov = nesterov and momentum > 0
    optimizer = SGD(rate, momentum, nesterov, decay, clipping, schedule)
    net = network(SIZES, [act.Tanh()] * 2, seed=seed)
    gradients = np.random.default_rng(seed).standard_normal((4, 17))
    choices: dict[str, list[float]] = {
        "Constant": [1, 1, 1, 1],
        "Cosine": [1, 0.1 + 0.45 * (1 + math.sqrt(0.5)), 0.55, 0.1 + 0.45 * (1 - math.sqrt(0.5))],
        "StepDecay": [1, 1, 0.5, 0.5],
        "WarmUp": [0.5, 1, 1, 1],
    }
    factors = choices[type(schedule).__name__]
    state, theta, v = optimizer.start(net), net.theta.copy(), np.zeros(17)
    for step, g in enumerate(gradients):
        net.grad[...] = g
        before = net.theta.copy()
        update = optimizer.propose(net, state, step, 4)
        assert update is net.update
        assert np.array_equal(net.theta, before)  # propose does not change the parameters
        assert np.array_equal(net.grad, g)
        net.theta += update
        slope = clipped(g, clipping)
        slope[:WEIGHTS] += decay * theta[:WEIGHTS]
        v = momentum * v + slope
        theta = theta - rate * factors[step] * (slope + momentum * v if nesterov else v)
    assert np.abs(net.theta - theta).max() < 1e-13 * max(1.0, float(np.abs(theta).max()))


@settings(max_examples=examples(60), deadline=None)
@given(
    bound=st.floats(1e-3, 1e3),
    exponent=st.integers(-200, 200),
    seed=st.integers(0, 99),
)
def test_clipping_keeps_directions_and_bounds_norms(bound: float, exponent: int, seed: int) -> None:
    """At any magnitude: the square of 1e200 overflows, that of 1e-200 underflows."""
    net = network(SIZES, [act.Tanh()] * 2)
    g = np.random.default_rng(seed).standard_normal(17) * 10.0**exponent
    for clipping, groups in ((ClipGlobalNorm(bound), [list(range(17))]), (ClipPerLayer(bound), LAYERS)):
        result = g.copy()
        clipping.clip(result, net)
        for group in groups:
            before, after = math.hypot(*g[group]), math.hypot(*result[group])
            assert after == pytest.approx(min(before, bound), rel=1e-14)
            assert np.allclose(result[group] / after, g[group] / before, rtol=1e-13, atol=0)
            if before <= bound:
                assert np.array_equal(result[group], g[group])


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_clipping_keeps_non_finite_gradients(bad: float) -> None:
    net = network(SIZES, [act.Tanh()] * 2)
    g = np.ones(17)
    g[3] = bad
    for clipping, untouched in ((ClipGlobalNorm(0.1), list(range(17))), (ClipPerLayer(0.1), LAYERS[0])):
        result = g.copy()
        clipping.clip(result, net)
        assert np.array_equal(result[untouched], g[untouched], equal_nan=True)


def test_plain_sgd_is_one_product() -> None:
    """Δθ = −η ∇C, byte for byte; the learning rate may be 0."""
    net = network(SIZES, [act.Tanh()] * 2, (2,))
    net.grad[...] = np.random.default_rng(0).standard_normal(net.grad.shape)
    for rate in (0.3, 0.0):
        optimizer = SGD(rate, 0.0, False, 0.0, None, Constant())
        assert np.array_equal(optimizer.propose(net, optimizer.start(net), 0, 1), -rate * net.grad)


def test_momentum_starts_at_0_and_reaches_its_limit() -> None:
    """For a constant gradient v → g/(1 − μ), geometrically."""
    net = network(SIZES, [act.Tanh()] * 2)
    net.grad[...] = 1.0
    optimizer = SGD(1.0, 0.5, False, 0.0, None, Constant())
    state = optimizer.start(net)
    updates = [float(optimizer.propose(net, state, k, 40)[0]) for k in range(40)]
    assert updates[:3] == [-1.0, -1.5, -1.75]
    assert updates[-1] == pytest.approx(-2.0, rel=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_updates_keep_the_dtype(dtype: str) -> None:
    net = network(SIZES, [act.Tanh()] * 2, (2,), dtype)
    net.grad[...] = 1.0
    optimizer = SGD(0.1, 0.9, True, 0.1, ClipPerLayer(0.5), WarmUp(2, Cosine(0.0)))
    state = optimizer.start(net)
    assert optimizer.propose(net, state, 0, 5).dtype == dtype
    assert state.dtype == dtype


def test_learning_rate_schedules_stay_within_their_bounds() -> None:
    assert [Constant().factor(t, 5) for t in range(5)] == [1.0] * 5
    cosine = [Cosine(0.3).factor(t, 20) for t in range(21)]
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[0] == 1.0
    assert cosine[-1] == pytest.approx(0.3)
    warm = WarmUp(3, StepDecay(2, 0.1))
    assert [warm.factor(t, 9) for t in range(8)] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 0.1, 0.1, 0.01])
    assert Cosine(0.5).factor(0, 0) == 1.0


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_invalid_clipping_bounds_are_refused(value: float) -> None:
    for kind in (ClipGlobalNorm, ClipPerLayer):
        with pytest.raises(ValueError, match=r"max_norm=.*must be > 0 and finite"):
            kind(value)


@pytest.mark.parametrize(
    ("rate", "momentum", "decay", "key"),
    [
        (math.nan, 0.0, 0.0, "learning_rate"),
        (math.inf, 0.0, 0.0, "learning_rate"),
        (0.1, -0.1, 0.0, "momentum"),
        (0.1, math.nan, 0.0, "momentum"),
        (0.1, 0.0, -0.1, "weight_decay"),
        (0.1, 0.0, math.inf, "weight_decay"),
    ],
)
def test_invalid_hyperparameters_are_refused_by_name(rate: float, momentum: float, decay: float, key: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key}="):
        SGD(rate, momentum, False, decay, None, Constant())
