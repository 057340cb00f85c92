"""Gradient checks for any activation, cost, block or network, a user's own included.

A gradient g is compared with the directional derivative along random directions v:

    g·v  against  Im f(x + ihv)/h            complex step, h = 1e-30: exact to rounding, where f is analytic
    g·v  against  [f(x + hv) − f(x − hv)]/2h central differences, h = 1e-6 · scale, otherwise

The complex step is used where central differences confirm it; it is the sharper oracle.
Source of the complex step: Squire & Trapp, "Using Complex Variables to Estimate Derivatives", 1998.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from engine.activations import Activation
from engine.arrays import Array
from engine.blocks import Block, flatten
from engine.costs import Cost
from engine.network import Dense, Network

COMPLEX_STEP = 1e-30
REAL_STEP = 1e-6


@dataclass(frozen=True)
class Check:
    """One comparison: the part checked, the method, the largest relative error and the error allowed."""

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
        """Return the report if every comparison passed.

        Raises:
            AssertionError: naming each part whose gradient is wrong.
        """
        wrong = [c for c in self.checks if not c.passed]
        if wrong:
            lines = [f"{c.part}: relative error {c.error:.2e} > {c.tolerance:.0e} ({c.method})" for c in wrong]
            raise AssertionError("wrong gradient in " + "; ".join(lines))
        return self


def directional_derivative(f: Callable[[Array], Array], x: Array, v: Array) -> tuple[Array, str]:
    """Compute d/dh f(x + hv) at 0, and name the method: "complex step" or "central differences".

    Args:
        f: a function of arrays like x, real or complex; any output shape.
        x, v: the point and the direction, of one shape.
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


_TOLERANCE = {"complex step": 1e-10, "central differences": 1e-6}


def _compare(part: str, got: Array, expected: Array, method: str) -> Check:
    scale = max(float(np.abs(expected).max()), 1e-12)
    error = float(np.abs(got - expected).max()) / scale
    return Check(part, method, error if np.isfinite(error) else np.inf, _TOLERANCE[method])


def check_activation(sigma: Activation, rng: np.random.Generator, units: int = 5, examples: int = 40) -> Report:
    """Check ``pull_back`` and ``jacobian`` against ``value`` at z ~ N(0, 4): v·(Jᵀ u) = u·(d/dh σ(z + hv))."""
    z, u, v = (2 * rng.standard_normal((units, examples)) for _ in range(3))
    forward, method = directional_derivative(sigma.value, z, v)
    a = sigma.value(z)
    pulled = np.add.reduce(v * sigma.pull_back(z, a, u), axis=-2)
    by_jacobian = np.squeeze(sigma.jacobian(z, a) @ v.T[..., None], -1).T
    name = type(sigma).__name__
    return Report(
        (
            _compare(f"{name}.pull_back", pulled, np.add.reduce(u * forward, axis=-2), method),
            _compare(f"{name}.jacobian", by_jacobian, forward, method),
        )
    )


def check_cost(cost: Cost, a: Array, y: Array, rng: np.random.Generator) -> Report:
    """Check ``gradient`` against ``value`` at outputs a and targets y, both [n, B] and inside the cost's domain."""
    v = rng.standard_normal(a.shape) * np.minimum(np.abs(a), 1)
    expected, method = directional_derivative(lambda x: cost.value(x, y), a, v)
    got = np.add.reduce(v * cost.gradient(a, y), axis=-2)
    return Report((_compare(f"{type(cost).__name__}.gradient", got, expected, method),))


def check_network(
    network: Network, x: Array, y: Array, cost: Cost, rng: np.random.Generator, directions: int = 3
) -> Report:
    """Check the gradient of a network part by part, and name every block that is wrong.

    First each block by itself, at a random input with a random ∂C/∂a; then the cost's δ^L; if these are right, ∂C/∂θ of
    the whole network. A block that contains a wrong one is not checked.

    Args:
        network: real, of any ensemble shape, with its parameters set; they do not change.
        x, y: input [E..., n_0, B] (or shared [n_0, B]) and targets [E..., n_L, B].
        cost: C.
        rng: draws inputs and directions.
        directions: random directions per comparison.
    """
    network.forward(x)
    network.backward(y, cost)
    checks, gradient = [_check_delta(network, y, cost, rng)], network.grad.copy()
    wrong: set[Block] = set()
    for i, block in reversed(list(enumerate(network.modules))):
        found = [] if wrong & set(flatten(block.inner())) else list(_check_block(network, i, rng, directions))
        if not all(check.passed for check in found):
            wrong.add(block)
        checks += found[::-1]

    def mean_cost(theta: Array) -> Array:
        other = network.like(theta)
        other.forward(x.astype(theta.dtype))
        return np.asarray(np.add.reduce(other.cost(y, cost), axis=-1) / x.shape[-1])

    if all(check.passed for check in checks):
        checks.append(_along(mean_cost, network.theta, gradient, "network ∂C/∂θ", rng, directions))
    return Report(tuple(reversed(checks)))


def _check_delta(network: Network, y: Array, cost: Cost, rng: np.random.Generator) -> Check:
    """δ^L of the last pass against C as a function of z^L."""
    top = network.output
    v = rng.standard_normal(top.z.shape)
    expected, method = directional_derivative(
        lambda z: cost.of_output(top.sigma, z, top.sigma.value(z), y), top.z.copy(), v
    )
    return _compare(f"{type(cost).__name__}.delta", np.add.reduce(v * top.delta, axis=-2), expected, method)


def _check_block(network: Network, i: int, rng: np.random.Generator, directions: int) -> Iterator[Check]:
    """The gradients of module i against Σ_b u_b·a_b as a function of its input and of θ, for a random u = ∂C/∂a."""
    block, size, theta = network.modules[i], network.batch_size, network.theta
    a_in = rng.standard_normal((*network.ensemble, block.n_in, size))
    u = rng.standard_normal(block.forward(a_in).shape)

    def total(a_in: Array, theta: Array) -> Array:
        other = network.like(theta)
        other.resize(size)
        products = u * other.modules[i].forward(a_in)
        return np.asarray(np.add.reduce(products.reshape(*network.ensemble, -1), axis=-1))

    with np.errstate(all="ignore"):
        block.backward(u)
        through = block.input_gradient().copy()
    name = f"layer {block.number} ({type(block.sigma).__name__})" if isinstance(block, Dense) else type(block).__name__
    yield _along(lambda x: total(x, theta.astype(x.dtype)), a_in, through, f"{name} ∂C/∂a_in", rng, directions)
    for parameter in block.parameters:
        gradient = np.zeros_like(theta)
        gradient[..., parameter.place] = network.grad[..., parameter.place] * size  # a sum here, not an average
        part = f"{name} ∂C/∂{parameter.name}"
        yield _along(lambda t: total(a_in.astype(t.dtype), t), theta, gradient, part, rng, directions, parameter.place)


def _along(
    f: Callable[[Array], Array],
    x: Array,
    gradient: Array,
    part: str,
    rng: np.random.Generator,
    directions: int,
    place: slice = slice(None),
) -> Check:
    """Compare a gradient of f [E...] at x with derivatives along random directions within ``place``."""
    got, expected, methods = [], [], []
    for _ in range(directions):
        v = np.zeros_like(x)
        v[..., place] = rng.standard_normal(v[..., place].shape)
        slope, method = directional_derivative(f, x, v)
        got.append(np.add.reduce((gradient * v).reshape(*slope.shape, -1), axis=-1))
        expected.append(slope)
        methods.append(method)
    return _compare(part, np.array(got), np.array(expected), max(methods, key=_TOLERANCE.__getitem__))
