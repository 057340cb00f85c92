"""Mean-field theory of wide networks: how the sizes of z and δ and the angle between examples go from layer to layer.

    q ↦ σ_w² E σ(√q z)² + σ_b²                        mean square of z, fixed point q*
    χ = σ_w² E σ'(√q z)²                              ⟨‖δ‖²⟩ changes by it a layer; ξ = 1/|ln χ|
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

SMALLEST, LARGEST = 1e-12, 1e12  # where fixed points of q are looked for
_GRID = np.geomspace(SMALLEST, LARGEST, 193)
_STILL = 1e-9  # a relative change of q below this is none: quadrature cannot tell


@dataclass(frozen=True)
class FixedPoint:
    """A fixed point of a map, the slope of the map there, and the error of its value as far as quadrature tells.

    A slope below 1 in magnitude: it attracts.
    """

    value: float
    slope: float
    error: float

    @property
    def stable(self) -> bool:
        """Whether it attracts."""
        return abs(self.slope) < 1


@dataclass(frozen=True)
class FixedPoints:
    """All fixed points that were found.

    Attributes:
        points: ascending.
        everywhere: every value is one (ReLU with σ_w² = 2): nothing moves.
        grows: beyond the last of them the value grows without bound.
    """

    points: tuple[FixedPoint, ...]
    everywhere: bool
    grows: bool


@dataclass(frozen=True)
class MeanField:
    """The theory of one layer type.

    Args:
        sigma: an element-wise activation, one of ours or a user's own.
        weight_variance: σ_w² = fan_in · Var[W] >= 0.
        bias_variance: σ_b² >= 0.

    Raises:
        ValueError: a negative or non-finite variance.
    """

    sigma: Elementwise
    weight_variance: float
    bias_variance: float

    def __post_init__(self) -> None:
        for name in ("weight_variance", "bias_variance"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value}: must be >= 0 and finite")

    # Size of z

    def q_map(self, q: Array | float) -> Array:
        """The next layer's mean square of z."""
        return self.weight_variance * moment(self.sigma, 0, q).value + self.bias_variance

    def chi(self, q: Array | float) -> Array:
        """χ at this mean square of z."""
        return np.asarray(self.weight_variance * moment(self.sigma, 1, q).value)

    def q_fixed_points(self) -> FixedPoints:
        """All fixed points of the q-map between 1e-12 and 1e12, and 0 if it is one."""
        square = _on_grid(self.sigma)
        values = self.weight_variance * square.value + self.bias_variance
        move = np.log(np.maximum(values, 1e-300) / _GRID)
        move[np.abs(move) < _STILL] = 0
        if not move.any():
            return FixedPoints((), everywhere=True, grows=False)
        roots = [_root(lambda t: float(np.log(self.q_map(math.exp(t))) - t), a, b) for a, b in _crossings(move)]
        points = [self._q_point(math.exp(t)) for t in roots]
        if self.bias_variance == 0 and float(self.q_map(0.0)) == 0:
            slope = float(self.q_map(SMALLEST)) / SMALLEST
            points.insert(0, FixedPoint(0.0, slope, 0.0))
        return FixedPoints(tuple(points), everywhere=False, grows=bool(move[np.flatnonzero(move)[-1]] > 0))

    def _q_point(self, q: float) -> FixedPoint:
        error = self.weight_variance * float(moment(self.sigma, 0, q).error)
        low, high = q * (1 - 1e-4), q * (1 + 1e-4)
        return FixedPoint(q, float(self.q_map(high) - self.q_map(low)) / (high - low), error)

    def q_star(self, start: float = 1.0) -> float:
        """The fixed point that q reaches from ``start``; ∞ if it grows without bound, ``start`` if nothing moves."""
        found = self.q_fixed_points()
        if found.everywhere:
            return start
        values = [p.value for p in found.points]
        here = [v for v in values if math.isclose(v, start, rel_tol=_STILL)]
        if here:
            return here[0]
        rises = float(self.q_map(start)) > start
        if rises:
            return min((v for v in values if v > start), default=math.inf)
        return max((v for v in values if v <= start), default=0.0)

    def chi_star(self, start: float = 1.0) -> float:
        """χ₁ = χ(q*)."""
        return float(self.chi(min(max(self.q_star(start), SMALLEST), LARGEST)))

    def depth_scale(self, start: float = 1.0) -> float:
        """ξ = 1/|ln χ₁|: layers over which ⟨‖δ‖²⟩ changes by a factor e; ∞ at χ₁ = 1."""
        return _depth_scale(self.chi_star(start))

    # Angle between examples

    def c_map(self, c: Array | float, q: float) -> Array:
        """The next layer's correlation of two examples, both with mean square q."""
        return (self.weight_variance * pair_moment(self.sigma.value, self.sigma, c, q) + self.bias_variance) / q

    def chi_between(self, c: float, q: float) -> float:
        """σ_w² E σ'(u₁) σ'(u₂): the slope of the c-map, χ₁ at c = 1."""
        if c >= 1:
            return float(self.chi(q))
        return float(self.weight_variance * pair_moment(lambda x: _slope(self.sigma, x), self.sigma, c, q))

    def c_star(self, start: float = 1.0) -> FixedPoint:
        """The correlation that all pairs of examples reach: 1 in the ordered phase, less in the chaotic one.

        Raises:
            ValueError: z vanishes or grows without bound, so that there is no q* to speak of angles at.
        """
        q = self.q_star(start)
        if not 0 < q < math.inf:
            raise ValueError(f"q* = {q}: no correlation is defined there")
        if self.chi_between(1.0, q) <= 1:
            return FixedPoint(1.0, self.chi_between(1.0, q), 0.0)

        def drift(c: float) -> float:
            return float(self.c_map(c, q)) - c

        low, high = -1 + 1e-6, 1 - 1e-9
        c = _root(drift, low, high) if drift(low) > 0 > drift(high) else 1.0
        return FixedPoint(c, self.chi_between(c, q), abs(drift(c)))

    def correlation_depth_scale(self, start: float = 1.0) -> float:
        """ξ_c = 1/|ln χ_{c*}|: layers over which an angle between two examples survives."""
        return _depth_scale(self.c_star(start).slope)


