"""Pictures of a sweep for its report: every quantity over the swept keys, and the profiles of all runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from engine.arrays import Array
from pipeline.analysis.estimates import estimate
from pipeline.reports.figures.profiles import BLUE
from pipeline.reports.figures.style import (
    FINE,
    MISSING,
    PLAIN,
    Curve,
    ReportFigure,
    curve,
    draw,
    has_line,
    layer_axis,
    limits,
    log10,
    log_axis,
    panels,
    words,
)
from pipeline.tracking.logged_run import Theory
from pipeline.tracking.run_names import short_key
from pipeline.training.records import Record


@dataclass(frozen=True)
class Quantity:
    """A number that every cell of a sweep has.

    Attributes:
        column: in the table of cells; its interval, if any, in ``column_low`` and ``column_high``.
        name: what it is.
        form: of a cell's text.
        colours: a colour map.
        low, high: the ends of the colours; None for the smallest and the largest value.
        centred: whether 0 is in the middle of the colours.
    """

    column: str
    name: str
    form: str
    colours: str
    low: float | None = None
    high: float | None = None
    centred: bool = False

    def norm(self, values: Array) -> Normalize:
        """The scale for these values."""
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        if self.centred:
            reach = max(abs(low), abs(high), 1e-9)
            return Normalize(-reach, reach)
        low, high = low if self.low is None else self.low, high if self.high is None else self.high
        return Normalize(low, high if high > low else low + 1)

    def text(self, value: float) -> str:
        """A cell's."""
        shown = format(value, self.form)
        return shown.lstrip("-") if float(shown.rstrip("%")) == 0 else shown.replace("-", "−")


CELLS = (
    Quantity("decades_per_layer", "decades of δ lost per layer, start", ".2f", "PuOr_r", centred=True),
    Quantity("accuracy", "test accuracy, end", ".2f", "viridis", low=0.0, high=1.0),
    Quantity("r2", "test R², end", ".2f", "viridis", low=-1.0, high=1.0),
    Quantity("diverged", "share of replicates that diverged", ".0%", "YlOrRd", low=0.0, high=1.0),
)
CAPTIONS = {
    "decades_per_layer": "orange cells lose that many decades of δ per layer on the way to the input, purple ones gain",
    "accuracy": "bright cells have learned",
    "r2": "bright cells have learned",
    "diverged": "red cells ended in numbers that are not finite",
}


TEXTS = 240  # cells of a map that have room for their numbers


def ordered(values: Sequence[str]) -> list[str]:
    """Distinct values, numbers by size, others as they come."""
    distinct = list(dict.fromkeys(values))
    try:
        return sorted(distinct, key=float)
    except ValueError:
        return distinct


def over_keys(cells: pd.DataFrame, keys: Sequence[str], quantities: Sequence[Quantity] = CELLS) -> list[ReportFigure]:
    """Each quantity over the swept keys: points over one key, heat maps over two, small multiples over more.

    Args:
        cells: tidy, one row a cell: the swept keys as text, the quantities as numbers.
    """
    shown = [q for q in quantities if q.column in cells and np.isfinite(cells[q.column]).any()]
    shown = [q for q in shown if q.column != "diverged" or (cells[q.column] > 0).any()]
    if not keys or not shown:
        return []
    if len(keys) == 1:
        return [_over_one_key(cells, keys[0], shown)]
    axes = sorted(keys, key=lambda k: -cells[k].nunique())[:2]
    rows, columns = sorted(axes, key=list(keys).index)
    facets = [k for k in keys if k not in axes]
    if not facets:
        titled = [(q, q.name, cells) for q in shown]
        return [_maps(titled, cells, rows, columns, "Over the swept keys")]
    groups = [(_facet(facets, values), part) for values, part in cells.groupby(facets, sort=False)]
    return [_maps([(q, name, part) for name, part in groups], cells, rows, columns, _capital(q.name)) for q in shown]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _facet(keys: Sequence[str], values: object) -> str:
    chosen = values if isinstance(values, tuple) else (values,)
    return ", ".join(f"{short_key(k)} = {words(str(v), 20)}" for k, v in zip(keys, chosen, strict=True))


Panel = tuple[Quantity, str, pd.DataFrame]


