"""Pictures of histograms by floating-point exponent: where the numbers of a layer lie while the network learns."""

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
from pipeline.reports.figures.style import MISSING, PLAIN, STEP, STEPS, ReportFigure, ordinal_ticks, panels

QUANTITIES = {
    "gradient_exponents": "weight gradients ∂C/∂W",
    "delta_exponents": "errors δ",
    "activation_exponents": "activations a",
    "weight_exponents": "weights W",
}
SPECIAL_BELOW, SPECIAL_ABOVE = ((ZERO, "zero"), (SUBNORMAL, "subnormal")), ((INFINITE, "infinite"), (NAN, "NaN"))
LIMITS = (("float16", -14), ("float32", -126), ("float64", -1022))  # the smallest normal number
ROWS = 36


@dataclass(frozen=True)
class Rows:
    """The rows of an exponent picture, from below: zero, subnormal, a gap, exponents, a gap, infinite, NaN.

    Attributes:
        lowest: exponent of the first row of exponents.
        width: exponents in a row.
        count: rows of exponents.
    """

    lowest: int
    width: int
    count: int

    @classmethod
    def of(cls, bins: Array) -> Rows:
        """Enough for these bins."""
        usual = bins[(bins > SUBNORMAL) & (bins < INFINITE)]
        low, high = (int(usual.min()), int(usual.max())) if usual.size else (0, 0)
        width = math.ceil((high - low + 1) / ROWS)
        return cls(low, width, (high - low) // width + 1)

    def place(self, bins: Array) -> Array:
        """The row of each bin."""
        place = 3 + (bins - self.lowest) // self.width
        for first, special in ((0, SPECIAL_BELOW), (self.count + 4, SPECIAL_ABOVE)):
            for row, (code, _) in enumerate(special, start=first):
                place = np.where(bins == code, row, place)
        return np.asarray(place)

    @property
    def total(self) -> int:
        """All rows."""
        return self.count + 6

    def edges(self) -> Array:
        """Where each row ends, from 0 on: the special rows are so tall that their names have room."""
        tall = max(1.0, self.total / 18)
        heights = np.ones(self.total)
        heights[[0, 1, -2, -1]] = tall
        return np.concatenate([[0.0], np.cumsum(heights)])

    def ticks(self) -> tuple[list[float], list[str]]:
        """Names of the special rows, and powers of two at the lower edge of theirs."""
        rows = range(0, self.count, max(1, math.ceil(self.count / 6)))
        edges = self.edges()
        middles = (edges[:-1] + edges[1:]) / 2
        usual = [(edges[3 + r], f"$2^{{{self.lowest + r * self.width}}}$") for r in rows]
        below = [(middles[i], name) for i, (_, name) in enumerate(SPECIAL_BELOW)]
        above = [(middles[self.count + 4 + i], name) for i, (_, name) in enumerate(SPECIAL_ABOVE)]
        ticks = [*below, *usual, *above]
        return [float(place) for place, _ in ticks], [name for _, name in ticks]


def exponents(table: pd.DataFrame, probe: str, what: str) -> ReportFigure | None:
    """Share of numbers by floating-point exponent against step, of the first, the middle and the last layer."""
    found = table[(table["probe"] == probe) & table["bin"].notna() & table["layer"].notna()]
    if found.empty:
        return None
    layers = np.unique(found["layer"].to_numpy(np.int64))
    chosen = [int(n) for n in np.unique(layers[[0, (len(layers) - 1) // 2, -1]])]
    steps = np.unique(found["step"])
    steps = steps[np.unique(np.linspace(0, len(steps) - 1, STEPS).round().astype(int))]
    rows = Rows.of(found["bin"].to_numpy(np.int64))
    shares = [_shares(found[found["layer"] == n], rows, steps) for n in chosen]
    lowest = min(float(s[s > 0].min()) for s in shares if (s > 0).any())
    norm = LogNorm(max(lowest, 1e-6) * 0.999, 1.0, clip=True)
    with matplotlib.rc_context(PLAIN):
        figure, axes = panels(len(chosen), 4.4, sharey=True)
        for place, number, share in zip(axes, chosen, shares, strict=True):
            shown = np.where(share > 0, share, np.nan)
            image = place.pcolormesh(
                np.arange(len(steps) + 1) - 0.5, rows.edges(), shown, cmap="viridis_r", norm=norm, rasterized=True
            )
            _exponent_axes(place, rows, steps, f"layer {number}")
        axes[0].set_ylabel("magnitude" + (f" ({rows.width} powers of two a row)" if rows.width > 1 else ""))
        axes[len(axes) // 2].set_xlabel(f"{STEP}; recorded steps, evenly spaced")
        figure.colorbar(image, ax=axes, label="share of the layer's numbers", pad=0.02)
    odd = _special_shares(shares, rows, chosen)
    return ReportFigure(
        f"Where the numbers lie: {what}",
        figure,
        f"Heat maps of the share of {what} by power of two against step, layers {', '.join(map(str, chosen))}; "
        f"{odd or 'no number is zero, subnormal, infinite or NaN'}.",
        "A band that sinks means that the numbers shrink, and what has left the middle is zero, subnormal, infinite or "
        f"NaN: {odd or 'nothing has'}.",
    )


def _shares(rows_of_layer: pd.DataFrame, rows: Rows, steps: Array) -> Array:
    """Share of each row in each step's numbers, all replicates together: [rows, steps]."""
    there = rows_of_layer[rows_of_layer["step"].isin(steps)]
    counts = np.zeros((rows.total, len(steps)))
    place = rows.place(there["bin"].to_numpy(np.int64)), np.searchsorted(steps, there["step"])
    np.add.at(counts, place, there["value"].to_numpy())
    return np.asarray(counts / np.maximum(counts.sum(axis=0), 1))


def _exponent_axes(axes: Axes, rows: Rows, steps: Array, title: str) -> None:
    edges = rows.edges()
    for gap in (2, rows.count + 3):
        axes.axhspan(edges[gap], edges[gap + 1], color=MISSING, lw=0)
    for name, exponent in LIMITS:
        row = 3 + (exponent - rows.lowest) / rows.width
        if 4 < row < rows.count + 2:
            height = np.interp(row, np.arange(len(edges)), edges)
            axes.axhline(height, color="black", lw=0.8, ls=":")
            axes.text(0.98, height, f"{name}: normal above", transform=axes.get_yaxis_transform(), **_SMALL)
    axes.set_yticks(*rows.ticks())
    axes.set_xticks(*ordinal_ticks([int(s) for s in steps], 5 if steps[-1] < 1000 else 3))
    axes.set_title(title)


_BOX = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
_SMALL: Any = {"ha": "right", "va": "bottom", "fontsize": 7, "bbox": _BOX}


def _special_shares(shares: Sequence[Array], rows: Rows, chosen: Sequence[int]) -> str:
    """'at most 12% are zero (layer 1)'."""
    told = []
    special = [*enumerate(SPECIAL_BELOW), *enumerate(SPECIAL_ABOVE, start=rows.count + 4)]
    for row, (_, name) in special:
        most = [float(s[row].max()) for s in shares]
        if max(most) > 0:
            told.append(f"up to {max(most):.2%} of the numbers are {name} (layer {chosen[int(np.argmax(most))]})")
    return ", ".join(told)