def critical_weight_variance(sigma: Elementwise, bias_variance: float) -> float:
    """The smallest σ_w² at which χ₁ = 1, where gradients neither vanish nor explode; NaN if there is none up to 1e6."""

    def excess(log_variance: float) -> float:
        return math.log(max(MeanField(sigma, math.exp(log_variance), bias_variance).chi_star(), 1e-300))

    grid = np.log(np.geomspace(1e-2, 1e6, 65)).tolist()
    before = excess(grid[0])
    for a, b in pairwise(grid):
        after = excess(b)
        if before < 0 <= after:
            return math.exp(_root(excess, a, b, tolerance=1e-10))
        before = after
    return math.nan


def moment(sigma: Elementwise, which: int, q: Array | float) -> Average:
    """E σ(x)² (0), E σ'(x)² (1) or E σ'(x)⁴ (2) for x ~ N(0, q): in closed form for piecewise linear σ."""
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
    """All three of them."""
    return moment(sigma, 0, q), moment(sigma, 1, q), moment(sigma, 2, q)


def _on_grid(sigma: Elementwise) -> Average:
    """E σ² on the grid, which does not depend on the variances; kept for activations that can be told apart."""
    try:
        return _kept_on_grid(sigma)
    except TypeError:  # a user's own that cannot be hashed
        return moment(sigma, 0, _GRID)


@lru_cache(maxsize=64)
def _kept_on_grid(sigma: Elementwise) -> Average:
    return moment(sigma, 0, _GRID)


def pair_moment(f: Callable[[Array], Array], sigma: Elementwise, c: Array | float, q: float) -> Array:
    """E f(u₁) f(u₂) for u₁, u₂ ~ N(0, q) with correlation c: the inner average within the outer one."""
    kinks = list(sigma.kinks) or [p.left for p in sigma.pieces[1:]]

    def one(correlation: float) -> float:
        rest = math.sqrt(max(0.0, 1 - correlation**2)) * math.sqrt(q)

        def outer(x: Array) -> Array:
            inner = expectation(f, (correlation * x).ravel(), rest, kinks, 1e-10).value
            return np.asarray(f(x) * inner.reshape(x.shape))

        edges = [*kinks, *(k / correlation for k in kinks if correlation)]
        return float(expectation(outer, 0.0, math.sqrt(q), edges, 1e-10).value)

    values = np.asarray(c, np.float64)
    return np.array([one(v) for v in values.ravel().tolist()]).reshape(values.shape)


def _slope(sigma: Elementwise, x: Array) -> Array:
    return sigma.derivative(x, sigma.value(x))


def _depth_scale(chi: float) -> float:
    if chi <= 0:
        return 0.0
    return math.inf if abs(math.log(chi)) < 1e-12 else 1 / abs(math.log(chi))


def _crossings(move: Array) -> list[tuple[float, float]]:
    """Between which points of the grid, as logarithms, the move changes sign, with or without a rest between."""
    logs, moving = np.log(_GRID), np.flatnonzero(move)
    signs = np.sign(move[moving])
    return [(logs[moving[i]], logs[moving[i + 1]]) for i in np.flatnonzero(signs[:-1] != signs[1:]).tolist()]


def _root(f: Callable[[float], float], low: float, high: float, tolerance: float = 1e-12) -> float:
    """A zero of f between low and high, where its signs differ, by ITP.

    Each point interpolates, is truncated towards the middle and projected to where no more points than bisection's and
    one can be needed: Oliveira and Takahashi 2021, doi 10.1145/3423597, with κ₁ (b − a) = 0.2, κ₂ = 2, n₀ = 1. No
    truncation is below the tolerance, so that the other end comes near, too, where steps are as small as rounding.
    """
    at_low, at_high = f(low), f(high)
    rising = at_low < 0
    width, near = high - low, tolerance * max(1.0, low, -high) / 2
    for left in range(max(0, math.ceil(math.log2(width / (2 * near)))) + 1, -1, -1):
        middle, half = (low + high) / 2, (high - low) / 2
        if half <= near or middle in (low, high):
            break
        slope = at_high - at_low
        crossing = (low * at_high - high * at_low) / slope if math.isfinite(slope) and slope else middle
        inwards = math.copysign(1.0, middle - crossing)
        truncation = max(0.2 / width * (2 * half) ** 2, near)
        point = crossing + inwards * truncation if truncation <= abs(middle - crossing) else middle
        reach = max(0.0, near * 2.0**left - half)
        if abs(point - middle) > reach:
            point = middle - inwards * reach
        value = f(point)
        if (value < 0) == rising:
            low, at_low = point, value
        else:
            high, at_high = point, value
    return (low + high) / 2