def _maps(shown: Sequence[Panel], cells: pd.DataFrame, rows: str, columns: str, title: str) -> ReportFigure:
    """Heat maps over two keys, all on the same rows and columns."""
    down, across = ordered(list(cells[rows])), ordered(list(cells[columns]))
    distinct = list(dict.fromkeys(q for q, _, _ in shown))
    across_each, down_each = (0.62, 0.42) if len(down) * len(across) <= TEXTS else (0.2, 0.18)
    width = min(max(3.0, across_each * len(across) + 1.6), 9.0)
    wide = min(len(shown), max(1, int(12 / width)))
    tall = math.ceil(len(shown) / wide)
    with matplotlib.rc_context(PLAIN):
        height = min(max(2.3, down_each * len(down) + 1.5), 8.0)
        figure = Figure(figsize=(width * wide, height * tall))
        grid = figure.subplots(tall, wide, squeeze=False).ravel()
        for axes, (quantity, name, part) in zip(grid, shown, strict=False):
            norm = quantity.norm(cells[quantity.column].to_numpy(np.float64))
            numbers = _pivot(part, rows, columns, quantity.column, down, across)
            image = _map(axes, numbers, quantity, norm)
            _categories(axes.set_yticks, down)
            _categories(axes.set_xticks, across)
            _slanted(axes, across)
            axes.set(xlabel=words(short_key(columns)), ylabel=words(short_key(rows)))
            axes.set_title(name, fontsize=10)
            if len(distinct) > 1:
                figure.colorbar(image, ax=axes, pad=0.03, aspect=14)
        for axes in grid[len(shown) :]:
            axes.set_axis_off()
        if len(distinct) == 1:
            figure.colorbar(
                image, ax=list(grid), pad=0.02, aspect=16, shrink=1 / tall, anchor=(0.0, 1.0), label=distinct[0].name
            )
    told = "; ".join(f"{q.name}: {_reach(cells, q)}" for q in distinct)
    return ReportFigure(
        title,
        figure,
        f"Heat maps over {short_key(rows)} and {short_key(columns)}. {told}.",
        _capital("; ".join(CAPTIONS.get(q.column, q.name) for q in distinct)) + ".",
    )


def _reach(cells: pd.DataFrame, quantity: Quantity) -> str:
    values = cells[quantity.column]
    return f"from {quantity.text(float(values.min()))} to {quantity.text(float(values.max()))}"


def _pivot(
    part: pd.DataFrame, rows: str, columns: str, column: str, down: Sequence[str], across: Sequence[str]
) -> Array:
    """Numbers [rows, columns]; of several runs of one cell the last."""
    numbers = np.full((len(down), len(across)), np.nan)
    for row, at, value in zip(part[rows], part[columns], part[column], strict=True):
        numbers[down.index(row), across.index(at)] = value
    return numbers


def _map(axes: Axes, numbers: Array, quantity: Quantity, norm: Normalize) -> AxesImage:
    colours = matplotlib.colormaps[quantity.colours]
    axes.set_facecolor(MISSING)
    image = axes.imshow(numbers, aspect="auto", cmap=colours, norm=norm, interpolation="none")
    if numbers.size <= TEXTS:
        for (i, j), value in np.ndenumerate(numbers):
            text = quantity.text(value) if np.isfinite(value) else "–"
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color=_ink(colours, norm, value))
    return image


def _ink(colours: Colormap, norm: Normalize, value: float) -> str:
    red, green, blue, _ = colours(norm(value)) if np.isfinite(value) else (1.0, 1.0, 1.0, 1.0)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"


def _categories(put: Callable[[list[int], list[str]], object], names: Sequence[str]) -> None:
    """Names along an axis; of many, some."""
    places = list(range(0, len(names), math.ceil(len(names) / 16)))
    put(places, [words(names[p], 14) for p in places])


def _slanted(axes: Axes, names: Sequence[str]) -> None:
    """Long names below an axis stand in each other's way."""
    if max(len(words(name, 14)) for name in names) > 5 and len(names) > 3:
        axes.tick_params(axis="x", rotation=30)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")


def _over_one_key(cells: pd.DataFrame, key: str, shown: Sequence[Quantity]) -> ReportFigure:
    """Each quantity against the values of one key, with its interval."""
    names = ordered(list(cells[key]))
    with matplotlib.rc_context(FINE):
        figure, axes = panels(len(shown), 3.6, width=3.8 * max(len(shown), 2))
        for place, quantity in zip(axes, shown, strict=True):
            _points(place, cells, key, names, quantity)
        figure.align_xlabels()
    told = "; ".join(f"{q.name}: {_reach(cells, q)}" for q in shown)
    return ReportFigure(
        "Over the swept key",
        figure,
        f"Points against {short_key(key)}. {told}.",
        f"Each point is a run, the mean over its replicates with the 95% interval, against {short_key(key)}.",
    )


