"""Training of one neuron under two costs, and the window of inputs in which a neuron does not shrink its gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engine.activations import Sigmoid
from engine.arrays import Array
from experiments.claims import exact
from experiments.runner import Result, select
from pipeline.analysis.estimates import Estimate
from pipeline.reports.figures.style import BLUE, RED, STYLE

QUADRATIC, CROSS_ENTROPY = "nielsen_3", "nielsen_3_cross_entropy"
GOOD, BAD = (0.6, 0.9), (2.0, 2.0)


class Course(NamedTuple):
    """The output a and |∂C/∂b| of a neuron after 0, 1, 2 ... steps, and the learning rate."""

    output: Array
    speed: Array
    rate: float


def course(results: Sequence[Result], sweep: str, start: tuple[float, float]) -> Course:
    """Return the course of the neuron that starts at (w, b)."""
    for result in select(results, sweep):
        init = result.raw_config["init"]
        if (init["weights"]["values"][0][0][0], init["biases"]["values"][0][0][0]) == start:
            output, speed = (
                np.array([r.values[0, 0] for r in result.summary.records if r.probe == probe])
                for probe in ("activation_mean", "bias_gradient_norm")
            )
            return Course(output, speed, float(result.raw_config["optimizer"]["learning_rate"]))
    raise LookupError(f"no neuron of {sweep} starts at (w, b) = {start}")


def flow_time(start: float, end: float, rate: float) -> float:
    """Return the number of infinitely small steps between two outputs under the quadratic cost.

    dz/dt = −2η a²(1 − a) for w and b together, and dz = da/(a(1 − a)), so t = ∫ da / (2η a³(1 − a)²).

    Args:
        start: The first output.
        end: The last output, smaller than the first.
        rate: The learning rate η.
    """

    def primitive(a: float) -> float:
        return -1 / (2 * a * a) - 2 / a + 3 * math.log(a / (1 - a)) + 1 / (1 - a)

    return (primitive(start) - primitive(end)) / (2 * rate)


def widths(weights: Array) -> Array:
    """Return the width of {a : |w σ'(wa + b)| ≥ 1} for each w > 4, by bisection. b only moves the window."""
    low, high = np.zeros_like(weights), np.full_like(weights, 2.0)
    for _ in range(60):
        middle = (low + high) / 2
        z = weights * middle
        a = Sigmoid().value(z)
        inside = weights * Sigmoid().derivative(z, a) >= 1
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return np.asarray(2 * low)


def measured(results: Sequence[Result]) -> Mapping[str, Estimate]:
    """Return the measured numbers by the claims' keys."""
    numbers = {}
    for cost, sweep in (("quadratic", QUADRATIC), ("entropy", CROSS_ENTROPY)):
        for name, start in (("good", GOOD), ("bad", BAD)):
            c = course(results, sweep, start)
            numbers[f"{cost}_{name}_start"], numbers[f"{cost}_{name}_end"] = exact(c.output[0]), exact(c.output[-1])
            numbers[f"{cost}_{name}_fastest"] = exact(int(c.speed.argmax()))
            numbers[f"{cost}_{name}_plateau"] = exact(int(np.argmax(c.speed >= c.speed.max() / 2)))
    slow, fast = (course(results, sweep, BAD).speed[0] for sweep in (QUADRATIC, CROSS_ENTROPY))
    numbers["entropy_head_start"] = exact(fast / slow)
    weights = np.arange(4.0002, 20, 1e-4)
    all_widths = widths(weights)
    numbers["widest"], numbers["widest_at"] = exact(all_widths.max()), exact(weights[all_widths.argmax()])
    return numbers


def figure(results: Sequence[Result]) -> Figure:
    """Draw outputs, speeds and widths."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(12, 4.2))
        output, speed, width = drawn.subplots(1, 3)
        for sweep, style, cost in ((QUADRATIC, "-", "quadratic"), (CROSS_ENTROPY, "--", "cross-entropy")):
            for start, colour in ((GOOD, BLUE), (BAD, RED)):
                c = course(results, sweep, start)
                label = f"{cost}, η = {c.rate:g}, from ({start[0]:g}, {start[1]:g})"
                output.plot(c.output, style, color=colour, lw=1.8, label=label)
                speed.plot(c.speed, style, color=colour, lw=1.8)
        _describe(output, speed, flow_time(0.98201379, 2 / 3, 0.15))
        weights = np.arange(4.001, 20, 1e-3)
        all_widths = widths(weights)
        best = int(all_widths.argmax())
        top = (weights[best], all_widths[best])
        width.plot(weights, all_widths, color=BLUE, lw=1.8)
        width.plot(*top, "o", color=RED)
        width.annotate(f"{top[1]:.3f} at |w| = {top[0]:.2f}", top, (0, 8), textcoords="offset points", color=RED)
        width.axvspan(0, 4, color="0.9", lw=0)
        width.text(2, 0.25, "|w| < 4: never", ha="center", va="center", rotation=90, color="0.3")
        width.set(xlabel="|w|", ylabel="width of {a : |w σ'(wa + b)| ≥ 1}", xlim=(0, 20), xticks=range(0, 21, 4))
        width.set_ylim(0, 0.52)
        width.set_title("inputs a for which a neuron\ndoes not shrink the gradient", fontsize=10)
    return drawn


def _describe(output: Axes, speed: Axes, turn: float) -> None:
    output.set(xlabel="step", ylabel="output a (target 0)", ylim=(0, 1.45), yticks=np.linspace(0, 1, 6))
    output.legend(frameon=False, fontsize=8.5, loc="upper right")
    output.set_title("one neuron, x = 1, under two costs\nand from two starts (w, b)", fontsize=10)
    speed.set(xlabel="step", ylabel="speed of learning |∂C/∂b|", yscale="log", ylim=(0.004, 1.8))
    speed.plot([turn, turn], [0.004, 0.2], color="0.4", lw=1, ls=":")
    speed.text(turn, 0.21, "fastest, by theory: a = ⅔", ha="center", color="0.3", fontsize=9)
    speed.text(5, 1.15, "cross-entropy: ∂C/∂b = a", color="0.2", fontsize=9)
    speed.text(5, 0.0048, "quadratic: ∂C/∂b = a σ'(z),\nsmall where a is saturated", color="0.2", fontsize=9)
    speed.set_title("only the quadratic cost\nhas a plateau", fontsize=10)
