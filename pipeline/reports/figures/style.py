"""Colours, axes and helpers that all figures share.

Magnitudes are drawn as log10 on linear axes. Matplotlib's logarithmic axes end at 1e±308, and gradients that explode or
vanish exceed that. The Okabe-Ito colours are distinct for every kind of colour vision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from engine.arrays import Array
from pipeline.analysis.estimates import Estimate
from pipeline.analysis.summary import RunningSummary
from pipeline.reports.outputs import png
from pipeline.training.records import Record

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MISSING = "#d9d9d9"
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "figure.constrained_layout.use": True,
}
CURVES = STYLE | {"axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 9, "mathtext.default": "regular"}
MAPS = CURVES | {"axes.grid": False}

LAYER = "layer (1 is next to the input)"
STEP = "step (updates made)"
STEPS = 300  # most steps that a figure shows
SHORT_AXIS = 2.5  # decades; a shorter axis has ticks between the powers of ten


class NotebookFigure(Figure):
    """A figure that a notebook shows as a picture. A plain figure is shown there only after an import of pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self, dots_per_inch=100)


class ReportFigure(NamedTuple):
    """A figure with its texts.

    Attributes:
        title: Heading of its section.
        alt: Description for readers who cannot see it.
        caption: One sentence that says how to read it.
    """

    title: str
    figure: Figure
    alt: str
    caption: str


class Curve(NamedTuple):
    """A line with its band, in the units of the axis."""

    x: Array
    mean: Array
    low: Array
    high: Array


def run_colours(swept: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a colour for each run: hue by the first swept key, lightness by the other keys."""
    hues, rest = ([tuple(list(cell.values())[part]) for cell in swept] for part in (slice(0, 1), slice(1, None)))
    hue_order, rest_order = list(dict.fromkeys(hues)), list(dict.fromkeys(rest))
    colours = []
    for hue, others in zip(hues, rest, strict=True):
        base = np.array(matplotlib.colors.to_rgb(HUES[hue_order.index(hue) % len(HUES)]))
        towards_white = 0.6 * (1 - (rest_order.index(others) + 1) / len(rest_order))
        colours.append(matplotlib.colors.to_hex(tuple(base + (1 - base) * towards_white)))
    return colours


def plot_label(text: str, longest: int = 28) -> str:
    """Return text from a store as a safe label: one line, shortened, without matplotlib's mathematics."""
    line = " ".join(str(text).split())
    line = line if len(line) <= longest else f"{line[: longest - 1]}…"
    return line.replace("$", "\\$")


def subsample(records: Sequence[Record]) -> list[Record]:
    """Return at most ``STEPS`` records, evenly chosen, with the first and the last."""
    if not records:
        return []
    return [records[i] for i in np.unique(np.linspace(0, len(records) - 1, STEPS).round().astype(int))]


def start_and_end(summary: RunningSummary, *probes: str) -> list[tuple[int, str]]:
    """Return index and name of the records to show: start and end, or the start if there is one record each."""
    several = any(summary.at(probe, 0) is not summary.at(probe, -1) for probe in probes)
    return [(0, "start"), (-1, "end")] if several else [(0, "start")]


def log10(values: Array) -> Array:
    """Return log10 where it is finite, NaN elsewhere."""
    with np.errstate(all="ignore"):
        logs = np.log10(values)
    return np.asarray(np.where(np.isfinite(logs), logs, np.nan))


def curve(x: Sequence[float], e: Estimate, logarithmic: bool) -> Curve:
    """Convert an estimate to a curve. Interval ends without a finite logarithm move to the limits of float64."""
    if not logarithmic:
        return Curve(np.asarray(x), *(np.where(np.isfinite(v), v, np.nan) for v in (e.mean, e.low, e.high)))
    low = log10(np.maximum(e.low, 5e-324))
    high = log10(np.minimum(e.high, np.finfo(np.float64).max))
    return Curve(np.asarray(x), log10(e.mean), low, high)


def has_line(line: Curve) -> bool:
    """Return whether a curve has more than a point. The profile of a diverged network often has none."""
    return int(np.isfinite(line.mean).sum()) > 1 or len(line.x) == 1


def draw(axes: Axes, line: Curve, colour: str, label: str, style: str = "-", marker: str = "o") -> Curve:
    """Draw a curve with its band, and with markers if there are at most 40 points. Return the curve."""
    axes.plot(line.x, line.mean, style, marker=marker if len(line.x) <= 40 else "", ms=4, color=colour, label=label)
    if np.isfinite(line.low).any():
        axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, lw=0)
    return line


