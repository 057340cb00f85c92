"""δ in three phases of tanh networks, and χ over both variances, compared with mean-field theory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from engine.activations import Tanh
from engine.arrays import Array
from engine.theory import critical_weight_variance
from experiments.runner import Result, select
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.analysis.expectation import expect
from pipeline.config.schema import build
from pipeline.reports.figures.style import BLUE, GREEN, RED, STYLE
from pipeline.training.prepare import prepare_run

PROBE = "random_cotangent_delta_rms"
PHASES = {"1.0": "ordered: vanishing", "1.76": "critical", "4.0": "chaotic: exploding"}  # by σ_w²
SLOPES, DIAGRAM = "experiments/tanh_phases/slopes.png", "experiments/tanh_phases/phases.png"
WEIGHT_KEY, BIAS_KEY = "init.weights.sigma_w2", "init.biases.sigma_b2"
DROPPED = 8  # layers next to the input, where q is not q* yet


def log_chi(result: Result) -> Array:
    """Return ln χ of each network [R]: minus the slope of ln ‖δ‖² against the layer, in the middle of the network."""
    values = result.values(PROBE)
    layers = np.arange(DROPPED, len(values) - 2)
    return np.asarray(-2 * np.polyfit(layers, np.log(values[layers]), 1)[0])


def expected_delta(result: Result, last: float) -> Array:
    """Return the δ that theory expects in each layer [layers], given the δ of the last layer."""
    expectation = expect(prepare_run(build(result.raw_config)))
    if expectation is None:
        raise TypeError("tanh has a derivative everywhere")
    return np.asarray(10.0 ** expectation.log10_delta(np.log10([last]))[: len(result.values(PROBE))])


def diagram(results: Sequence[Result]) -> tuple[Array, Array, Array]:
    """Return σ_w² [W], σ_b² [B] and the measured ln χ [B, W] of the phase diagram. Empty if it was not measured."""
    cells = select(results, "tanh_phases_grid")
    weight_variances = list(dict.fromkeys(float(r.swept[WEIGHT_KEY]) for r in cells))
    bias_variances = list(dict.fromkeys(float(r.swept[BIAS_KEY]) for r in cells))
    logs = {(float(r.swept[BIAS_KEY]), float(r.swept[WEIGHT_KEY])): float(log_chi(r).mean()) for r in cells}
    grid = np.array([[logs[b, w] for w in weight_variances] for b in bias_variances])
    return np.array(weight_variances), np.array(bias_variances), grid


def zero_crossing(x: Array, y: Array) -> float:
    """Return where y, linear between its points, crosses 0 from below."""
    above = int(np.argmax(y > 0))
    return float(np.interp(0.0, y[above - 1 : above + 1], x[above - 1 : above + 1]))


def measured(results: Sequence[Result]) -> Mapping[str, Estimate]:
    """Return χ in the three phases, and the measured over the theoretical critical σ_w²."""
    numbers = {}
    for variance in PHASES:
        (result,) = select(results, "tanh_phases", sigma_w2=variance)
        e = estimate(log_chi(result))
        numbers[f"chi_{variance}"] = Estimate(np.exp(e.mean), np.exp(e.low), np.exp(e.high), e.lost)
    weight_variances, bias_variances, logs = diagram(results)
    if len(logs):
        ratios = [
            zero_crossing(weight_variances, row) / critical_weight_variance(Tanh(), float(b))
            for b, row in zip(bias_variances, logs, strict=True)
        ]
        numbers["boundary"] = estimate(np.array(ratios))
    return numbers


def figure(results: Sequence[Result]) -> Figure:
    """Draw δ against the layer: points with intervals, and the lines of theory."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(7.5, 4.5))
        axes = drawn.subplots()
        for (variance, phase), colour, marker in zip(PHASES.items(), (BLUE, GREEN, RED), "os^", strict=True):
            (result,) = select(results, "tanh_phases", sigma_w2=variance)
            delta = estimate(result.values(PROBE), geometric=True)
            layers = np.arange(1, len(delta.mean) + 1)
            errors = np.abs(np.stack([delta.low, delta.high]) - delta.mean)
            label = f"σ_w² = {variance}, {phase}"
            axes.errorbar(layers, delta.mean, errors, fmt=marker, ms=4, lw=1, color=colour, label=label)
            axes.plot(layers, expected_delta(result, delta.mean[-1]), color=colour, lw=1.2)
        axes.set(
            yscale="log",
            xlabel="layer (1 is next to the input)",
            ylabel="δ under a random cotangent: √⟨‖δ‖²⟩",
            title="tanh, σ_b² = 0.05, 40 layers of 300: points measured, lines mean-field theory",
        )
        axes.legend(frameon=False)
    return drawn


def draw_diagram(weight_variances: Array, bias_variances: Array, logs: Array) -> Figure:
    """Draw the measured log₁₀ χ over both variances, and the theoretical boundary."""
    values = logs / np.log(10)
    largest = float(np.abs(values).max())
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        drawn = Figure(figsize=(7, 4.5))
        axes = drawn.subplots()
        image = axes.pcolormesh(
            weight_variances, bias_variances, values, cmap="PuOr_r", vmin=-largest, vmax=largest, shading="nearest"
        )
        fine = 0.5 * np.linspace(0.0, 1.0, 26) ** 2
        axes.plot([critical_weight_variance(Tanh(), b) for b in fine], fine, color="black", lw=2, label="theory: χ = 1")
        axes.set(
            xscale="log",
            xlabel="σ_w²",
            ylabel="σ_b²",
            title="tanh: measured log₁₀ χ a layer, and where theory says it is 0",
        )
        axes.set_xticks([0.6, 1, 2, 3, 4], ["0.6", "1", "2", "3", "4"], minor=False)
        axes.minorticks_off()
        axes.legend(loc="lower right")
        drawn.colorbar(image, label="log₁₀ χ: < 0 vanishing, > 0 exploding")
    return drawn


def pages(results: Sequence[Result], command: str) -> Mapping[str, str | Figure]:
    """Return the figures of the README. The phase diagram needs the slow variant."""
    grid = diagram(results)
    return {SLOPES: figure(results)} | ({DIAGRAM: draw_diagram(*grid)} if len(grid[2]) else {})
