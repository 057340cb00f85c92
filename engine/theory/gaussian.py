"""Averages of a function over a Gaussian variable, with an estimate of their error."""

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
_EDGES_X = np.array([s * 4.0**k for k in range(-2, 4) for s in (-1, 1)])  # where activations bend, whatever the spread
_FINE, _COARSE = (np.polynomial.legendre.leggauss(n) for n in (16, 8))
ROUNDS = 14


class Average(NamedTuple):
    """A mean and an estimate of its absolute error, arrays of one shape."""

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
    """E f(x), x ~ N(mean, std²), by adaptive Gauss-Legendre quadrature.

    Panels are cut where f has kinks, so functions with steps and corners are as exact as smooth ones; panels whose
    rules of 16 and 8 points differ by more than the tolerance are cut in halves, again and again. What is left of the
    difference, and the tolerance itself, is the error that is returned. It is an estimate: a step that is not declared
    and that no node sees is not in it.

    Args:
        f: of an array [n, m] of numbers, to an array of that shape.
        mean, std: arrays that broadcast to one shape; std = 0 gives f(mean).
        kinks: where f or its derivatives jump.
        tolerance: of the error, relative to E |f|.
    """
    mean, std = np.broadcast_arrays(np.asarray(mean, np.float64), np.asarray(std, np.float64))
    shape = mean.shape
    m, s = mean.reshape(-1, 1), std.reshape(-1, 1)
    divisor = np.where(s > 0, s, 1.0)
    places = (np.concatenate([_EDGES_X, np.asarray(kinks, np.float64)]) - m) / divisor
    edges = np.concatenate([np.broadcast_to(_EDGES_Z, (len(m), len(_EDGES_Z))), np.clip(places, -REACH, REACH)], axis=1)
    edges = np.sort(edges, axis=1)
    left, right = edges[:, :-1], edges[:, 1:]
    total, error, mass = np.zeros(len(m)), np.zeros(len(m)), np.zeros(len(m))
    for last in range(ROUNDS):
        fine, coarse, size = _panels(f, m, s, left, right)
        difference = np.abs(fine - coarse)
        scale = np.maximum(size.sum(axis=1, keepdims=True) + np.abs(total)[:, None], 1e-300)
        wrong = difference > tolerance * scale / 30
        again = wrong.any(axis=0) if last < ROUNDS - 1 else np.zeros(left.shape[1], bool)
        total += fine[:, ~again].sum(axis=1)
        mass += size[:, ~again].sum(axis=1)
        error += np.where(wrong, size, difference)[:, ~again].sum(axis=1)  # given up: all that is there may be wrong
        if not again.any():
            break
        begin, end = left[:, again], right[:, again]
        middle = (begin + end) / 2
        left, right = np.concatenate([begin, middle], axis=1), np.concatenate([middle, end], axis=1)
    zero = s[:, 0] == 0
    if zero.any():
        total[zero], error[zero], mass[zero] = f(m[zero])[:, 0], 0.0, 0.0
    error += tolerance * mass
    return Average(total.reshape(shape), error.reshape(shape))


def _panels(f: Callable[[Array], Array], m: Array, s: Array, left: Array, right: Array) -> tuple[Array, Array, Array]:
    """∫ f φ over each panel by both rules, and ∫ |f| φ: [k, p] each."""
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
    """E σ(x)², E σ'(x)² and E σ'(x)⁴ for x ~ N(0, q) and a piecewise linear σ, in closed form.

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
    """edge/√q; at 0 it is 0 for any q."""
    return np.zeros_like(root) if edge == 0 else edge / root


def _density(z: Array) -> Array:
    return np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _times_density(z: Array) -> Array:
    return np.where(np.isinf(z), 0.0, z * _density(z))
