"""Gaussian averages of functions, with error estimates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from engine.activations import Piece
from engine.arrays import Array
from engine.special import erf

REACH = 10.0  # standard deviations; the density beyond is below 1e-22
_EDGES_Z = np.array([-REACH, -6.0, -4.0, -2.5, -1.5, -0.7, 0.0, 0.7, 1.5, 2.5, 4.0, 6.0, REACH])
_EDGES_X = np.array([s * 4.0**k for k in range(-2, 4) for s in (-1, 1)])  # where activations curve, for any std
_FINE, _COARSE = (np.polynomial.legendre.leggauss(n) for n in (16, 8))
ROUNDS = 14


class Average(NamedTuple):
    """Mean and estimated absolute error, two arrays of one shape."""

    value: Array
    error: Array


@np.errstate(all="ignore")
def expectation(
    f: Callable[[Array], Array],
    mean: Array | float,
    std: Array | float,
    kinks: Sequence[float] = (),
    tolerance: float = 1e-12,
) -> Average:
    """Compute E f(x), x ~ N(mean, std²), by adaptive Gauss-Legendre quadrature.

    Panels end at the kinks of f. A panel is halved while its rules of 16 and 8 points differ by more than the
    tolerance. The error estimate is the remaining difference plus the tolerance; it misses an undeclared step between
    two nodes.

    Args:
        f: Function of an array [n, m] that returns an array of that shape.
        mean: Mean, broadcast with ``std``.
        std: Standard deviation, broadcast with ``mean``; 0 gives f(mean).
        kinks: Points where f or its derivatives jump.
        tolerance: Error relative to E |f|.
    """
    mean, std = np.broadcast_arrays(np.asarray(mean, np.float64), np.asarray(std, np.float64))
    shape = mean.shape
    m, s = mean.reshape(-1, 1), std.reshape(-1, 1)
    divisor = np.where(s > 0, s, 1.0)
    cuts = (np.concatenate([_EDGES_X, np.asarray(kinks, np.float64)]) - m) / divisor
    edges = np.concatenate([np.broadcast_to(_EDGES_Z, (len(m), len(_EDGES_Z))), np.clip(cuts, -REACH, REACH)], axis=1)
    edges = np.sort(edges, axis=1)
    left, right = edges[:, :-1], edges[:, 1:]
    total, error, mass = np.zeros(len(m)), np.zeros(len(m)), np.zeros(len(m))
    for round_number in range(ROUNDS):
        fine, coarse, size = _panels(f, m, s, left, right)
        difference = np.abs(fine - coarse)
        scale = np.maximum(size.sum(axis=1, keepdims=True) + np.abs(total)[:, None], 1e-300)
        inexact = difference > tolerance * scale / 30
        split = inexact.any(axis=0) if round_number < ROUNDS - 1 else np.zeros(left.shape[1], bool)
        total += fine[:, ~split].sum(axis=1)
        mass += size[:, ~split].sum(axis=1)
        error += np.where(inexact, size, difference)[:, ~split].sum(axis=1)  # the last round bounds the error by ∫ |f|
        if not split.any():
            break
        begin, end = left[:, split], right[:, split]
        middle = (begin + end) / 2
        left, right = np.concatenate([begin, middle], axis=1), np.concatenate([middle, end], axis=1)
    zero = s[:, 0] == 0
    if zero.any():
        total[zero], error[zero], mass[zero] = f(m[zero])[:, 0], 0.0, 0.0
    error += tolerance * mass
    return Average(total.reshape(shape), error.reshape(shape))


def _panels(f: Callable[[Array], Array], m: Array, s: Array, left: Array, right: Array) -> tuple[Array, Array, Array]:
    """Return ∫ f φ over each panel by both rules and ∫ |f| φ, three arrays [k, p]."""
    middle, half = (left + right)[..., None] / 2, (right - left)[..., None] / 2
    results = []
    for nodes, weights in (_FINE, _COARSE):
        z = middle + half * nodes
        x = m[..., None] + s[..., None] * z
        values = f(x.reshape(len(m), -1)).reshape(z.shape)
        mass = half * weights * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        results.append((values * mass).sum(axis=-1))
        size = (np.abs(values) * mass).sum(axis=-1)
    return results[0], results[1], size


@np.errstate(all="ignore")
def piecewise_moments(pieces: Sequence[Piece], q: Array) -> tuple[Array, Array, Array]:
    """Compute E σ(x)², E σ'(x)² and E σ'(x)⁴ for x ~ N(0, q) and a piecewise linear σ, in closed form.

    On (a, b): ∫ (s x + c)² = s² M₂ + 2 s c M₁ + c² M₀ with M₀ = Φ(b') − Φ(a'), M₁ = √q (φ(a') − φ(b')),
    M₂ = q (M₀ + a' φ(a') − b' φ(b')), a' = a/√q.
    """
    root = np.sqrt(q)
    square, slope, fourth = np.zeros_like(root), np.zeros_like(root), np.zeros_like(root)
    for piece, right in zip(pieces, [*(p.left for p in pieces[1:]), math.inf], strict=True):
        a, b = (_scaled(edge, root) for edge in (piece.left, right))
        mass = 0.5 * (erf(b / math.sqrt(2)) - erf(a / math.sqrt(2)))
        first = root * (_density(a) - _density(b))
        second = q * (mass + _times_density(a) - _times_density(b))
        square += piece.slope**2 * second + 2 * piece.slope * piece.offset * first + piece.offset**2 * mass
        slope += piece.slope**2 * mass
        fourth += piece.slope**4 * mass
    return square, slope, fourth


def _scaled(edge: float, root: Array) -> Array:
    """Return edge/√q, and 0 at edge 0 for any q."""
    return np.zeros_like(root) if edge == 0 else edge / root


def _density(z: Array) -> Array:
    return np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _times_density(z: Array) -> Array:
    return np.where(np.isinf(z), 0.0, z * _density(z))
