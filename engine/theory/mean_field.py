"""Mean-field theory of wide networks: size of z and δ and correlation of examples from layer to layer.

    q ↦ σ_w² E σ(√q z)² + σ_b²                        mean square of z, fixed point q*
    χ = σ_w² E σ'(√q z)²                              factor of ⟨‖δ‖²⟩ per layer, depth scale ξ = 1/|ln χ|
    c ↦ (σ_w² E σ(u₁)σ(u₂) + σ_b²)/q*                 correlation of two examples, u₁, u₂ ~ N(0, q*) with correlation c

Sources: Poole et al., "Exponential Expressivity in Deep Neural Networks through Transient Chaos", 2016; Schoenholz et
al., "Deep Information Propagation", 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from engine.activations import Elementwise
from engine.arrays import Array
from engine.theory.gaussian import Average, expectation, piecewise_moments

SMALLEST, LARGEST = 1e-12, 1e12  # range of the search for fixed points of q
_GRID = np.geomspace(SMALLEST, LARGEST, 193)
_UNCHANGED = 1e-9  # a relative change of q below this is within the error of quadrature


@dataclass(frozen=True)
class FixedPoint:
    """Fixed point of a map, slope of the map there, and estimated error of the value."""

    value: float
    slope: float
    error: float

    @property
    def stable(self) -> bool:
        """Return whether the fixed point attracts, |slope| < 1."""
        return abs(self.slope) < 1


@dataclass(frozen=True)
class FixedPoints:
    """Fixed points of a map.

    Attributes:
        points: Fixed points, ascending.
        everywhere: Whether every value is a fixed point, as for ReLU with σ_w² = 2.
        grows: Whether values beyond the last fixed point grow without bound.
    """

    points: tuple[FixedPoint, ...]
    everywhere: bool
    grows: bool


@dataclass(frozen=True)
class MeanField:
    """Mean-field theory of layers with one activation and one pair of variances.

    Args:
        sigma: Element-wise activation, including a user's own.
        weight_variance: σ_w² = fan_in · Var[W] >= 0.
        bias_variance: σ_b² >= 0.

    Raises:
        ValueError: If a variance is negative or not finite.
    """

    sigma: Elementwise
    weight_variance: float
    bias_variance: float

    def __post_init__(self) -> None:
        for name in ("weight_variance", "bias_variance"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value}: must be >= 0 and finite")

    def q_map(self, q: Array | float) -> Array:
        """Return the mean square of z in the next layer."""
        return self.weight_variance * moment(self.sigma, 0, q).value + self.bias_variance

    def chi(self, q: Array | float) -> Array:
        """Return χ at a mean square of z."""
        return np.asarray(self.weight_variance * moment(self.sigma, 1, q).value)

    def q_fixed_points(self) -> FixedPoints:
        """Return the fixed points of the q-map between 1e-12 and 1e12, and 0 if it is one."""
        square = _on_grid(self.sigma)
        values = self.weight_variance * square.value + self.bias_variance
        change = np.log(np.maximum(values, 1e-300) / _GRID)
        change[np.abs(change) < _UNCHANGED] = 0
        if not change.any():
            return FixedPoints((), everywhere=True, grows=False)
        roots = [itp_root(lambda t: float(np.log(self.q_map(math.exp(t))) - t), a, b) for a, b in _crossings(change)]
        points = [self._q_point(math.exp(t)) for t in roots]
        if self.bias_variance == 0 and float(self.q_map(0.0)) == 0:
            slope = float(self.q_map(SMALLEST)) / SMALLEST
            points.insert(0, FixedPoint(0.0, slope, 0.0))
        return FixedPoints(tuple(points), everywhere=False, grows=bool(change[np.flatnonzero(change)[-1]] > 0))

    def _q_point(self, q: float) -> FixedPoint:
        error = self.weight_variance * float(moment(self.sigma, 0, q).error)
        low, high = q * (1 - 1e-4), q * (1 + 1e-4)
        return FixedPoint(q, float(self.q_map(high) - self.q_map(low)) / (high - low), error)

    def q_star(self, start: float = 1.0) -> float:
        """Return the fixed point that q reaches from ``start``, or ∞ if q grows without bound."""
        fixed = self.q_fixed_points()
        if fixed.everywhere:
            return start
        values = [p.value for p in fixed.points]
        at_start = [v for v in values if math.isclose(v, start, rel_tol=_UNCHANGED)]
        if at_start:
            return at_start[0]
        rises = float(self.q_map(start)) > start
        if rises:
            return min((v for v in values if v > start), default=math.inf)
        return max((v for v in values if v <= start), default=0.0)

    def chi_star(self, start: float = 1.0) -> float:
        """Return χ₁ = χ(q*)."""
        return float(self.chi(min(max(self.q_star(start), SMALLEST), LARGEST)))

    def depth_scale(self, start: float = 1.0) -> float:
        """Return ξ = 1/|ln χ₁|, the layers over which ⟨‖δ‖²⟩ changes by a factor e; ∞ at χ₁ = 1."""
        return _depth_scale(self.chi_star(start))

    def c_map(self, c: Array | float, q: float) -> Array:
        """Return the correlation of two examples in the next layer, both with mean square q."""
        return (self.weight_variance * pair_moment(self.sigma.value, self.sigma, c, q) + self.bias_variance) / q

    def chi_between(self, c: float, q: float) -> float:
        """Return σ_w² E σ'(u₁) σ'(u₂), the slope of the c-map, which is χ₁ at c = 1."""
        if c >= 1:
            return float(self.chi(q))
        return float(self.weight_variance * pair_moment(lambda x: _slope(self.sigma, x), self.sigma, c, q))

    def c_star(self, start: float = 1.0) -> FixedPoint:
        """Return the correlation that all pairs of examples reach: 1 in the ordered phase, less in the chaotic phase.

        Raises:
            ValueError: If q* is 0 or ∞, where no correlation is defined.
        """
        q = self.q_star(start)
        if not 0 < q < math.inf:
            raise ValueError(f"q* = {q}: no correlation is defined there")
        if self.chi_between(1.0, q) <= 1:
            return FixedPoint(1.0, self.chi_between(1.0, q), 0.0)

        def drift(c: float) -> float:
            return float(self.c_map(c, q)) - c

        low, high = -1 + 1e-6, 1 - 1e-9
        c = itp_root(drift, low, high) if drift(low) > 0 > drift(high) else 1.0
        return FixedPoint(c, self.chi_between(c, q), abs(drift(c)))

    def correlation_depth_scale(self, start: float = 1.0) -> float:
        """Return ξ_c = 1/|ln χ_{c*}|, the layers over which the correlation of two examples decays by a factor e."""
        return _depth_scale(self.c_star(start).slope)


def critical_weight_variance(sigma: Elementwise, bias_variance: float) -> float:
    """Return the smallest σ_w² with χ₁ = 1, where gradients neither vanish nor explode; NaN if none is below 1e6."""

    def excess(log_variance: float) -> float:
        return math.log(max(MeanField(sigma, math.exp(log_variance), bias_variance).chi_star(), 1e-300))

    grid = np.log(np.geomspace(1e-2, 1e6, 65)).tolist()
    before = excess(grid[0])
    for a, b in pairwise(grid):
        after = excess(b)
        if before < 0 <= after:
            return math.exp(itp_root(excess, a, b, tolerance=1e-10))
        before = after
    return math.nan


def moment(sigma: Elementwise, which: int, q: Array | float) -> Average:
    """Compute E σ(x)² (0), E σ'(x)² (1) or E σ'(x)⁴ (2) for x ~ N(0, q), in closed form for a piecewise linear σ."""
    q = np.asarray(q, np.float64)
    if sigma.pieces:
        return Average(piecewise_moments(sigma.pieces, q)[which], np.zeros_like(q))
    powers: tuple[Callable[[Array], Array], ...] = (
        lambda x: np.square(sigma.value(x)),
        lambda x: np.square(_slope(sigma, x)),
        lambda x: np.square(np.square(_slope(sigma, x))),
    )
    return expectation(powers[which], 0.0, np.sqrt(q), sigma.kinks)


def moments(sigma: Elementwise, q: Array | float) -> tuple[Average, Average, Average]:
    """Compute E σ(x)², E σ'(x)² and E σ'(x)⁴ for x ~ N(0, q)."""
    return moment(sigma, 0, q), moment(sigma, 1, q), moment(sigma, 2, q)


def _on_grid(sigma: Elementwise) -> Average:
    """Return E σ² on the grid, which does not depend on the variances; cached for hashable activations."""
    try:
        return _cached_on_grid(sigma)
    except TypeError:  # a user's activation may not be hashable
        return moment(sigma, 0, _GRID)


@lru_cache(maxsize=64)
def _cached_on_grid(sigma: Elementwise) -> Average:
    return moment(sigma, 0, _GRID)


def pair_moment(f: Callable[[Array], Array], sigma: Elementwise, c: Array | float, q: float) -> Array:
    """Compute E f(u₁) f(u₂) for u₁, u₂ ~ N(0, q) with correlation c, by nested quadrature."""
    kinks = list(sigma.kinks) or [p.left for p in sigma.pieces[1:]]

    def average(correlation: float) -> float:
        conditional_std = math.sqrt(max(0.0, 1 - correlation**2)) * math.sqrt(q)

        def outer(x: Array) -> Array:
            inner = expectation(f, (correlation * x).ravel(), conditional_std, kinks, 1e-10).value
            return np.asarray(f(x) * inner.reshape(x.shape))

        edges = [*kinks, *(k / correlation for k in kinks if correlation)]
        return float(expectation(outer, 0.0, math.sqrt(q), edges, 1e-10).value)

    values = np.asarray(c, np.float64)
    return np.array([average(v) for v in values.ravel().tolist()]).reshape(values.shape)


def _slope(sigma: Elementwise, x: Array) -> Array:
    return sigma.derivative(x, sigma.value(x))


def _depth_scale(chi: float) -> float:
    if chi <= 0:
        return 0.0
    return math.inf if abs(math.log(chi)) < 1e-12 else 1 / abs(math.log(chi))


def _crossings(change: Array) -> list[tuple[float, float]]:
    """Return the intervals of ln q between whose ends the change of q has opposite signs, zeros skipped."""
    logs, nonzero = np.log(_GRID), np.flatnonzero(change)
    signs = np.sign(change[nonzero])
    return [(logs[nonzero[i]], logs[nonzero[i + 1]]) for i in np.flatnonzero(signs[:-1] != signs[1:]).tolist()]


def itp_root(f: Callable[[float], float], low: float, high: float, tolerance: float = 1e-12) -> float:
    """Return a root of f between low and high, where its signs differ, by the ITP method.

    Each point interpolates, is truncated towards the middle, and is projected so that at most one evaluation more than
    by bisection is needed (κ₁ (b − a) = 0.2, κ₂ = 2, n₀ = 1). The truncation is at least the tolerance, so that both
    ends approach the root. Source: Oliveira & Takahashi, 2021, doi 10.1145/3423597.
    """
    at_low, at_high = f(low), f(high)
    rising = at_low < 0
    width, near = high - low, tolerance * max(1.0, low, -high) / 2
    for remaining in range(max(0, math.ceil(math.log2(width / (2 * near)))) + 1, -1, -1):
        middle, half = (low + high) / 2, (high - low) / 2
        if half <= near or middle in (low, high):
            break
        slope = at_high - at_low
        crossing = (low * at_high - high * at_low) / slope if math.isfinite(slope) and slope else middle
        inwards = math.copysign(1.0, middle - crossing)
        truncation = max(0.2 / width * (2 * half) ** 2, near)
        point = crossing + inwards * truncation if truncation <= abs(middle - crossing) else middle
        reach = max(0.0, near * 2.0**remaining - half)
        if abs(point - middle) > reach:
            point = middle - inwards * reach
        value = f(point)
        if (value < 0) == rising:
            low, at_low = point, value
        else:
            high, at_high = point, value
    return (low + high) / 2