def _points(axes: Axes, cells: pd.DataFrame, key: str, names: Sequence[str], quantity: Quantity) -> None:
    mean = cells[quantity.column].to_numpy(np.float64)
    low, high = (
        cells.get(f"{quantity.column}_{end}", cells[quantity.column]).to_numpy(np.float64) for end in ("low", "high")
    )
    x = np.array([names.index(name) for name in cells[key]])
    errors = np.nan_to_num(np.array([mean - low, high - mean]))
    axes.errorbar(x, mean, errors, fmt="o", color=BLUE, capsize=4, ms=6)
    ends = limits([Curve(x, mean, low, high)], least=0.05)
    if quantity.column in ("accuracy", "diverged"):
        axes.set_ylim(-0.04, 1.04)
    elif ends is not None:
        axes.set_ylim(*(min(ends[0], -0.02), max(ends[1], 0.02)) if quantity.centred else ends)
    if quantity.centred:
        axes.axhline(0, color="black", lw=0.8)
    axes.set_xlim(-0.5, len(names) - 0.5)
    _categories(axes.set_xticks, names)
    _slanted(axes, names)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set(xlabel=words(short_key(key)), ylabel=quantity.name)


class Profiled(NamedTuple):
    """A run's δ by layer: its name, its colour, and the records at the start and at the end."""

    name: str
    colour: str
    hue: str
    records: tuple[Record | None, Record | None]
    theory: Theory | None


LINES, NAMED = 200, 24


def overlaid(runs: Sequence[Profiled]) -> ReportFigure | None:
    """δ against layer of all runs, at the start and at the end of training; dashed, theory."""
    runs = [r for r in runs if r.records[0] is not None][:LINES]
    if not runs:
        return None
    count = 2 if any(r.records[1] is not None and r.records[1].step > 0 for r in runs) else 1
    with matplotlib.rc_context(FINE):
        figure, axes = panels(count, 4.6, width=10.5, sharey=True)
        lines = [
            line
            for index, (place, when) in enumerate(zip(axes, ("start", "end"), strict=False))
            for line in _overlay(place, runs, index, f"{when} of training")
        ]
        log_axis(axes[0], lines)
        axes[0].set_ylabel("δ of one example, √⟨‖δ‖²⟩ (logarithmic)")
        handles = _overlay_legend(runs)
        figure.legend(handles=handles, loc="outside right upper")
    dashed = "; dashed lines are theory's" if any(r.theory for r in runs) else ""
    if count == 2 and any(
        r.records[1] is not None and not np.isfinite(r.records[1].values).any(axis=1).all() for r in runs
    ):
        dashed += "; a run whose replicates have all diverged has no line at the end"
    return ReportFigure(
        "All runs, layer by layer",
        figure,
        f"δ against layer of {len(runs)} runs on a logarithmic axis, one line each.",
        f"A line that falls to the left loses the gradient on its way to the input, a level one keeps it{dashed}.",
    )


def _overlay(axes: Axes, runs: Sequence[Profiled], index: int, title: str) -> list[Curve]:
    lines = []
    for run in runs:
        record = run.records[index]
        if record is None:
            continue
        line = curve(record.layers, estimate(record.values, geometric=True), True)
        if not has_line(line):
            continue
        if len(runs) > NAMED:
            line = line._replace(low=np.full_like(line.mean, np.nan), high=np.full_like(line.mean, np.nan))
        lines.append(draw(axes, line, run.colour, run.name, marker="o" if len(runs) <= NAMED else ""))
        if index == 0 and run.theory is not None:
            axes.plot(run.theory.layers, log10(run.theory.delta_rms), "--", color=run.colour, lw=1)
    axes.set_title(title)
    layer_axis(axes, [1, max((int(max(line.x)) for line in lines), default=1)])
    return lines


def _overlay_legend(runs: Sequence[Profiled]) -> list[Line2D]:
    """Every run by name; if they are many, the first swept key by hue."""
    if len(runs) <= NAMED:
        return [Line2D([], [], color=r.colour, marker="o", ms=4, label=words(r.name)) for r in runs]
    last = {r.hue: r.colour for r in runs}  # the darkest of a hue comes last
    return [
        Line2D([], [], color=colour, marker="o", ms=4, label=words(hue)) for hue, colour in list(last.items())[:NAMED]
    ]
