"""What the pictures of a report have in common.

Magnitudes are drawn as log10 on linear axes with ticks of our own: matplotlib's logarithmic axes end at 1e±308, and
what explodes or vanishes here does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator

from engine.arrays import Array
from pipeline.analysis.estimates import Estimate
from pipeline.analysis.summary import Summary
from pipeline.reports.figures.profiles import STYLE
from pipeline.training.records import Record

LAYER = "layer (1 is next to the input)"
STEP = "step (updates made)"
STEPS = 300  # at most so many steps are drawn; the first and the last always are
FINE = STYLE | {"axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 9, "mathtext.default": "regular"}
PLAIN = FINE | {"axes.grid": False}
MISSING = "#d9d9d9"


class ReportFigure(NamedTuple):
    """A figure and its words.

    Attributes:
        title: of the section it stands in.
        alt: what it shows, for who cannot see it.
        caption: one sentence that says what to look for.
    """

    title: str
    figure: Figure
    alt: str
    caption: str


def words(text: str, longest: int = 28) -> str:
    """Text of others as a label: no mathematics, no line breaks, not too long."""
    line = " ".join(str(text).split())
    line = line if len(line) <= longest else f"{line[: longest - 1]}…"
    return line.replace("$", "\\$")


def subsample(records: Sequence[Record]) -> list[Record]:
    """At most ``STEPS`` of them, evenly chosen."""
    if not records:
        return []
    return [records[i] for i in np.unique(np.linspace(0, len(records) - 1, STEPS).round().astype(int))]


def log10(values: Array) -> Array:
    """log10 where that is finite, else NaN."""
    with np.errstate(all="ignore"):
        logs = np.log10(values)
    return np.asarray(np.where(np.isfinite(logs), logs, np.nan))


class Curve(NamedTuple):
    """A line with its band, in the axis's own unit."""

    x: Array
    mean: Array
    low: Array
    high: Array


def curve(x: Sequence[float], e: Estimate, logarithmic: bool) -> Curve:
    """An estimate, made ready to draw; the end of an interval that has no logarithm is drawn to the picture's edge."""
    if not logarithmic:
        return Curve(np.asarray(x), *(np.where(np.isfinite(v), v, np.nan) for v in (e.mean, e.low, e.high)))
    low = log10(np.maximum(e.low, 5e-324))
    high = log10(np.minimum(e.high, np.finfo(np.float64).max))
    return Curve(np.asarray(x), log10(e.mean), low, high)


def draw(axes: Axes, line: Curve, colour: str, label: str, style: str = "-", marker: str = "o") -> Curve:
    """A line, with markers unless they would be a crowd, and its band."""
    marks = marker if len(line.x) <= 40 else ""
    axes.plot(line.x, line.mean, style, marker=marks, ms=4, color=colour, label=label)
    if np.isfinite(line.low).any():
        axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, lw=0)
    return line


def limits(lines: Sequence[Curve], least: float = 0.0) -> tuple[float, float] | None:
    """Of an axis: around all means; bands may ask for more room, but for no more than half as much again."""
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
    """Limits and ticks of a vertical axis that shows log10 of what its labels say."""
    ends = limits(lines, least=0.3)
    if ends is None:
        axes.set_yticks([])
        say(axes, "no finite value above 0")
        return
    places, labels = log_ticks(*ends)
    axes.set_ylim(*ends)
    axes.yaxis.set_major_locator(FixedLocator(places))
    axes.yaxis.set_major_formatter(FixedFormatter(labels))


def log_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Places (log10) and labels: powers of ten, or 1, 2, 5 times them on a short axis."""
    if high - low >= 2.5:
        step = next(s for s in (1, 2, 3, 5, 10, 20, 30, 50, 100, 10**9) if (high - low) / s <= 8)
        powers = range(math.ceil(low / step) * step, math.floor(high) + 1, step)
        return [float(p) for p in powers], [f"$10^{{{p}}}$" for p in powers]
    for mantissas in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(1 + k / 20 for k in range(180))):
        found = [
            (math.log10(m) + p, f"{m:g}", p)
            for p in range(math.floor(low), math.ceil(high) + 1)
            for m in mantissas
            if low <= math.log10(m) + p <= high
        ]
        if len(found) >= 3:
            found = found[:: math.ceil(len(found) / 8)]
            return [place for place, _, _ in found], [_number(m, p) for _, m, p in found]
    return [(low + high) / 2], [_number(f"{10 ** ((low + high) / 2 % 1):.3g}", math.floor((low + high) / 2))]


def _number(mantissa: str, power: int) -> str:
    if -3 <= power <= 3:
        return f"{float(mantissa) * 10.0**power:.4g}"
    return f"$10^{{{power}}}$" if mantissa == "1" else f"${mantissa}\\cdot 10^{{{power}}}$"


def layer_ticks(layers: Sequence[int]) -> list[int]:
    """Evenly spaced from the first layer on, if possible to the last."""
    steps = max(layers) - min(layers)
    least = max(1, math.ceil(steps / 8))
    stride = next((s for s in range(least, 2 * least + 1) if steps % s == 0), least)
    return list(range(min(layers), max(layers) + 1, stride))


def layer_axis(axes: Axes, layers: Sequence[int]) -> None:
    """The horizontal axis of a profile."""
    margin = 0.03 * (max(layers) - min(layers)) + 0.2
    axes.set(xlabel=LAYER, xticks=layer_ticks(layers), xlim=(min(layers) - margin, max(layers) + margin))


def ordinal_ticks(numbers: Sequence[int], count: int) -> tuple[list[int], list[str]]:
    """Some places of a list, evenly chosen, and what stands there."""
    places = np.unique(np.linspace(0, len(numbers) - 1, min(len(numbers), count)).round().astype(int)).tolist()
    return places, [str(numbers[p]) for p in places]


def moments(summary: Summary) -> list[tuple[int, str]]:
    """Which records of a probe to show, and their names: start and end, or the start alone."""
    return [(0, "start"), (-1, "end")] if len(summary.steps("delta_rms") or [0]) > 1 else [(0, "start")]


def legend_below(figure: Figure, axes: Axes) -> None:
    """One legend for all panels, that of one of them."""
    columns = 3 if figure.get_figwidth() > 8 else 1
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def has_line(line: Curve) -> bool:
    """Whether there is more than a point to draw: little is left of a profile whose network has diverged."""
    return int(np.isfinite(line.mean).sum()) > 1 or len(line.x) == 1


def say(axes: Axes, text: str) -> None:
    """Words instead of a picture."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)


def panels(count: int, height: float, width: float = 9.0, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side; one alone is not as wide."""
    figure = Figure(figsize=(width if count > 1 else 0.68 * width, height))
    return figure, list(figure.subplots(1, count, squeeze=False, sharey=sharey)[0])
