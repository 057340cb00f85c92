"""Histograms by floating-point exponent: the magnitudes of a layer's numbers while the network learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from engine.arrays import Array
from engine.exponents import INFINITE, NAN, SUBNORMAL, ZERO
from pipeline.reports.figures.style import MAPS, MISSING, STEP, STEPS, ReportFigure, ordinal_ticks, panels

QUANTITIES = {
    "gradient_exponents": "weight gradients ∂C/∂W",
    "delta_exponents": "errors δ",
    "activation_exponents": "activations a",
    "weight_exponents": "weights W",
}
SPECIAL_BELOW, SPECIAL_ABOVE = ((ZERO, "zero"), (SUBNORMAL, "subnormal")), ((INFINITE, "infinite"), (NAN, "NaN"))
SMALLEST_NORMAL = (("float16", -14), ("float32", -126), ("float64", -1022))  # exponents
MOST_ROWS = 36
LABEL: Any = {
    "ha": "right",
    "va": "bottom",
    "fontsize": 7,
    "bbox": {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
}


@dataclass(frozen=True)
class Rows:
    """The rows of an exponent plot, from below: zero, subnormal, a gap, exponents, a gap, infinite, NaN.

    Attributes:
        lowest: Exponent of the first row of exponents.
        width: Exponents in a row.
        count: Rows of exponents.
    """

    lowest: int
    width: int
    count: int

    @classmethod
    def of(cls, bins: Array) -> Rows:
        """Create enough rows for these bins."""
        normal = bins[(bins > SUBNORMAL) & (bins < INFINITE)]
        low, high = (int(normal.min()), int(normal.max())) if normal.size else (0, 0)
        width = math.ceil((high - low + 1) / MOST_ROWS)
        return cls(low, width, (high - low) // width + 1)

    def index(self, bins: Array) -> Array:
        """Return the row of each bin."""
        rows = 3 + (bins - self.lowest) // self.width
        for first, special in ((0, SPECIAL_BELOW), (self.count + 4, SPECIAL_ABOVE)):
            for row, (code, _) in enumerate(special, start=first):
                rows = np.where(bins == code, row, rows)
        return np.asarray(rows)

    @property
    def total(self) -> int:
        """Number of all rows."""
        return self.count + 6

    def edges(self) -> Array:
        """Return the edges of the rows, from 0. Special rows are tall enough for their names."""
        tall = max(1.0, self.total / 18)
        heights = np.ones(self.total)
        heights[[0, 1, -2, -1]] = tall
        return np.concatenate([[0.0], np.cumsum(heights)])

    def ticks(self) -> tuple[list[float], list[str]]:
        """Return the places and labels of the special rows and of some powers of two, at their lower edges."""
        rows = range(0, self.count, max(1, math.ceil(self.count / 6)))
        edges = self.edges()
        middles = (edges[:-1] + edges[1:]) / 2
        normal = [(edges[3 + r], f"$2^{{{self.lowest + r * self.width}}}$") for r in rows]
        below = [(middles[i], name) for i, (_, name) in enumerate(SPECIAL_BELOW)]
        above = [(middles[self.count + 4 + i], name) for i, (_, name) in enumerate(SPECIAL_ABOVE)]
        ticks = [*below, *normal, *above]
        return [float(place) for place, _ in ticks], [name for _, name in ticks]


def exponent_figure(table: pd.DataFrame, probe: str, name: str) -> ReportFigure | None:
    """Draw the share of numbers by exponent against step, for the first, the middle and the last layer.

    Args:
        table: Records as tidy rows.
        probe: Name of the histogram probe. Without rows the result is None.
        name: Name of the numbers that it counts.
    """
    counted = table[(table["probe"] == probe) & table["bin"].notna() & table["layer"].notna()]
    if counted.empty:
        return None
    layers = np.unique(counted["layer"].to_numpy(np.int64))
    chosen = [int(n) for n in np.unique(layers[[0, (len(layers) - 1) // 2, -1]])]
    steps = np.unique(counted["step"])
    steps = steps[np.unique(np.linspace(0, len(steps) - 1, STEPS).round().astype(int))]
    rows = Rows.of(counted["bin"].to_numpy(np.int64))
    shares = [_shares(counted[counted["layer"] == n], rows, steps) for n in chosen]
    lowest = min(float(s[s > 0].min()) for s in shares if (s > 0).any())
    norm = LogNorm(max(lowest, 1e-6) * 0.999, 1.0, clip=True)
    with matplotlib.rc_context(MAPS):
        figure, panel_axes = panels(len(chosen), 4.4, sharey=True)
        for axes, layer, share in zip(panel_axes, chosen, shares, strict=True):
            positive = np.where(share > 0, share, np.nan)
            image = axes.pcolormesh(
                np.arange(len(steps) + 1) - 0.5, rows.edges(), positive, cmap="viridis_r", norm=norm, rasterized=True
            )
            _format_axes(axes, rows, steps, f"layer {layer}")
        panel_axes[0].set_ylabel("magnitude" + (f" ({rows.width} powers of two a row)" if rows.width > 1 else ""))
        panel_axes[len(panel_axes) // 2].set_xlabel(f"{STEP}; recorded steps, evenly spaced")
        figure.colorbar(image, ax=panel_axes, label="share of the layer's numbers", pad=0.02)
    special = _special_shares(shares, rows, chosen)
    return ReportFigure(
        f"Where the numbers lie: {name}",
        figure,
        f"Heat maps of the share of {name} by power of two against step, layers {', '.join(map(str, chosen))}; "
        f"{special or 'no number is zero, subnormal, infinite or NaN'}.",
        "A band that sinks means that the numbers shrink. Numbers outside the middle are zero, subnormal, infinite or "
        f"NaN: {special or 'there are none'}.",
    )


def _shares(counted: pd.DataFrame, rows: Rows, steps: Array) -> Array:
    """Return each row's share of a step's numbers over all replicates, [rows, steps]."""
    shown = counted[counted["step"].isin(steps)]
    counts = np.zeros((rows.total, len(steps)))
    index = rows.index(shown["bin"].to_numpy(np.int64)), np.searchsorted(steps, shown["step"])
    np.add.at(counts, index, shown["value"].to_numpy())
    return np.asarray(counts / np.maximum(counts.sum(axis=0), 1))


def _format_axes(axes: Axes, rows: Rows, steps: Array, title: str) -> None:
    edges = rows.edges()
    for gap in (2, rows.count + 3):
        axes.axhspan(edges[gap], edges[gap + 1], color=MISSING, lw=0)
    for name, exponent in SMALLEST_NORMAL:
        row = 3 + (exponent - rows.lowest) / rows.width
        if 4 < row < rows.count + 2:
            height = np.interp(row, np.arange(len(edges)), edges)
            axes.axhline(height, color="black", lw=0.8, ls=":")
            axes.text(0.98, height, f"{name}: normal above", transform=axes.get_yaxis_transform(), **LABEL)
    axes.set_yticks(*rows.ticks())
    axes.set_xticks(*ordinal_ticks([int(s) for s in steps], 5 if steps[-1] < 1000 else 3))
    axes.set_title(title)


def _special_shares(shares: Sequence[Array], rows: Rows, chosen: Sequence[int]) -> str:
    """Return 'up to 12.00% of the numbers are zero (layer 1)', for each special row that is not empty."""
    sentences = []
    special = [*enumerate(SPECIAL_BELOW), *enumerate(SPECIAL_ABOVE, start=rows.count + 4)]
    for row, (_, name) in special:
        largest = [float(s[row].max()) for s in shares]
        if max(largest) > 0:
            layer = chosen[int(np.argmax(largest))]
            sentences.append(f"up to {max(largest):.2%} of the numbers are {name} (layer {layer})")
    return ", ".join(sentences)
