"""Gradient checks for anybody's parts: a network, an activation or a cost, a user's own included.

A gradient g is compared with the directional derivative along random directions v:

    g·v  against  Im C(θ + ihv)/h            complex step, h = 1e-30: exact to rounding, where C is analytic
    g·v  against  [C(θ + hv) − C(θ − hv)]/2h central differences, h = 1e-6 · scale, otherwise

Which of the two holds is found by trying: a complex step that central differences confirm is the sharper oracle.
Source of the complex step: Squire & Trapp, "Using Complex Variables to Estimate Derivatives", 1998.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.activations import Activation, Elementwise
from engine.arrays import Array, Operation, do
from engine.costs import Cost
from engine.network import Network

COMPLEX_STEP = 1e-30
REAL_STEP = 1e-6


@dataclass(frozen=True)
class Check:
    """One comparison: which part, by which method, the largest relative error found, and the error allowed."""

    part: str
    method: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Report:
    """All comparisons of a check; :meth:`require` raises if one failed."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every comparison passed."""
        return all(check.passed for check in self.checks)

    def require(self) -> Report:
        """Itself, if every comparison passed.

        Raises:
            AssertionError: naming each part whose gradient is wrong.
        """
        wrong = [c for c in self.checks if not c.passed]
        if wrong:
            lines = [f"{c.part}: relative error {c.error:.2e} > {c.tolerance:.0e} ({c.method})" for c in wrong]
            raise AssertionError("wrong gradient in " + "; ".join(lines))
        return self


def directional_derivative(f: Callable[[Array], Array], x: Array, v: Array) -> tuple[Array, str]:
    """d/dh f(x + hv) at 0, and the method that gave it: "complex step" or "central differences".

    Args:
        f: a function of arrays like x, real or complex; any output shape.
    """
    h = REAL_STEP * max(1.0, float(np.abs(x).max())) / max(float(np.abs(v).max()), 1e-300)
    central = (f(x + h * v) - f(x - h * v)) / (2 * h)
    try:
        with np.errstate(all="ignore"):
            exact: Array = np.imag(f(x + 1j * COMPLEX_STEP * v)) / COMPLEX_STEP
    except TypeError:
        return central, "central differences"
    scale = max(1.0, float(np.abs(central).max()))
    if np.all(np.abs(exact - central) <= 1e-6 * scale):
        return exact, "complex step"
    return central, "central differences"


_TOLERANCE = {"complex step": 1e-10, "central differences": 1e-6, "the same call without out": 1e-14}


def _compare(part: str, got: Array, expected: Array, method: str) -> Check:
    scale = max(float(np.abs(expected).max()), 1e-12)
    error = float(np.abs(got - expected).max()) / scale
    return Check(part, method, error if np.isfinite(error) else np.inf, _TOLERANCE[method])


def check_activation(sigma: Activation, rng: np.random.Generator, units: int = 5, examples: int = 40) -> Report:
    """Does ``pull_back`` agree with ``value``, and ``jacobian`` with both? z ~ N(0, 4), away from kinks by chance.

    v·(Jᵀ u) = u·(d/dh σ(z + hv)) for random u, v. And is what has an ``out`` written to it, and does what is made ready
    by a method of its own do the same, also when its arrays have changed?
    """
    z, u, v = (2 * rng.standard_normal((units, examples)) for _ in range(3))
    forward, method = directional_derivative(sigma.value, z, v)
    a = sigma.value(z)
    pulled = np.add.reduce(v * sigma.pull_back(z, a, u), axis=-2)
    by_jacobian = np.squeeze(sigma.jacobian(z, a) @ v.T[..., None], -1).T
    name = type(sigma).__name__
    written = [
        _written(f"{name}.value", lambda out: sigma.value(z, out=out), a),
        _written(f"{name}.pull_back", lambda out: sigma.pull_back(z, a, u, out=out), sigma.pull_back(z, a, u)),
    ]
    if type(sigma).prepare is not Activation.prepare:
        written.append(_ready(f"{name}.prepare", sigma.prepare, (z,), a))
    if isinstance(sigma, Elementwise):
        slopes = sigma.derivative(z, a)
        written.append(_written(f"{name}.derivative", lambda out: sigma.derivative(z, a, out=out), slopes))
        if type(sigma).prepare_derivative is not Elementwise.prepare_derivative:
            written.append(_ready(f"{name}.prepare_derivative", sigma.prepare_derivative, (z, a), slopes))
    return Report(
        (
            _compare(f"{name}.pull_back", pulled, np.add.reduce(u * forward, axis=-2), method),
            _compare(f"{name}.jacobian", by_jacobian, forward, method),
            *written,
        )
    )


