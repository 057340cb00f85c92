"""Heat maps: a norm over layer and step, and the quantities of a sweep over its swept keys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from engine.arrays import Array
from pipeline.analysis.estimates import estimate
from pipeline.analysis.summary import Summary
from pipeline.reports.figures.curves import points_figure
from pipeline.reports.figures.quantities import CELLS, Quantity, capitalise, ordered, quantities_of
from pipeline.reports.figures.style import (
    LAYER,
    MAPS,
    MISSING,
    STEP,
    ReportFigure,
    category_axis,
    layer_ticks,
    log10,
    ordinal_ticks,
    panels,
    plot_label,
    subsample,
)
from pipeline.tracking.run_names import short_key
from pipeline.training.records import Record

TEXTS = 240  # most cells of a map with their numbers written in them


# Layer against step


def layer_by_step_plot(summary: Summary, probe: str, label: str) -> Figure | None:
    """Draw log10 of a probe as a heat map, layer against recorded step, mean over replicates.

    Args:
        summary: The records of the run. With fewer than two of the probe the result is None.
        probe: Name of the probe.
        label: Label of the colour bar.
    """
    records = _subsampled(summary, probe)
    if len(records) < 2:
        return None
    with matplotlib.rc_context(MAPS):
        figure, (axes,) = panels(1, 3.9, width=9 / 0.68)
        axes.set_facecolor(MISSING)
        image = axes.imshow(_log10_means(records), aspect="auto", origin="lower", cmap="viridis", interpolation="none")
        layers = records[0].layers
        ticks = [n for n in layer_ticks(layers) if n in layers]
        axes.set_yticks([layers.index(n) for n in ticks], [str(n) for n in ticks])
        axes.set_xticks(*ordinal_ticks([r.step for r in records], 12))
        axes.set(xlabel=f"{STEP}; recorded steps, evenly spaced", ylabel=LAYER)
        figure.colorbar(image, label=label, pad=0.02)
    return figure


NORMS = {  # probe -> its name, and the label of its colour bar
    "delta_rms": ("δ", "log₁₀ δ, √⟨‖δ‖²⟩ of one example"),
    "gradient_norm": ("The weight gradient", "log₁₀ ‖∂C/∂W‖ of the batch"),
}


def layer_by_step_figures(summary: Summary) -> list[ReportFigure]:
    """Return the heat maps of log10 of both norms with their texts for a report."""
    figures = [_layer_by_step_figure(summary, probe, *texts) for probe, texts in NORMS.items()]
    return [figure for figure in figures if figure is not None]


def _layer_by_step_figure(summary: Summary, probe: str, name: str, label: str) -> ReportFigure | None:
    figure = layer_by_step_plot(summary, probe, label)
    if figure is None:
        return None
    records = _subsampled(summary, probe)
    values = _log10_means(records)
    finite = values[np.isfinite(values)]
    span = f"{np.ptp(finite):.3g} decades lie between the darkest and the brightest" if finite.size else "none is"
    return ReportFigure(
        f"{name} while the network learns",
        figure,
        f"Heat map of log10 {probe}, {len(records[0].layers)} layers against {len(records)} steps "
        f"from {records[0].step} to {records[-1].step}. {span}.",
        "A column is one moment and its lowest cell is next to the input: where columns darken downwards the gradient "
        f"vanishes, where they brighten it explodes, and where it is grey it is zero or not finite; {span}.",
    )


def _subsampled(summary: Summary, probe: str) -> list[Record]:
    return subsample([r for r in summary.records if r.probe == probe])


def _log10_means(records: Sequence[Record]) -> Array:
    """Return log10 of the mean over replicates, [layers, steps]."""
    return np.stack([log10(estimate(r.values, r.geometric).mean) for r in records], axis=1)


# Over the swept keys


class _Map(NamedTuple):
    """A quantity of some cells of a sweep."""

    quantity: Quantity
    title: str
    cells: pd.DataFrame


def swept_figures(
    cells: pd.DataFrame, keys: Sequence[str], quantities: Sequence[Quantity] = CELLS
) -> list[ReportFigure]:
    """Draw each quantity over the swept keys: points over one key, maps over two, small multiples over more.

    Args:
        cells: Tidy, one row for each cell: the swept keys as text, the quantities as numbers.
        keys: The swept keys.
        quantities: The quantities to draw, if they were measured.
    """
    measured = quantities_of(cells, quantities)
    if not keys or not measured:
        return []
    if len(keys) == 1:
        return [points_figure(cells, keys[0], measured)]
    axes = sorted(keys, key=lambda k: -cells[k].nunique())[:2]
    rows, columns = sorted(axes, key=list(keys).index)
    facets = [k for k in keys if k not in axes]
    if not facets:
        return [_maps_figure([_Map(q, q.name, cells) for q in measured], cells, rows, columns, "Over the swept keys")]
    groups = [(_facet_title(facets, values), part) for values, part in cells.groupby(facets, sort=False)]
    return [
        _maps_figure([_Map(q, title, part) for title, part in groups], cells, rows, columns, capitalise(q.name))
        for q in measured
    ]


def _facet_title(keys: Sequence[str], values: object) -> str:
    chosen = values if isinstance(values, tuple) else (values,)
    return ", ".join(f"{short_key(k)} = {plot_label(str(v), 20)}" for k, v in zip(keys, chosen, strict=True))


def _maps_figure(maps: Sequence[_Map], cells: pd.DataFrame, rows: str, columns: str, title: str) -> ReportFigure:
    """Draw heat maps over two keys, all on the same rows and columns."""
    down, across = ordered(list(cells[rows])), ordered(list(cells[columns]))
    distinct = list(dict.fromkeys(m.quantity for m in maps))
    across_each, down_each = (0.62, 0.42) if len(down) * len(across) <= TEXTS else (0.2, 0.18)  # inches
    width = min(max(3.0, across_each * len(across) + 1.6), 9.0)
    height = min(max(2.3, down_each * len(down) + 1.5), 8.0)
    wide = min(len(maps), max(1, int(12 / width)))
    tall = math.ceil(len(maps) / wide)
    with matplotlib.rc_context(MAPS):
        figure = Figure(figsize=(width * wide, height * tall))
        grid = figure.subplots(tall, wide, squeeze=False).ravel()
        for axes, part in zip(grid, maps, strict=False):
            norm = part.quantity.norm(cells[part.quantity.column].to_numpy(np.float64))
            numbers = _pivot(part, rows, columns, down, across)
            image = _draw_map(axes, numbers, part.quantity, norm)
            category_axis(axes.yaxis, down)
            category_axis(axes.xaxis, across)
            axes.set(xlabel=plot_label(short_key(columns)), ylabel=plot_label(short_key(rows)))
            axes.set_title(part.title, fontsize=10)
            if len(distinct) > 1:
                figure.colorbar(image, ax=axes, pad=0.03, aspect=14)
        for axes in grid[len(maps) :]:
            axes.set_axis_off()
        if len(distinct) == 1:
            figure.colorbar(
                image, ax=list(grid), pad=0.02, aspect=16, shrink=1 / tall, anchor=(0.0, 1.0), label=distinct[0].name
            )
    return ReportFigure(
        title,
        figure,
        f"Heat maps over {short_key(rows)} and {short_key(columns)}. {'; '.join(q.span(cells) for q in distinct)}.",
        capitalise("; ".join(q.caption or q.name for q in distinct)) + ".",
    )


def _pivot(part: _Map, rows: str, columns: str, down: Sequence[str], across: Sequence[str]) -> Array:
    """Return the numbers [rows, columns]; the last run of a cell counts."""
    numbers = np.full((len(down), len(across)), np.nan)
    cells = part.cells
    for row, column, value in zip(cells[rows], cells[columns], cells[part.quantity.column], strict=True):
        numbers[down.index(row), across.index(column)] = value
    return numbers


def sweep_plot(
    maps: Sequence[tuple[str, Array, str, str]],
    rows: Sequence[str],
    columns: Sequence[str],
    names: tuple[str, str],
    title: str,
) -> Figure:
    """Draw heat maps in a row over the same two swept keys.

    Args:
        maps: The title of each map, its numbers [rows, columns], the format of a cell's text and the colour map.
        rows: Labels of the rows.
        columns: Labels of the columns.
        names: Names of rows and columns.
        title: Title of the whole figure.
    """
    with matplotlib.rc_context(MAPS):
        width = max(3.2, 0.9 * len(columns) + 1.8)
        figure = Figure(figsize=(width * len(maps), max(2.4, 0.6 * len(rows) + 1.6)))
        for axes, (label, numbers, form, colours) in zip(
            np.atleast_1d(figure.subplots(1, len(maps))), maps, strict=True
        ):
            quantity = Quantity("", label, form, colours)
            _draw_map(axes, numbers, quantity, quantity.norm(numbers))
            axes.set_xticks(range(len(columns)), columns)
            axes.set_yticks(range(len(rows)), rows)
            axes.set(xlabel=names[1], ylabel=names[0], title=label)
        figure.suptitle(title)
    return figure


def _draw_map(axes: Axes, numbers: Array, quantity: Quantity, norm: Normalize) -> AxesImage:
    colours = matplotlib.colormaps[quantity.colours]
    axes.set_facecolor(MISSING)
    image = axes.imshow(numbers, aspect="auto", cmap=colours, norm=norm, interpolation="none")
    if numbers.size <= TEXTS:
        for (i, j), value in np.ndenumerate(numbers):
            text = quantity.text(value) if np.isfinite(value) else "–"
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color=_text_colour(colours, norm, value))
    return image


def _text_colour(colours: Colormap, norm: Normalize, value: float) -> str:
    """Return white on dark colours, black on bright ones (luma after ITU-R BT.601)."""
    red, green, blue, _ = colours(norm(value)) if np.isfinite(value) else (1.0, 1.0, 1.0, 1.0)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
