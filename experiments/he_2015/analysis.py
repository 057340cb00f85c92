"""The factor a layer on mean squares, and its effect on training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from engine.arrays import Array
from experiments.runner import Result, select
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.reports.figures.style import BLUE, GREEN, RED, STYLE

DELTA, Z = "random_cotangent_delta_rms", "z_mean_square"


def factor(squares: Array, hidden: int, downwards: bool) -> Estimate:
    """Return the factor a layer on mean squares, from the means over networks, with a jackknife over networks.

    Args:
        squares: Mean squares [L, R].
        hidden: The number of hidden layers.
        downwards: Whether the factor leads from a layer to the layer below.
    """
    logs = np.log(squares[:hidden])
    ends = (0, -1) if downwards else (-1, 0)

    def mean_factor(chosen: Array) -> float:
        means = np.log(np.exp(logs[:, chosen]).mean(axis=1))
        return float(np.exp((means[ends[0]] - means[ends[1]]) / (hidden - 1)))

    networks = np.arange(squares.shape[1])
    whole = mean_factor(networks)
    pseudo = np.array(
        [len(networks) * whole - (len(networks) - 1) * mean_factor(networks[networks != k]) for k in networks]
    )
    e = estimate(pseudo)
    return Estimate(np.array(whole), e.low, e.high, e.lost)


def measured(results: Sequence[Result]) -> Mapping[str, Estimate]:
    """Return the measured numbers by the claims' keys."""
    numbers = {}
    for key, init, alpha, probe in (
        ("backward_xavier", "glorot_normal", "0.0", DELTA),
        ("backward_he", "he_normal", "0.0", DELTA),
        ("forward_xavier", "glorot_normal", "0.0", Z),
        ("backward_he_leaky", "he_normal", "0.25", DELTA),
    ):
        (result,) = select(results, "he_2015", init=init, alpha=alpha)
        values = result.values(probe)
        numbers[key] = factor(
            np.square(values) if probe == DELTA else values, result.summary.hidden_layers, probe == DELTA
        )
    for depth in ("20", "30"):
        xavier, he = (
            select(results, "he_2015_training", init=init, depth=depth)[0].values("accuracy/test", -1)[0]
            for init in ("glorot_normal", "he_normal")
        )
        numbers[f"accuracy_gain_{depth}"] = estimate(he - xavier)
    return numbers


def figure(results: Sequence[Result]) -> Figure:
    """Draw δ against the layer, and the accuracy after training."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(10, 4))
        left, right = drawn.subplots(1, 2, width_ratios=(3, 2))
        styles = (("glorot_normal", "0.0", RED, "Xavier, ReLU"), ("he_normal", "0.0", BLUE, "He, ReLU"))
        for init, alpha, colour, label in (*styles, ("he_normal", "0.25", GREEN, "He, leaky ReLU, α = ¼")):
            (result,) = select(results, "he_2015", init=init, alpha=alpha)
            e = estimate(result.values(DELTA), geometric=True)
            layers = np.arange(1, len(e.mean) + 1)
            left.plot(layers, e.mean, marker="o", ms=3, color=colour, label=label)
            left.fill_between(layers, e.low, e.high, color=colour, alpha=0.2, lw=0)
        left.set(yscale="log", xlabel="layer (1 is next to the input)", ylabel="δ under a random cotangent: √⟨‖δ‖²⟩")
        left.set_title("at initialisation")
        left.legend(frameon=False)
        for i, (init, _, colour, label) in enumerate(styles):
            for k, depth in enumerate(("20", "30")):
                (result,) = select(results, "he_2015_training", init=init, depth=depth)
                e = estimate(result.values("accuracy/test", -1)[0])
                height = float(e.mean)
                error = [[max(height - float(e.low), 0)], [max(float(e.high) - height, 0)]]
                right.bar(
                    k + 0.38 * (i - 0.5),
                    height,
                    0.36,
                    yerr=error,
                    color=colour,
                    capsize=3,
                    label=label if not k else None,
                )
        right.set(xticks=(0, 1), xticklabels=("20 layers", "30 layers"), ylim=(0, 1.3), ylabel="test accuracy")
        right.set_title("after 1600 steps on the digits")
        right.legend(frameon=False, loc="upper right")
    return drawn
