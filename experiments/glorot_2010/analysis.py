"""δ and weight gradients by layer, singular values of one layer, and a sigmoid net whose top layer saturates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from engine.arrays import Array
from experiments.claims import exact
from experiments.runner import Result, select
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.reports.figures.style import BLUE, GREEN, HUES, ORANGE, RED, STYLE
from pipeline.training.records import Record

DELTA, GRADIENT, JACOBIAN = "random_cotangent_delta_rms", "gradient_norm", "layer_jacobian"
INITS = {"standard": "uniform_fan_in", "normalised": "glorot_uniform"}
NETS = (
    ("linear", "identity", "standard", RED, "o-"),
    ("tanh", "tanh", "standard", ORANGE, "s--"),
    ("linear", "identity", "normalised", BLUE, "o-"),
    ("tanh", "tanh", "normalised", GREEN, "s--"),
)
STEPS = (0, 2000, 16000)
SQUARE = slice(1, 5)  # layers 2 to 5 of 1000 × 1000
STRAIGHT = 3  # layers of the standard scale below which tanh is not yet a straight line


def hidden(results: Sequence[Result], activation: str, init: str, probe: str) -> Array | None:
    """Return a probe of the hidden layers before training [layers, R], or None."""
    cells = select(results, "glorot_2010", activation=activation, init=INITS[init])
    return cells[0].values(probe)[: cells[0].summary.hidden_layers] if cells else None


def factor(values: Array) -> Estimate:
    """Return the factor a layer downwards on values [layers, R]: the geometric mean over layers and networks."""
    return estimate((values[0] / values[-1]) ** (1 / (len(values) - 1)), geometric=True)


def largest_over_smallest(values: Array) -> Estimate:
    """Return the largest over the smallest of the layers' geometric means over networks [layers, R].

    A ratio of extremes has no interval.
    """
    means = estimate(values, geometric=True).mean
    return exact(float(means.max() / means.min()))


def jacobians(results: Sequence[Result], init: str, part: str) -> Array | None:
    """Return mean singular values [layers, R], or all values of layers 2 to 5 for the part "spectrum", or None."""
    cells = select(results, "glorot_2010_jacobian", init=INITS[init])
    if not cells:
        return None
    records = [r for r in cells[0].summary.records if r.probe == f"{JACOBIAN}_{part}" and r.step == 0]
    if part == "spectrum":
        return np.concatenate([r.values.ravel() for r in records[SQUARE]])
    return records[0].values[: cells[0].summary.hidden_layers]


def series(result: Result, probe: str) -> dict[int, Record]:
    """Return the records of a probe by step."""
    return {r.step: r for r in result.summary.records if r.probe == probe}


def measured(results: Sequence[Result]) -> Mapping[str, Estimate]:
    """Return the measured numbers by the claims' keys."""
    numbers: dict[str, Estimate] = {}
    for net, activation, init, *_ in NETS:
        delta, gradient = (hidden(results, activation, init, probe) for probe in (DELTA, GRADIENT))
        if delta is not None and gradient is not None:
            numbers[f"delta_{net}_{init}"] = factor(delta[STRAIGHT:] if (net, init) == ("tanh", "standard") else delta)
            numbers[f"delta_{net}_{init}_whole"] = factor(delta)
            numbers[f"gradients_{net}_{init}"] = largest_over_smallest(gradient)
            if (net, init) == ("linear", "standard"):
                numbers["delta_lost"] = estimate(delta[0] / delta[-1], geometric=True)
    for init in INITS:
        singular = jacobians(results, init, "mean")
        if singular is not None:
            numbers[f"jacobian_{init}"] = estimate(np.asarray(singular[SQUARE].mean(axis=0)))
            if init == "standard":
                numbers["jacobian_circle"] = estimate(singular[SQUARE][-1])
    for result in select(results, "glorot_2010_sigmoid"):
        means, accuracy = series(result, "activation_mean"), series(result, "accuracy/test")
        for step in STEPS:
            if step in means and step in accuracy:
                numbers[f"top_{step}"] = estimate(means[step].values[result.summary.hidden_layers - 1])
                numbers[f"accuracy_{step}"] = estimate(accuracy[step].values[0])
    return numbers


