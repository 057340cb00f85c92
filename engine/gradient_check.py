"""Gradient checks for activations, costs, blocks and networks, including a user's own.

A gradient g is compared with the directional derivative along random directions v:

    g·v  against  Im f(x + ihv)/h            complex step, h = 1e-30, exact to rounding where f is analytic
    g·v  against  [f(x + hv) − f(x − hv)]/2h central differences, h = 1e-6 · scale

The complex step, the more precise oracle, is used where central differences confirm it.
Source: Squire & Trapp, "Using Complex Variables to Estimate Derivatives of Real Functions", 1998.
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
    """Result of one comparison: part, method, largest relative error and tolerance."""

    part: str
    method: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Return whether the error is within the tolerance."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Report:
    """All comparisons of a check."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Return whether every comparison passed."""
        return all(check.passed for check in self.checks)

    def require(self) -> Report:
        """Return the report if every comparison passed.

        Raises:
            AssertionError: If a comparison failed; the message names each part with a wrong gradient.
        """
        failed = [c for c in self.checks if not c.passed]
        if failed:
            lines = [f"{c.part}: relative error {c.error:.2e} > {c.tolerance:.0e} ({c.method})" for c in failed]
            raise AssertionError("wrong gradient in " + "; ".join(lines))
        return self


def directional_derivative(f: Callable[[Array], Array], x: Array, v: Array) -> tuple[Array, str]:
    """Compute d/dh f(x + hv) at h = 0, and return it with its method, "complex step" or "central differences".

    Args:
        f: Function of real or complex arrays with the shape of x; the output may have any shape.
        x: Point.
        v: Direction, with the shape of x.
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
    """Check ``gradient`` against ``value`` at outputs a and targets y [n, B] inside the domain of the cost."""
    v = rng.standard_normal(a.shape) * np.minimum(np.abs(a), 1)
    expected, method = directional_derivative(lambda x: cost.value(x, y), a, v)
    got = np.add.reduce(v * cost.gradient(a, y), axis=-2)
    return Report((_compare(f"{type(cost).__name__}.gradient", got, expected, method),))


def check_network(
    network: Network, x: Array, y: Array, cost: Cost, rng: np.random.Generator, directions: int = 3
) -> Report:
    """Check the gradient of a network part by part, to locate each wrong block.

    Each block is checked alone, at a random input and ∂C/∂a, unless a block inside it is wrong. The cost's δ^L is
    checked at the last pass. If all are right, ∂C/∂θ of the whole network is checked.

    Args:
        network: Real network of any ensemble shape; its parameters do not change.
        x: Input [E..., n_0, B], or [n_0, B] shared by all members.
        y: Targets [E..., n_L, B].
        cost: C.
        rng: Generator of inputs and directions.
        directions: Number of random directions per comparison.
    """
    network.forward(x)
    network.backward(y, cost)
    checks, gradient = [_check_delta(network, y, cost, rng)], network.grad.copy()
    wrong: set[Block] = set()
    for i, block in reversed(list(enumerate(network.modules))):
        results = [] if wrong & set(flatten(block.inner())) else list(_check_block(network, i, rng, directions))
        if not all(check.passed for check in results):
            wrong.add(block)
        checks += results[::-1]

    def mean_cost(theta: Array) -> Array:
        shifted = network.like(theta)
        shifted.forward(x.astype(theta.dtype))
        return np.asarray(np.add.reduce(shifted.cost(y, cost), axis=-1) / x.shape[-1])

    if all(check.passed for check in checks):
        checks.append(_along(mean_cost, network.theta, gradient, "network ∂C/∂θ", rng, directions))
    return Report(tuple(reversed(checks)))


def _check_delta(network: Network, y: Array, cost: Cost, rng: np.random.Generator) -> Check:
    """Check δ^L of the last pass against C as a function of z^L."""
    top = network.output
    v = rng.standard_normal(top.z.shape)
    expected, method = directional_derivative(
        lambda z: cost.of_output(top.sigma, z, top.sigma.value(z), y), top.z.copy(), v
    )
    return _compare(f"{type(cost).__name__}.delta", np.add.reduce(v * top.delta, axis=-2), expected, method)


def _check_block(network: Network, i: int, rng: np.random.Generator, directions: int) -> Iterator[Check]:
    """Check the gradients of module i against Σ_b u_b·a_b as a function of its input and of θ, for random u = ∂C/∂a."""
    block, size, theta = network.modules[i], network.batch_size, network.theta
    a_in = rng.standard_normal((*network.ensemble, block.n_in, size))
    u = rng.standard_normal(block.forward(a_in).shape)

    def total(a_in: Array, theta: Array) -> Array:
        shifted = network.like(theta)
        shifted.resize(size)
        products = u * shifted.modules[i].forward(a_in)
        return np.asarray(np.add.reduce(products.reshape(*network.ensemble, -1), axis=-1))

    with np.errstate(all="ignore"):
        block.backward(u)
        through = block.input_gradient().copy()
    name = f"layer {block.number} ({type(block.sigma).__name__})" if isinstance(block, Dense) else type(block).__name__
    yield _along(lambda x: total(x, theta.astype(x.dtype)), a_in, through, f"{name} ∂C/∂a_in", rng, directions)
    for parameter in block.parameters:
        gradient = np.zeros_like(theta)
        gradient[..., parameter.place] = network.grad[..., parameter.place] * size  # Σ_b u_b·a_b is no average
        part = f"{name} ∂C/∂{parameter.name}"
        yield _along(lambda t: total(a_in.astype(t.dtype), t), theta, gradient, part, rng, directions, parameter.place)


def _along(  # seven arguments describe one comparison; a class for them would be longer
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
