"""Mean and variance over networks of ln(‖δ^1‖²/‖δ^L‖²), compared with the exact moments of one layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy.special import gammaln, ndtr, polygamma, psi

from engine.arrays import Array
from experiments.runner import Result, select
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.reports.figures.style import BLUE, GREEN, ORANGE, RED, STYLE

DELTA = "random_cotangent_delta_rms"
KINDS = (
    ("relu", 20, RED, "ReLU"),
    ("relu", 50, ORANGE, "ReLU"),
    ("identity", 20, BLUE, "linear"),
    ("identity", 50, GREEN, "linear"),
)
LIFTS = {"ReLU50": 8, "linear20": -8}  # points; separates two labels: 5/50 = 2/20


def one_layer(activation: str, width: int) -> tuple[float, float]:
    """Return the exact mean and variance of the logarithm of the factor of one layer on ‖δ‖².

    The factor is χ²_k/k₀. In a linear layer k = k₀ = n. In a ReLU layer each of n units is active with probability
    ½, k units are active, and k₀ = n/2. The case without active units, of probability 2⁻ⁿ, is excluded.
    """
    if activation == "identity":
        return float(psi(width / 2) - math.log(width / 2)), float(polygamma(1, width / 2))
    k = np.arange(1, width + 1)
    weight = np.exp(gammaln(width + 1) - gammaln(k + 1) - gammaln(width - k + 1) - width * math.log(2))
    weight /= weight.sum()
    means = psi(k / 2) - math.log(width / 4)
    mean = float(weight @ means)
    return mean, float(weight @ (polygamma(1, k / 2) + np.square(means - mean)))


def logs(results: Sequence[Result], activation: str, width: int) -> Array:
    """Return ln(‖δ^l‖²/‖δ^L‖²) for l = L−1 ... 1 [layers passed, networks], with the networks of all cells."""
    cells = select(results, "finite_width", activation=activation, width=str(width))
    values = np.concatenate([2 * np.log(cell.values(DELTA)) for cell in cells], axis=1)
    return np.asarray((values - values[-1])[-2::-1])


def variance(values: Array) -> Estimate:
    """Return the variance of nearly normal values [N], ± 1.96 standard errors s²√(2/N)."""
    s2 = np.asarray(values.var(ddof=1))
    half = 1.96 * s2 * math.sqrt(2 / len(values))
    return Estimate(s2, s2 - half, s2 + half, np.array(0.0))


def measured(results: Sequence[Result]) -> Mapping[str, Estimate]:
    """Return the measured numbers by the claims' keys."""
    numbers = {}
    for activation, width, _, label in KINDS:
        whole = logs(results, activation, width)[-1]
        numbers[f"mean_{label.lower()}_{width}"] = estimate(whole)
        numbers[f"variance_{label.lower()}_{width}"] = variance(whole)
    numbers["shrunk"] = estimate((logs(results, "relu", 50)[-1] < 0).astype(np.float64))
    return numbers


def figure(results: Sequence[Result]) -> Figure:
    """Draw the distribution after all layers, and its variance against the layers passed."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(11, 4.4))
        left, right = drawn.subplots(1, 2)
        for activation, width, colour, label in KINDS:
            passed = logs(results, activation, width)
            layers = np.arange(1, len(passed) + 1)
            mean, spread = one_layer(activation, width)
            right.plot(layers, layers * spread, color=colour, lw=1.2)
            e = variance_by_layer(passed)
            right.errorbar(layers, e.mean, e.mean - e.low, fmt="o", ms=3, lw=1, color=colour)
            end = (layers[-1], layers[-1] * spread)
            shift = (6, LIFTS.get(f"{label}{width}", 0))
            text = f"{label}, n = {width}"
            right.annotate(text, end, shift, color=colour, textcoords="offset points", va="center")
            if width == 50:
                mean, spread = mean * len(passed), spread * len(passed)
                left.hist(passed[-1], bins=np.linspace(-8, 5, 66), density=True, color=colour, alpha=0.35)
                x = np.linspace(-8, 5, 300)
                curve = np.exp(-np.square(x - mean) / (2 * spread)) / math.sqrt(2 * math.pi * spread)
                below = float(ndtr(-mean / math.sqrt(spread)))
                left.plot(
                    x, curve, color=colour, lw=1.8, label=f"{label}: N(−{-mean:.2f}, {spread:.2f}), {below:.0%} below 0"
                )
        left.axvline(0, color="black", lw=1, ls="--")
        left.text(
            0.12,
            0.97,
            "mean field\n(and the mean of the ratio)",
            transform=left.get_xaxis_transform(),
            va="top",
            fontsize=8,
        )
        count = passed.shape[1]
        left.set(xlabel="ln (‖δ$^1$‖² / ‖δ$^L$‖²)", ylabel="density", ylim=(0, 0.58), xlim=(-8, 5))
        left.set_title(f"{count} networks of {len(passed)} layers, n = 50\nlines: theory, nothing fitted", fontsize=10)
        left.legend(frameon=False, loc="upper left", fontsize=9)
        right.set(xlabel="layers passed on the way down", ylabel="variance of ln ‖δ‖² over networks")
        right.set_xlim(0, len(passed) * 1.3)
        right.set_ylim(bottom=0)
        right.set_title("each layer adds about 5/n (ReLU), 2/n (linear)\npoints: measured, lines: exact", fontsize=10)
    return drawn


def variance_by_layer(passed: Array) -> Estimate:
    """Return the variances of the rows of [layers, N] as one estimate of arrays."""
    each = [variance(row) for row in passed]
    mean, low, high, lost = (np.array([getattr(e, part) for e in each]) for part in ("mean", "low", "high", "lost"))
    return Estimate(mean, low, high, lost)
