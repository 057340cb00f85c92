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
from engine.optimizers import SGD, Adam, ClipGlobalNorm, ClipPerLayer, Clipping, Optimizer

SIZES = [2, 3, 2]
WEIGHTS = 12  # 2·3 + 3·2, then 3 + 2 biases
LAYERS = [[*range(6), 12, 13, 14], [*range(6, 12), 15, 16]]  # entries of theta: weights, then biases, of each layer


SCHEDULES = [Constant(), Cosine(0.1), StepDecay(2, 0.5), WarmUp(2, Constant())]
FACTORS: dict[str, list[float]] = {  # of the schedules above, for steps 0 to 3 of 4
    "Constant": [1, 1, 1, 1],
    "Cosine": [1, 0.1 + 0.45 * (1 + math.sqrt(0.5)), 0.55, 0.1 + 0.45 * (1 - math.sqrt(0.5))],
    "StepDecay": [1, 1, 0.5, 0.5],
    "WarmUp": [0.5, 1, 1, 1],
}


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
    schedule=st.sampled_from(SCHEDULES),
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
    factors = FACTORS[type(schedule).__name__]
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


# Adam


def test_adam_equals_numbers_worked_by_hand() -> None:
    """β₁ = ½, β₂ = ¾, ε = 1, η = 2, gradients 1 and 3.

    Step 1: m = ½, v = ¼, m̂ = 1, v̂ = 1, Δθ = −2·1/(1 + 1) = −1.
    Step 2: m = ¼ + ³⁄₂ = ⁷⁄₄, v = ³⁄₁₆ + ⁹⁄₄ = ³⁹⁄₁₆, m̂ = (⁷⁄₄)/(¾) = ⁷⁄₃, v̂ = (³⁹⁄₁₆)/(⁷⁄₁₆) = ³⁹⁄₇,
    √v̂ = 2.360387, Δθ = −2·2.333333/3.360387 = −1.388729.
    """
    net = network(SIZES, [act.Tanh()] * 2)
    optimizer = Adam(2.0, 0.5, 0.75, 1.0, 0.0, None, Constant())
    state, updates = optimizer.start(net), []
    for step, g in enumerate((1.0, 3.0)):
        net.grad[...] = g
        updates.append(optimizer.propose(net, state, step, 2).copy())
    assert updates[0].tolist() == [-1.0] * 17
    assert updates[1] == pytest.approx(-1.388729, abs=5e-7)


def adam_by_entry(
    optimizer: Adam, theta: list[float], gradients: list[list[float]], factors: list[float]
) -> list[float]:
    """Return θ after the steps: the sums of the definition for each entry, without running means."""
    past: list[list[float]] = []
    for g, factor in zip(gradients, factors, strict=True):
        past.append(g)
        t = len(past)
        moved = []
        for i, value in enumerate(theta):
            means = []
            for beta, power in ((optimizer.beta1, 1), (optimizer.beta2, 2)):
                shares = [(1 - beta) * beta ** (t - k) for k in range(1, t + 1)]
                total = math.fsum(share * h[i] ** power for share, h in zip(shares, past, strict=True))
                means.append(total / math.fsum(shares))
            direction = means[0] / (math.sqrt(means[1]) + optimizer.epsilon)
            decay = float(optimizer.weight_decay) * value if i < WEIGHTS else 0.0
            moved.append(value - float(optimizer.learning_rate) * factor * (direction + decay))
        theta = moved
    return theta


@settings(max_examples=examples(80), deadline=None)
@given(
    rate=st.floats(1e-4, 1.0),
    betas=st.sampled_from([(0.9, 0.999), (0.0, 0.9), (0.5, 0.0), (0.9, 0.5)]),
    epsilon=st.sampled_from([1e-8, 0.1]),
    decay=st.sampled_from([0.0, 0.1, 2.0]),
    clipping=st.sampled_from([None, ClipGlobalNorm(0.5), ClipPerLayer(0.5)]),
    schedule=st.sampled_from(SCHEDULES),
    seed=st.integers(0, 999),
)
def test_adam_equals_the_definition_entry_by_entry(
    rate: float,
    betas: tuple[float, float],
    epsilon: float,
    decay: float,
    clipping: Clipping | None,
    schedule: LearningRateSchedule,
    seed: int,
) -> None:
    optimizer = Adam(rate, *betas, epsilon, decay, clipping, schedule)
    net = network(SIZES, [act.Tanh()] * 2, seed=seed)
    gradients = np.random.default_rng(seed).standard_normal((4, 17))
    expected = adam_by_entry(
        optimizer,
        net.theta.tolist(),
        [clipped(g, clipping).tolist() for g in gradients],
        FACTORS[type(schedule).__name__],
    )
    state = optimizer.start(net)
    for step, g in enumerate(gradients):
        net.grad[...] = g
        before = net.theta.copy()
        update = optimizer.propose(net, state, step, 4)
        assert update is net.update
        assert np.array_equal(net.theta, before)  # propose does not change the parameters
        assert np.array_equal(net.grad, g)
        net.theta += update
    assert net.theta == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("decay", "dtype"), [(0.0, "float64"), (0.1, "float64"), (0.1, "float32")])
