"""Share of the updates that rounding loses, layer by layer, in float32 and float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from engine.arrays import Array
from experiments.runner import Result, select
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.reports.figures.style import BLUE, RED, STYLE

PROBE = "lost_updates"
DTYPES = ("float32", "float64")
FIGURE = "experiments/lost_updates/figure.png"


def shares(results: Sequence[Result], dtype: str) -> Array:
    """Return the share of lost updates, averaged over the recorded steps [layers, R]."""
    (result,) = select(results, dtype=dtype)
    return np.asarray(np.mean([r.values for r in result.summary.records if r.probe == PROBE], axis=0))


def measured(results: Sequence[Result]) -> Mapping[str, Estimate]:
    """Return the shares in the first and the last layer."""
    return {
        f"{dtype}_{name}": estimate(shares(results, dtype)[layer])
        for dtype in DTYPES
        for name, layer in (("first", 0), ("last", -1))
    }


def figure(results: Sequence[Result]) -> Figure:
    """Draw the share of lost updates against the layer, with one line for each type."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(7, 4))
        axes = drawn.subplots()
        for dtype, colour, marker in zip(DTYPES, (RED, BLUE), "os", strict=True):
            share = estimate(shares(results, dtype))
            layers = np.arange(1, len(share.mean) + 1)
            axes.plot(layers, 100 * share.mean, color=colour, marker=marker, label=dtype, clip_on=False)
            axes.fill_between(layers, 100 * share.low, 100 * share.high, color=colour, alpha=0.2, lw=0)
        axes.set(
            xlabel="layer (1 is next to the input)",
            ylabel="updates lost to rounding (% of weights with g ≠ 0)",
            title="10 hidden sigmoid layers of 30, digits, η = 0.1, B = 10",
            ylim=(0, 100),
            xticks=layers,
        )
        axes.legend(frameon=False)
    return drawn


def pages(results: Sequence[Result], command: str) -> Mapping[str, str | Figure]:
    """Return the figure of the README."""
    return {FIGURE: figure(results)}