def _written(part: str, function: Callable[[Array], Array], expected: Array) -> Check:
    """Whether a result is there where it was to be written."""
    room = np.full_like(expected, np.nan)
    function(room)
    return _compare(f"{part} written to out", room, expected, "the same call without out")


def _ready(part: str, prepare: Callable[..., Sequence[Operation]], args: Sequence[Array], expected: Array) -> Check:
    """Whether what was made ready with other numbers in the same arrays finds the same."""
    room, places = np.full_like(expected, np.nan), [np.full_like(x, 0.5) for x in args]
    operations = prepare(*places, room)
    for place, x in zip(places, args, strict=True):
        place[...] = x
    do(operations)
    return _compare(part, room, expected, "the same call without out")


def check_cost(cost: Cost, a: Array, y: Array, rng: np.random.Generator) -> Report:
    """Does ``gradient`` agree with ``value`` at outputs a and targets y, both [n, B] and inside the cost's domain?"""
    v = rng.standard_normal(a.shape) * np.minimum(np.abs(a), 1)
    expected, method = directional_derivative(lambda x: cost.value(x, y), a, v)
    got = np.add.reduce(v * cost.gradient(a, y), axis=-2)
    return Report((_compare(f"{type(cost).__name__}.gradient", got, expected, method),))


def check_network(
    network: Network, x: Array, y: Array, cost: Cost, rng: np.random.Generator, directions: int = 3
) -> Report:
    """Is ``backward`` right, layer by layer? Tries random directions in each layer's weights and biases alone.

    Args:
        network: real, of any ensemble shape, with its parameters set; not changed.
        x, y: input [E..., n_0, B] (or shared [n_0, B]) and targets.
    """
    network.forward(x)
    grad = network.backward(y, cost).copy()
    pairs = network.parameters.views(grad)
    checks = []
    for number, layer_grads in enumerate(pairs, start=1):
        for name, gradient in zip(("W", "b"), layer_grads, strict=True):
            got, expected, methods = [], [], set()
            for _ in range(directions):
                v = np.zeros_like(network.theta)
                target = network.parameters.views(v)[number - 1][0 if name == "W" else 1]
                target[...] = rng.standard_normal(target.shape)
                slope, method = directional_derivative(_mean_cost(network, x, y, cost), network.theta, v)
                got.append(np.add.reduce(gradient * target, axis=(-2, -1)))
                expected.append(slope)
                methods.add(method)
            method = max(methods, key=lambda m: _TOLERANCE[m])
            checks.append(_compare(f"layer {number} ∂C/∂{name}", np.array(got), np.array(expected), method))
    return Report(tuple(checks))


def _mean_cost(network: Network, x: Array, y: Array, cost: Cost) -> Callable[[Array], Array]:
    """θ ↦ C averaged over the batch, [E...], on a copy of the network of θ's own type."""
    sigmas = [layer.sigma for layer in network.layers]

    def value(theta: Array) -> Array:
        twin = Network(network.sizes, sigmas, network.ensemble, theta.dtype)
        twin.theta[...] = theta
        twin.forward(x.astype(theta.dtype))
        return np.asarray(np.add.reduce(twin.cost(y, cost), axis=-1)) / x.shape[-1]

    return value
