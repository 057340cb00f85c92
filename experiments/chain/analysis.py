"""The factor of one neuron of a chain on the gradient, δ^l/δ^{l+1} = w^{l+1} σ'(z^l), and of twenty neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engine.activations import Sigmoid
from engine.arrays import Array
from experiments.runner import Result, select
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.reports.figures.style import BLUE, GREEN, ORANGE, RED, STYLE

DELTA = "bias_gradient_norm"  # |∂C/∂b| = |δ| for one example and one unit
CENTRED = {"1.0": "-0.5", "4.0": "-2.0", "100.0": "-50.0"}  # the b for which z = 0, by w
COLOURS = {"1.0": BLUE, "4.0": GREEN, "100.0": RED}


def weight(result: Result) -> str:
    """Return the swept weight of a chain."""
    return result.swept["init.weights.value"]


def is_centred(result: Result) -> bool:
    """Return whether b = −w/2."""
    return result.swept["init.biases.value"] == CENTRED.get(weight(result))


def factors(delta: Array) -> Array:
    """Return |δ^l/δ^{l+1}| of δ [layers, R], NaN where both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(delta[:-1] / delta[1:])


def furthest(values: Array, number: float) -> Estimate:
    """Return the value with the largest distance from a number."""
    flat = values.ravel()
    return estimate(flat[[np.abs(flat - number).argmax()]])


def measured(results: Sequence[Result]) -> Mapping[str, Estimate]:
    """Return the measured numbers by the claims' keys."""
    numbers, largest_of_one, bottom = {}, [], []
    for result in select(results, "chain"):
        passed = factors(result.values(DELTA))
        w = float(weight(result))
        if is_centred(result):
            numbers[f"factor_{w:g}"] = furthest(passed, w / 4)
        if w == 1:
            largest_of_one.append(float(np.nanmax(passed)))
        if w == 100 and not is_centred(result):
            bottom.append(float(result.values(DELTA)[0].max()))
    numbers["largest_of_one"] = estimate(np.array([max(largest_of_one)]))
    numbers["saturated_100"] = estimate(np.array([max(bottom)]))
    for result in select(results, "chain_random"):
        delta, weights = result.values(DELTA), result.values("weight_norm")
        passed = factors(delta)
        numbers["random"] = estimate((delta[0] / delta[-1]) ** (1 / len(passed)), geometric=True)
        numbers["random_bound"] = estimate(np.array([(passed / weights[1:]).max()]))
        numbers["random_growing"] = estimate(np.array([(passed > 1).mean()]))
    return numbers


def figure(results: Sequence[Result]) -> Figure:
    """Draw the factor of one neuron against z, and δ along whole chains."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(11, 4.6))
        left, right = drawn.subplots(1, 2)
        _one_neuron(left, select(results, "chain"))
        _whole_chains(right, results)
    return drawn


def _one_neuron(axes: Axes, chains: Sequence[Result]) -> None:
    z = np.linspace(-14, 14, 561)
    slope = Sigmoid().derivative(z, Sigmoid().value(z))
    for w, colour in COLOURS.items():
        axes.plot(z, float(w) * slope, color=colour, lw=1.6, label=f"w = {float(w):g}")
    for result in chains:
        away = np.sqrt(result.values("z_mean_square")[:-1, 0])
        passed = factors(result.values(DELTA))[:, 0]
        axes.plot(away, passed, "o", ms=6, color=COLOURS.get(weight(result), "black"), mec="white", mew=0.6, zorder=3)
    axes.axhline(1, color="black", lw=1, ls="--")
    axes.text(-13.5, 1.25, "the gradient grows", fontsize=9)
    axes.text(-13.5, 0.8, "the gradient shrinks", fontsize=9, va="top")
    axes.set(yscale="log", ylim=(1e-5, 100), xlim=(-14, 14), xlabel="weighted input z (points: |z|)",
             ylabel="factor of one neuron, |w σ'(z)|")  # fmt: skip
    axes.text(-13.5, 1.6e-5, "not in the picture: the chains whose |z| is 48 to 100", fontsize=9, color="0.3",
              bbox={"fc": "white", "ec": "none", "pad": 1})  # fmt: skip
    axes.set_title("σ' ≤ ¼: only |w| > 4 can make it grow,\nand only near z = 0 (points: measured)", fontsize=10)
    axes.legend(frameon=False, loc="upper right")


def _whole_chains(axes: Axes, results: Sequence[Result]) -> None:
    drawn = []
    for result in select(results, "chain"):
        if is_centred(result):
            w = float(weight(result))
            drawn.append((result.values(DELTA), COLOURS[weight(result)], f"w = {w:g}, z = 0: × {w / 4:g} a layer"))
    random = "w, b from N(0, 1): × 0.0995 a layer in theory (dashed)"
    drawn += [(r.values(DELTA), ORANGE, random) for r in select(results, "chain_random")]
    for delta, colour, label in reversed(drawn):
        relative = delta / delta[-1]
        layers = np.arange(1, len(relative) + 1)
        axes.plot(layers, estimate(relative, geometric=True).mean, "o-", ms=3.5, lw=1.4, color=colour, label=label)
        if relative.shape[1] > 1:
            low, high = np.quantile(relative, (0.05, 0.95), axis=1)
            axes.fill_between(layers, low, high, color=colour, alpha=0.2, lw=0)
            axes.plot(layers, 0.09951 ** (layers[-1] - layers), color="black", lw=1, ls="--")
    axes.set(yscale="log", ylim=(1e-28, 1e47), yticks=10.0 ** np.arange(-24, 25, 12),
             xlabel="layer (1 is next to the input)", ylabel="δ in units of δ in the last layer")  # fmt: skip
    axes.set_xticks(range(1, len(layers) + 1, 4))
    axes.set_title("chains of 21 neurons\n(band: 90% of the random ones)", fontsize=10)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
