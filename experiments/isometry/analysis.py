"""Var(s²)/mean² of the singular values s of the input-output Jacobian, compared with theory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from engine.arrays import Array
from experiments.runner import Result, select
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.reports.figures.style import BLUE, GREEN, ORANGE, RED, STYLE

SPECTRUM = "input_output_jacobian_spectrum"
FLOOR = 1e-2  # smallest spread in the figure
KINDS = (
    ("relu_gaussian", RED, "ReLU, Gaussian"),
    ("relu_orthogonal", ORANGE, "ReLU, orthogonal"),
    ("tanh_orthogonal", GREEN, "tanh, orthogonal, q* = 1/64"),
    ("linear_orthogonal", BLUE, "linear, orthogonal"),
)


def spectra(results: Sequence[Result], kind: str) -> Array:
    """Return the singular values of one example's Jacobian, descending [R, n]."""
    (result,) = select(results, f"isometry_{kind}")
    return np.asarray(result.values(SPECTRUM)[0])


def spread(singular: Array) -> Array:
    """Return Var(s²)/mean(s²)² of singular values [R, n] for each network [R]."""
    squares = np.square(singular)
    return np.asarray(squares.var(axis=1) / np.square(squares.mean(axis=1)))


def measured(results: Sequence[Result]) -> Mapping[str, Estimate]:
    """Return the measured numbers by the claims' keys."""
    numbers = {kind: estimate(spread(spectra(results, kind))) for kind, *_ in KINDS[:3]}
    numbers["linear_orthogonal"] = estimate(np.abs(spectra(results, "linear_orthogonal") - 1).max(axis=1))
    numbers["mean_square_tanh"] = estimate(np.square(spectra(results, "tanh_orthogonal")).mean(axis=1))
    for init in ("gaussian", "orthogonal"):
        trained = select(results, f"isometry_training_{init}")
        if trained:
            numbers[f"accuracy_{init}"] = estimate(trained[0].values("accuracy/train", -1)[0])
    return numbers


def figure(results: Sequence[Result]) -> Figure:
    """Draw all singular values against their rank, and the spread of their squares."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(11, 4.4))
        left, right = drawn.subplots(1, 2, width_ratios=(3, 2))
        for place, (kind, colour, label) in enumerate(KINDS):
            values = spectra(results, kind)
            values = values / np.sqrt(np.square(values).mean(axis=1, keepdims=True))
            rank = (np.arange(values.shape[1]) + 0.5) / values.shape[1]
            for network in values:
                left.plot(rank, np.maximum(network, 1e-9), color=colour, lw=1, alpha=0.7)
            left.plot([], [], color=colour, label=label)
            e = estimate(spread(values))
            middle = float(e.mean)
            if middle < FLOOR:
                right.text(2 * FLOOR, place, "0: every s is 1, to rounding", color=colour, va="center")
                continue
            error = [[middle - float(e.low)], [float(e.high) - middle]]
            right.errorbar(middle, place, xerr=error, fmt="o", ms=7, capsize=4, color=colour)
            right.text(middle, place - 0.22, f"{middle:.3g}", color=colour, ha="center", va="bottom")
        theory = ((64, 0), (32, 1), (0.054, 2))
        right.plot(*zip(*theory, strict=True), "|", ms=26, color="black", zorder=1)
        left.set(yscale="log", ylim=(1e-6, 60), xlim=(0, 1))
        left.set(xlabel="rank of the singular value, as a share", ylabel="s over the root mean square of all s")
        left.set_title("∂z$^L$/∂x through 32 layers of 400, one line a network", fontsize=10)
        left.legend(frameon=False, loc="center right")
        right.set(xscale="log", xlim=(FLOOR, 2e3), ylim=(-0.6, 3.5), xlabel="Var(s²) / mean(s²)²")
        right.set_yticks(range(len(KINDS)), [label.replace(", q*", "\nq*") for *_, label in KINDS])
        right.invert_yaxis()
        right.grid(False, axis="y")
        right.set_title("points: measured, 95% over networks\nblack bars: theory", fontsize=10)
    return drawn
