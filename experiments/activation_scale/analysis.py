"""Standard deviation of a by layer, and the range of z and δ in fifty layers of both float types."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engine.activations import Activation, Relu, Tanh
from engine.arrays import Array
from engine.exponents import ZERO
from engine.theory import profile
from experiments.claims import exact
from experiments.runner import Result, select
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.reports.figures.style import BLUE, GREEN, HUES, ORANGE, RED, STYLE

STD, Z, DELTA, COUNTS = "activation_std", "z_mean_square", "random_cotangent_delta_rms", "delta_exponents"
NETS: tuple[tuple[str, str, str, Activation, float, str, str], ...] = (
    ("small", "activation_scale", "gaussian", Tanh(), 0.05, RED, "tanh, 0.01·N(0, 1)"),
    ("fan_in", "activation_scale", "gaussian_fan_in", Tanh(), 1.0, ORANGE, "tanh, N(0, 1)/√n"),
    ("relu_fan_in", "activation_scale_relu", "gaussian_fan_in", Relu(), 1.0, GREEN, "ReLU, N(0, 1)/√n"),
    ("relu", "activation_scale_relu", "he_normal", Relu(), 2.0, BLUE, "ReLU, N(0, 1)·√(2/n)"),
)
SLIDES = {
    "small": (0.2131, 0.0476, 0.0106, 0.0024, 0.0005),
    "relu": (0.825, 0.828, 0.814, 0.827, 0.834, None, None, None, None, 0.845),
}
EXTREMES = {"0.001": "0.03162277660168379", "0.01": "0.1", "0.02": "0.1414213562373095", "0.1": "0.31622776601683794",
            "1.0": "1.0"}  # the swept std, by Var[W]  # fmt: skip
LARGEST, SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
SQUARE_IS_0 = -75  # exponent: x² rounds to 0 in float32 where |x| < 2^-75


def stds(results: Sequence[Result], sweep: str, init: str) -> Array | None:
    """Return the standard deviation of a in the hidden layers [layers, networks], with the networks of all cells."""
    cells = select(results, sweep, init=init)
    return np.concatenate([c.values(STD)[: c.summary.hidden_layers] for c in cells], axis=1) if cells else None


def theory(sigma: Activation, weight_variance: float, depth: int) -> Array:
    """Return the standard deviation of a for infinite width and inputs N(0, 1).

    It is √(E σ² − (E σ)²), with E σ = √(q/2π) for a rectifier.
    """
    expected = profile([1] * (depth + 1), [sigma] * depth, [weight_variance] * depth, [0.0] * depth, np.ones(1))
    mean_square = expected.z_mean_square / (2 * math.pi) if isinstance(sigma, Relu) else 0.0
    return np.sqrt(expected.activation_mean_square - mean_square)


def extreme(results: Sequence[Result], variance: str, dtype: str) -> Result | None:
    """Return the result of fifty layers with this Var[W], or None."""
    cells = select(results, "activation_scale_extremes", std=EXTREMES[variance], dtype=dtype)
    return cells[0] if cells else None


def overflown(result: Result) -> Array:
    """Return whether z is not finite, for each hidden layer and network [layers, R]."""
    return ~np.isfinite(result.values(Z)[: result.summary.hidden_layers])


def deltas(result: Result) -> Array:
    """Return √⟨‖δ‖²⟩ of the hidden layers under a random cotangent [layers, R], NaN for a network with infinite z.

    In such a network σ'(NaN) = 0 makes every δ zero, which is not a measurement.
    """
    hidden = result.summary.hidden_layers
    return np.where(overflown(result).any(axis=0), np.nan, result.values(DELTA)[:hidden])


def squares_lost(result: Result) -> Array:
    """Return the share of the first layer's non-zero δ whose square is 0 in float32 [R]."""
    record = result.summary.at(COUNTS, 0)
    if record is None or record.bins is None:
        raise LookupError(f"{COUNTS} was not recorded")
    bins, counts = np.array(record.bins), record.values[0]
    return np.asarray(
        counts[:, (bins < SQUARE_IS_0) & (bins != ZERO)].sum(axis=1) / counts[:, bins != ZERO].sum(axis=1)
    )


def factor(values: Array, first: int, last: int) -> Estimate:
    """Return the geometric mean of the factor a layer on values [layers, R] from layer ``first`` to layer ``last``."""
    return estimate((values[last - 1] / values[first - 1]) ** (1 / (last - first)), geometric=True)


def median(values: Array) -> Estimate:
    """Return the median of values [R], without an interval."""
    return exact(float(np.median(values)))


def measured(results: Sequence[Result]) -> Mapping[str, Estimate]:
    """Return the measured numbers by the claims' keys."""
    numbers: dict[str, Estimate] = {}
    for key, sweep, init, *_ in NETS:
        values = stds(results, sweep, init)
        if values is None:
            continue
        depth = len(values)
        numbers |= {f"{key}_{layer}": estimate(own) for layer, own in enumerate(values, start=1)}
        if key == "small":
            numbers["small_factor"] = factor(values, 4, depth)
        elif key == "relu_fan_in":
            numbers["relu_fan_in"] = factor(values, 1, depth)
        elif key == "relu":
            numbers["relu_theory"] = estimate(np.asarray(values.mean(axis=0)))
    for variance in EXTREMES:
        result = extreme(results, variance, "float64")
        if result is not None:
            squares = np.square(deltas(result))
            numbers[f"factor_{variance}"] = factor(squares[::-1], 1, len(squares))
            numbers[f"total_{variance}"] = estimate(np.asarray(np.log10(squares[0]) - np.log10(squares[-1])))
    for dtype in ("float32", "float64"):
        result = extreme(results, "1.0", dtype)
        if result is not None:
            lost = overflown(result)
            alive = ~np.asarray(lost.any(axis=0))
            numbers[f"lost_{dtype}"] = estimate(np.where(alive, 0.0, 1.0))
            if dtype == "float32":
                numbers["overflow_layer"] = estimate(np.where(alive, np.nan, lost.argmax(axis=0) + 1.0))
    single, double = (extreme(results, "0.001", dtype) for dtype in ("float32", "float64"))
    if single is not None and double is not None:
        numbers["rounding_float32"] = median(np.abs(deltas(single)[0] / deltas(double)[0] - 1))
        numbers["squares_lost"] = estimate(squares_lost(single))
    return numbers


