"""Speed of learning by layer: at initialisation over 300 networks, and through gradient descent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from engine.activations import Sigmoid
from engine.arrays import Array
from engine.theory import MeanField
from experiments.runner import Result, select
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.reports.figures.style import BLUE, GREEN, ORANGE, RED, STYLE

SPEED = "bias_gradient_norm"
EPOCHS = (0, 50, 100, 499)
BOOK = {"2": (0.06574, 0.30922), "3": (0.01184, 0.05997, 0.28314), "4": (0.002975, 0.017077, 0.069539, 0.285139)}
BOOK_RATIOS = (96, 51, 52, 113)


def speeds(result: Result, step: int = 0) -> Array | None:
    """Return ‖⟨δ⟩‖ of the hidden layers at a step [layers, R], or None if it was not measured."""
    for record in result.summary.records:
        if record.probe == SPEED and record.step == step:
            return record.values[: result.summary.hidden_layers]
    return None


def decay(below: Array, above: Array) -> Estimate:
    """Return √(⟨below²⟩/⟨above²⟩) over networks [R] with a jackknife. Theory gives the ratio of mean squares."""
    b, a, n = np.square(below), np.square(above), len(below)
    whole = np.sqrt(b.sum() / a.sum())
    with np.errstate(invalid="ignore"):
        e = estimate(n * whole - (n - 1) * np.sqrt((b.sum() - b) / (a.sum() - a)))
    return Estimate(np.asarray(whole), e.low, e.high, e.lost)


def scaled(e: Estimate, divisor: float) -> Estimate:
    """Return the estimate in units of the divisor."""
    return Estimate(e.mean / divisor, e.low / divisor, e.high / divisor, e.lost)


def first_factor(result: Result) -> float:
    """Return the theoretical factor on ‖⟨δ⟩‖ in layer 1, √E σ'(z_a) σ'(z_b) for two examples of the run."""
    q, c = (float(result.values(probe)[0].mean()) for probe in ("z_mean_square", "z_cosine"))
    return float(np.sqrt(MeanField(Sigmoid(), 1.0, 1.0).chi_between(c, q)))


def measured(results: Sequence[Result]) -> Mapping[str, Estimate]:
    """Return the measured numbers by the claims' keys."""
    numbers = {}
    for depth in BOOK:
        for result in select(results, "nielsen_5", depth=depth):
            values = result.values(SPEED)[: result.summary.hidden_layers]
            for layer, own in enumerate(values, start=1):
                numbers[f"speed_{depth}_{layer}"] = estimate(own, geometric=True)
            for layer in range(1, len(values)):
                e = decay(values[layer - 1], values[layer])
                numbers[f"decay_{depth}_{layer}"] = scaled(e, first_factor(result)) if layer == 1 else e
    for result in select(results, "nielsen_5_training"):
        for epoch in EPOCHS:
            now = speeds(result, epoch)
            if now is not None:
                numbers[f"slower_{epoch}"] = estimate(now[-1] / now[0], geometric=True)
    trained = select(results, "nielsen_5_depth")
    accuracy = {r.swept["architecture.depth"]: r.values("accuracy/test", -1)[0] for r in trained}
    numbers |= {f"accuracy_{depth}": estimate(values) for depth, values in accuracy.items()}
    for more, fewer in (("2", "1"), ("4", "2")):
        if more in accuracy and fewer in accuracy:
            numbers[f"gain_{more}_over_{fewer}"] = estimate(accuracy[more] - accuracy[fewer])
    return numbers


def figure(results: Sequence[Result]) -> Figure:
    """Draw the speed against the layer before training, and against the epoch."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(11, 4.6))
        left, right = drawn.subplots(1, 2)
        _by_layer(left, results)
        for result in select(results, "nielsen_5_training"):
            _by_epoch(right, result)
    return drawn


def _by_layer(axes: Axes, results: Sequence[Result]) -> None:
    networks = 0
    for depth, colour, shift in (("2", GREEN, -0.06), ("3", ORANGE, 0.0), ("4", BLUE, 0.06)):
        for result in select(results, "nielsen_5", depth=depth):
            values = result.values(SPEED)[: result.summary.hidden_layers]
            networks = values.shape[1]
            layers = np.arange(1, len(values) + 1) + shift
            mean = estimate(values, geometric=True).mean
            low, high = np.quantile(values, (0.05, 0.95), axis=1)
            axes.errorbar(layers, mean, (mean - low, high - mean), fmt="o", ms=5, capsize=3, color=colour, zorder=3,
                          label=f"{depth} hidden layers")  # fmt: skip
            axes.plot(layers, mean[-1] * np.sqrt(MeanField(Sigmoid(), 1, 1).chi_star()) ** (layers[-1] - layers),
                      color=colour, lw=1, ls="--")  # fmt: skip
            label = "the book's single networks (MNIST)" if depth == "4" else None
            axes.plot(layers, BOOK[depth], "*", ms=11, mfc="none", mec="black", label=label, zorder=4)
    axes.set(yscale="log", xlabel="hidden layer (1 is next to the input)", ylabel="speed of learning ‖∂C/∂b‖")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"before training: {networks} networks, mean and 90% of them\ndashed: theory, × 0.205 a layer down",
                   fontsize=10)  # fmt: skip
    if networks:
        axes.legend(frameon=False, loc="lower right", fontsize=9)


def _by_epoch(axes: Axes, result: Result) -> None:
    records = [r for r in result.summary.records if r.probe == SPEED]
    steps = np.array([r.step for r in records])
    means = np.array([estimate(r.values, geometric=True).mean for r in records])[:, : result.summary.hidden_layers]
    for layer, colour in zip(range(means.shape[1]), (RED, ORANGE, GREEN, BLUE), strict=False):
        axes.plot(steps, means[:, layer], color=colour, lw=1.6)
        axes.annotate(f"layer {layer + 1}", (steps[-1], means[-1, layer]), (5, 0), textcoords="offset points",
                      color=colour, va="center")  # fmt: skip
    for epoch, book in zip(EPOCHS, BOOK_RATIOS, strict=True):
        now = speeds(result, epoch)
        if now is not None:
            bottom, top = estimate(now[[0, -1]], geometric=True).mean
            own = float(estimate(now[-1] / now[0], geometric=True).mean)
            arrow = {"arrowstyle": "<->", "color": "0.35", "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", (epoch, top), (epoch, bottom), arrowprops=arrow)
            side, shift = ("right", -3) if epoch == EPOCHS[-1] else ("left", 3)
            axes.annotate(f"×{own:.0f}\n({book})", (epoch, top), (shift, 4), textcoords="offset points", fontsize=9,
                          ha=side, va="bottom", color="0.2")  # fmt: skip
    axes.set(yscale="log", xlabel="epoch = step of gradient descent", ylabel="speed of learning ‖∂C/∂b‖")
    axes.set(xlim=(-0.025 * steps[-1], steps[-1] * 1.17), ylim=(None, 4 * means.max()))
    axes.set_title(f"training: mean of {records[0].values.shape[1]} networks, full batch of 1000\n"
                   "×: last layer over first (in brackets: the book's network)", fontsize=10)  # fmt: skip