def test_adam_equals_pytorch(decay: float, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = network(SIZES, [act.Tanh()] * 2, dtype=dtype)
    parts = [torch.tensor(net.theta[:WEIGHTS].copy()), torch.tensor(net.theta[WEIGHTS:].copy())]
    groups = [{"params": [parts[0]], "weight_decay": decay}, {"params": [parts[1]], "weight_decay": 0.0}]
    peer = torch.optim.AdamW(groups, lr=0.05, betas=(0.8, 0.95), eps=1e-6)
    optimizer = Adam(0.05, 0.8, 0.95, 1e-6, decay, None, Constant())
    state = optimizer.start(net)
    for step, g in enumerate(np.random.default_rng(0).standard_normal((20, 17)).astype(dtype)):
        net.grad[...] = g
        net.theta += optimizer.propose(net, state, step, 20)
        for part, own in zip(parts, (g[:WEIGHTS], g[WEIGHTS:]), strict=True):
            part.grad = torch.tensor(own)
        peer.step()
    expected = np.concatenate([part.numpy() for part in parts])
    np.testing.assert_allclose(net.theta, expected, rtol=1e-11 if dtype == "float64" else 1e-4)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e100])
def test_adam_steps_do_not_depend_on_the_size_of_the_gradient(scale: float) -> None:
    """With ε far below |g|. The first step moves every parameter by the learning rate."""
    updates = []
    for factor in (1.0, scale):
        net = network(SIZES, [act.Tanh()] * 2)
        optimizer = Adam(0.01, 0.9, 0.999, 1e-30, 0.0, None, Constant())
        state = optimizer.start(net)
        for step in range(3):
            net.grad[...] = factor * np.random.default_rng(step).uniform(1, 2, 17)
            updates.append(optimizer.propose(net, state, step, 3).copy())
            if step == 0:
                np.testing.assert_allclose(updates[-1], -0.01, rtol=1e-12)
    np.testing.assert_allclose(updates[3:], updates[:3], rtol=1e-12)


def test_adam_steps_are_proportional_to_gradients_far_below_epsilon() -> None:
    net = network(SIZES, [act.Tanh()] * 2)
    net.grad[...] = np.linspace(1e-20, 1e-18, 17)
    optimizer = Adam(0.01, 0.9, 0.999, 1e-8, 0.0, None, Constant())
    update = optimizer.propose(net, optimizer.start(net), 0, 1)
    np.testing.assert_allclose(update, -0.01 * net.grad / 1e-8, rtol=1e-9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": -0.1}, "learning_rate=-0.1: must be >= 0 and finite"),
        ({"beta1": 1.0}, r"beta1=1.0: must be in \[0, 1\)"),
        ({"beta1": math.nan}, r"beta1=nan: must be in \[0, 1\)"),
        ({"beta2": -0.1}, r"beta2=-0.1: must be in \[0, 1\)"),
        ({"epsilon": 0.0}, "epsilon=0.0: must be >= 1e-30 and finite"),
        ({"epsilon": math.inf}, "epsilon=inf: must be >= 1e-30 and finite"),
        ({"weight_decay": math.nan}, "weight_decay=nan: must be >= 0 and finite"),
    ],
)
def test_invalid_hyperparameters_of_adam_are_refused_by_name(values: dict[str, float], message: str) -> None:
    usual = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0}
    with pytest.raises(ValueError, match=rf"^{message}$"):
        Adam(**usual | values, clipping=None, learning_rate_schedule=Constant())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.1, 0.9, True, 0.1, ClipPerLayer(0.5), WarmUp(2, Cosine(0.0))),
        Adam(0.1, 0.9, 0.999, 1e-8, 0.1, ClipPerLayer(0.5), WarmUp(2, Cosine(0.0))),
        Adam(np.array([0.1, 0.2]), 0.9, 0.999, 1e-8, np.array([0.1, 0.2]), None, Constant()),
    ],
    ids=["SGD", "Adam", "Adam per member"],
)
def test_updates_keep_the_dtype(optimizer: Optimizer, dtype: str) -> None:
    net = network(SIZES, [act.Tanh()] * 2, (2,), dtype)
    net.grad[...] = 1.0
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