def limits(lines: Sequence[Curve], least: float = 0.0) -> tuple[float, float] | None:
    """Return the ends of an axis that shows all means, or None if none is finite.

    Bands widen the axis by at most half the range of the means on each side.

    Args:
        lines: The curves on the axis.
        least: Smallest room for the bands, in units of the axis.
    """
    means = np.concatenate([line.mean for line in lines]) if lines else np.array([])
    if not np.isfinite(means).any():
        return None
    low, high = float(np.nanmin(means)), float(np.nanmax(means))
    room = max(0.5 * (high - low), least)
    ends = np.concatenate([[low, high], *(v for line in lines for v in (line.low, line.high))])
    wide_low, wide_high = max(float(np.nanmin(ends)), low - room), min(float(np.nanmax(ends)), high + room)
    margin = max(0.06 * (wide_high - wide_low), 0.2 * least, 1e-12 * abs(high))
    return wide_low - margin, wide_high + margin


def log_axis(axes: Axes, lines: Sequence[Curve]) -> None:
    """Set limits, ticks and labels of a vertical axis that shows log10 of a magnitude."""
    ends = limits(lines, least=0.3)
    if ends is None:
        axes.set_yticks([])
        annotate(axes, "no finite value above 0")
        return
    is_short = ends[1] - ends[0] < SHORT_AXIS
    axes.set_ylim(*ends)
    axes.yaxis.set_major_locator(FixedLocator(log_ticks(*ends)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda place, _: log_label(place, decimal=is_short)))


def log_ticks(low: float, high: float) -> list[float]:
    """Return tick places in log10: powers of ten, or 1, 2, 5 times them on a short axis."""
    if high - low >= SHORT_AXIS:
        step = next(s for s in (1, 2, 3, 5, 10, 20, 30, 50, 100, 10**9) if (high - low) / s <= 8)
        return [float(p) for p in range(math.ceil(low / step) * step, math.floor(high) + 1, step)]
    powers = range(math.floor(low), math.ceil(high) + 1)
    for mantissas in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(1 + k / 20 for k in range(180))):
        places = [p + math.log10(m) for p in powers for m in mantissas if low <= p + math.log10(m) <= high]
        if len(places) >= 3:
            return places[:: math.ceil(len(places) / 8)]
    return [(low + high) / 2]


def log_label(place: float, decimal: bool) -> str:
    """Return the label of 10**place, to three digits.

    Args:
        place: log10 of the magnitude.
        decimal: Whether magnitudes from 0.001 to 10,000 are written without a power of ten.
    """
    whole = math.floor(place)
    digits, carry = f"{10 ** (place - whole):.2e}".split("e")
    mantissa, power = f"{float(digits):g}", whole + int(carry)
    if decimal and -3 <= power <= 3:
        return f"{float(mantissa) * 10.0**power:.4g}"
    return f"$10^{{{power}}}$" if mantissa == "1" else f"${mantissa}\\cdot 10^{{{power}}}$"


def layer_ticks(layers: Sequence[int]) -> list[int]:
    """Return at most 9 evenly spaced layers, from the first and if possible to the last."""
    steps = max(layers) - min(layers)
    least = max(1, math.ceil(steps / 8))
    stride = next((s for s in range(least, 2 * least + 1) if steps % s == 0), least)
    return list(range(min(layers), max(layers) + 1, stride))


def layer_axis(axes: Axes, layers: Sequence[int]) -> None:
    """Set up the horizontal axis of a profile."""
    margin = 0.03 * (max(layers) - min(layers)) + 0.2
    axes.set(xlabel=LAYER, xticks=layer_ticks(layers), xlim=(min(layers) - margin, max(layers) + margin))


def ordinal_ticks(numbers: Sequence[int], count: int) -> tuple[list[int], list[str]]:
    """Return at most ``count`` evenly chosen positions in a list and the numbers there as labels."""
    places = np.unique(np.linspace(0, len(numbers) - 1, min(len(numbers), count)).round().astype(int)).tolist()
    return places, [str(numbers[p]) for p in places]


def category_axis(axis: Axis, names: Sequence[str]) -> None:
    """Label a heat map's axis with at most 16 of its names. Long names below many columns are slanted."""
    places = list(range(0, len(names), math.ceil(len(names) / 16)))
    axis.set_ticks(places, labels=[plot_label(names[p], 14) for p in places])
    if isinstance(axis, XAxis) and len(names) > 3 and max(len(plot_label(name, 14)) for name in names) > 5:
        axis.set_tick_params(rotation=30)
        for label in axis.get_ticklabels():
            label.set_horizontalalignment("right")


def legend_below(figure: Figure, axes: Axes) -> None:
    """Draw one legend for all panels, from the labels of one of them."""
    columns = 3 if figure.get_figwidth() > 8 else 1
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def annotate(axes: Axes, text: str) -> None:
    """Write a text in the middle of empty axes."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)


def panels(count: int, height: float, width: float = 9.0, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Create a figure of panels in a row; a single panel has two thirds of the width. Sizes are in inches."""
    figure = NotebookFigure(figsize=(width if count > 1 else 0.68 * width, height))
    return figure, list(figure.subplots(1, count, squeeze=False, sharey=sharey)[0])