def figure(results: Sequence[Result]) -> Figure:
    """Draw δ and gradients against the layer, singular values, and activations against the step."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(11, 8.4))
        (upper_left, upper_right), (lower_left, lower_right) = drawn.subplots(2, 2)
        _by_layer(upper_left, results, DELTA)
        _by_layer(upper_right, results, GRADIENT)
        _singular(lower_left, results)
        for result in select(results, "glorot_2010_sigmoid"):
            _training(lower_right, result)
    return drawn


def _by_layer(axes: Axes, results: Sequence[Result], probe: str) -> None:
    for net, activation, init, colour, style in NETS:
        values = hidden(results, activation, init, probe)
        if values is None:
            continue
        e = estimate(values / values[-1], geometric=True)
        layers = np.arange(1, len(values) + 1)
        axes.plot(layers, e.mean, style, ms=4, lw=1.3, color=colour, label=f"{net}, {init}")
        axes.fill_between(layers, e.low, e.high, color=colour, alpha=0.2, lw=0)
        axes.set_xticks(layers)
    axes.set(yscale="log", ylim=(0.003, 3), xlabel="layer (1 is next to the input)")
    if probe == DELTA:
        axes.set_ylabel("√⟨‖δ$^l$‖²⟩ over that of the last hidden layer")
        axes.set_title("10 layers of 300: δ under a random cotangent\n"
                       "standard U(±1/√n): × 0.577 a layer down; normalised: × 1", fontsize=10)  # fmt: skip
        if axes.lines:
            axes.legend(frameon=False, loc="lower right", fontsize=9)
    else:
        axes.set_ylabel("‖∂C/∂W$^l$‖ over that of the last hidden layer")
        axes.set_title("the same networks: gradients of the weights\n"
                       "δ shrinks downwards as a shrinks upwards", fontsize=10)  # fmt: skip


def _singular(axes: Axes, results: Sequence[Result]) -> None:
    bins = np.linspace(0, 2.1, 71).tolist()
    for init, colour, variance in (("standard", RED, 1 / 3), ("normalised", BLUE, 1.0)):
        values = jacobians(results, init, "spectrum")
        if values is None:
            continue
        mean = float(values.mean())
        axes.hist(values, bins=bins, density=True, color=colour, alpha=0.35, label=f"{init}: mean {mean:.2f}")
        s = np.linspace(0, 2 * math.sqrt(variance), 200)
        label = "quarter circle of W alone" if init == "standard" else None
        axes.plot(s, np.sqrt(4 * variance - s**2) / (math.pi * variance), color="black", lw=1, label=label)
        axes.axvline(mean, color=colour, lw=1.6, ls="--")
    axes.set(xlim=(0, 2.1), xlabel="singular value of ∂a$^l$/∂a$^{l−1}$", ylabel="density")
    axes.set_title("5 tanh layers of 1000: layers 2 to 5, one example a network\n"
                   "what tanh takes away is the gap to the black line", fontsize=10)  # fmt: skip
    if axes.lines:
        axes.legend(frameon=False, fontsize=9)


def _training(axes: Axes, result: Result) -> None:
    means, layers = series(result, "activation_mean"), result.summary.hidden_layers
    steps, activations = list(means), np.array([r.values[:layers] for r in means.values()])
    for layer, colour in zip(range(layers), (GREEN, ORANGE, HUES[3], BLUE), strict=False):
        axes.plot(steps, activations[:, layer], color=colour, lw=0.9)
        axes.plot([], [], color=colour, lw=1.6, label=f"a, layer {layer + 1}")
    accuracy = series(result, "accuracy/test")
    each = np.array([r.values[0] for r in accuracy.values()])
    axes.plot(list(accuracy), each, color="black", lw=0.8, ls=":")
    axes.plot([], [], color="black", lw=0.9, ls=":", label="test accuracy")
    axes.plot(
        STEPS, (0.49, 0.15, 0.03), "*", ms=11, mfc="none", mec="black", label="top layer, another\nscript (MNIST-like)"
    )
    axes.set(ylim=(0, 1.1), xlabel="step of ten examples, η = 0.1", ylabel="mean activation of a layer; accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_yticks(np.arange(0, 1.01, 0.2))
    axes.set_title(f"4 sigmoid layers of 100, standard scale, one line a network ({each.shape[1]}):\n"
                   "the top layer shuts before the others learn", fontsize=10)  # fmt: skip
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper left")