def figure(results: Sequence[Result]) -> Figure:
    """Draw the standard deviation of a, and z and δ of the extremes with the limits of float32."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(13.5, 4.8))
        left, middle, right = drawn.subplots(1, 3, width_ratios=(1.15, 1, 1))
        _activations(left, results)
        _extremes(middle, results, backward=False)
        _extremes(right, results, backward=True)
    return drawn


def _activations(axes: Axes, results: Sequence[Result]) -> None:
    networks, starred = [], False
    for key, sweep, init, sigma, weight_variance, colour, label in NETS:
        values = stds(results, sweep, init)
        if values is None:
            continue
        layers = np.arange(1, len(values) + 1)
        networks.append(values.shape[1])
        axes.plot(layers, theory(sigma, weight_variance, len(layers)), color=colour, lw=1)
        e = estimate(values)
        axes.errorbar(layers, e.mean, e.mean - e.low, fmt="o", ms=4, lw=1, color=colour, label=label)
        if key in SLIDES:
            printed = np.array(SLIDES[key], dtype=np.float64)
            legend = None if starred else "the slides' single networks"
            axes.plot(layers[: len(printed)], printed, "*", ms=11, mfc="none", mec="black", label=legend, zorder=4)
            starred = True
    if not networks:
        return
    axes.set(yscale="log", xlabel="layer (1 is next to the input)", ylabel="standard deviation of a")
    axes.set_xticks(range(1, 11))
    axes.set_title("10 layers of 500, inputs N(0, 1); lines: theory, n = ∞\n"
                   f"points: {min(networks)} or {max(networks)} networks", fontsize=10)  # fmt: skip
    axes.legend(frameon=False, loc="lower left", fontsize=9)


def _extremes(axes: Axes, results: Sequence[Result], backward: bool) -> None:
    depth, networks = 50, 0
    for variance, colour in zip(EXTREMES, HUES, strict=False):
        for dtype in ("float64", "float32"):
            result = extreme(results, variance, dtype)
            if result is None:
                continue
            depth = result.summary.hidden_layers
            values = deltas(result) if backward else np.sqrt(result.values(Z)[:depth])
            networks, whole = values.shape[1], np.isfinite(values).all(axis=1)
            layers, mean = np.arange(1, depth + 1)[whole], estimate(values[whole], geometric=True).mean
            if dtype == "float32":
                axes.plot(layers[::4], mean[::4], "o", ms=5, mfc="none", color=colour)
                continue
            axes.plot(layers, mean, color=colour, lw=1.4)
            square = "⟨‖δ‖²⟩" if backward else "⟨z²⟩"
            text = f"Var[W] = {float(variance):g}:\n{square} × {float(variance) * 50:g}"
            end = (layers[0], mean[0]) if backward else (layers[-1], mean[-1])
            axes.annotate(text, end, (6, 0), textcoords="offset points", color=colour, va="center", fontsize=8)
    axes.axhspan(LARGEST, 1e60, color="black", alpha=0.1, lw=0)
    axes.axhspan(1e-60, SMALLEST, color="black", alpha=0.1, lw=0)
    for edge in (math.sqrt(LARGEST), math.sqrt(SMALLEST)):
        axes.plot([1, depth], [edge, edge], color="black", lw=0.8, ls=":")
    limits = (depth + 1, 1 - 0.36 * depth) if backward else (0, 1.36 * depth)
    axes.set(yscale="log", xlim=limits, ylim=(1e-48, 1e49), xlabel="layer (1 is next to the input)")
    axes.set_xticks([1, *range(10, depth + 1, 10)])
    axes.set_yticks([10.0**e for e in range(-40, 41, 10)])
    axes.minorticks_off()
    near = depth if backward else 2
    axes.text(near, 1e44, "not in float32", fontsize=8, va="center")
    axes.text(near, 1e-43, "not in float32, or with few digits", fontsize=8, va="center")
    if backward:
        axes.set_ylabel("δ under a random cotangent: √⟨‖δ‖²⟩")
        axes.set_title("backward (Var[W] = 1 in float32: NaN);\nbetween the dotted lines squares fit, too", fontsize=10)
    else:
        axes.plot([], [], color="0.3", lw=1.4, label="float64")
        axes.plot([], [], "o", ms=5, mfc="none", color="0.3", label="float32")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.86), fontsize=9)
        axes.set_ylabel("root mean square of z: √⟨z²⟩")
        axes.set_title(f"{depth} ReLU layers of 100, forward: geometric mean\n"
                       f"of {networks} networks; ×: factor a layer", fontsize=10)  # fmt: skip
