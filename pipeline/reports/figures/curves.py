"""Curves: statistics of the units against layer, cost and score against step, and points over a swept key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.analysis.estimates import estimate
from pipeline.analysis.summary import Summary
from pipeline.reports.figures.quantities import Quantity, ordered
from pipeline.reports.figures.style import (
    BLUE,
    CURVES,
    GREEN,
    ORANGE,
    RED,
    STEP,
    Curve,
    ReportFigure,
    category_axis,
    curve,
    draw,
    layer_axis,
    legend_below,
    limits,
    log10,
    log_axis,
    panels,
    plot_label,
    start_and_end,
    subsample,
)
from pipeline.tracking.logged_run import Theory
from pipeline.tracking.run_names import short_key
from pipeline.training.records import Record

SETS = {"train": "training", "validation": "validation", "test": "test"}
SET_STYLES = {"train": (BLUE, "-", "o"), "validation": (GREEN, "-.", "^"), "test": (RED, "--", "s")}
LINES = {"-": "solid", "-.": "dash-dotted", "--": "dashed"}
SCORES = {"cost": "cost", "accuracy": "accuracy", "r2": "R²"}


# Units against layer


class Statistic(NamedTuple):
    """A statistic of the units of a layer."""

    probe: str
    name: str
    colour: str


class Panel(NamedTuple):
    """Statistics that share an axis."""

    label: str
    statistics: Sequence[Statistic]
    is_logarithmic: bool = False
    is_share: bool = False


UNIT_PANELS = (
    Panel(
        "activation a, over units and examples",
        (Statistic("activation_mean", "mean", BLUE), Statistic("activation_std", "standard deviation", ORANGE)),
    ),
    Panel(
        "share of a layer",
        (
            Statistic("saturated_fraction", "saturated (unit, example) pairs", RED),
            Statistic("dead_fraction", "dead units", GREEN),
        ),
        is_share=True,
    ),
    Panel("⟨z²⟩ (logarithmic)", (Statistic("z_mean_square", "mean square of z", BLUE),), is_logarithmic=True),
)
UNIT_PROBES = tuple(statistic.probe for panel in UNIT_PANELS for statistic in panel.statistics)


def unit_figure(summary: Summary, theory: Theory | None) -> ReportFigure | None:
    """Draw mean and spread of a, saturated and dead shares, and ⟨z²⟩ against layer; dashed at the start."""
    measured = [p._replace(statistics=[s for s in p.statistics if summary.at(s.probe, 0)]) for p in UNIT_PANELS]
    shown = [panel for panel in measured if panel.statistics]
    if not shown:
        return None
    with matplotlib.rc_context(CURVES):
        figure, panel_axes = panels(len(shown), 4.0, width=11 if len(shown) > 2 else 9)
        for axes, panel in zip(panel_axes, shown, strict=True):
            lines = [line for s in panel.statistics for line in _draw_statistic(axes, summary, s, panel)]
            if panel.is_logarithmic and theory is not None:
                mean = log10(theory.z_mean_square)
                axes.plot(theory.layers, mean, ":", color="black", lw=1.4, label="theory, at the start")
                lines.append(Curve(theory.layers, mean, mean, mean))
            _unit_axes(axes, panel, lines)
    return ReportFigure("What the units do", figure, _unit_alt(summary), _unit_caption(summary))


def _draw_statistic(axes: Axes, summary: Summary, statistic: Statistic, panel: Panel) -> list[Curve]:
    lines = []
    for index, when in start_and_end(summary, *UNIT_PROBES):
        record = summary.at(statistic.probe, index)
        if record is not None:
            e = estimate(record.values, geometric=panel.is_logarithmic)
            style, marker = ("--", "") if when == "start" else ("-", "o")
            line = curve(record.layers, e, panel.is_logarithmic)
            lines.append(draw(axes, line, statistic.colour, f"{statistic.name}, {when}", style, marker))
    return lines


def _unit_axes(axes: Axes, panel: Panel, lines: Sequence[Curve]) -> None:
    if panel.is_logarithmic:
        log_axis(axes, lines)
    elif panel.is_share:
        axes.set_ylim(-0.03, 1.03)
    elif (ends := limits(lines, least=1e-3)) is not None:
        axes.set_ylim(*ends)
    axes.set_ylabel(panel.label)
    layer_axis(axes, [int(n) for n in max((line.x for line in lines), key=len)])
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1, borderaxespad=0.3)


def _worst_layer(summary: Summary, probe: str) -> tuple[float, int] | None:
    """Return the largest mean over replicates at the last measurement, and its layer."""
    record = summary.at(probe, -1)
    means = estimate(record.values).mean if record is not None else np.array([])
    if record is None or not np.isfinite(means).any():
        return None
    return float(np.nanmax(means)), record.layers[int(np.nanargmax(means))]


def _unit_caption(summary: Summary) -> str:
    shares = []
    for probe, name in (("saturated_fraction", "saturated"), ("dead_fraction", "dead")):
        worst = _worst_layer(summary, probe)
        if worst is not None:
            shares.append(f"{worst[0]:.0%} are {name}" + (f" (layer {worst[1]})" if worst[0] >= 0.005 else ""))
    end = ", at the end" if len(start_and_end(summary, *UNIT_PROBES)) > 1 else ""
    state = f"; here{end}, at most {' and '.join(shares)}" if shares else ""
    return (
        "A unit that is saturated or dead passes no error down, and a spread that shrinks or grows from layer to layer "
        f"takes the signal with it{state}."
    )


def _unit_alt(summary: Summary) -> str:
    parts = []
    for probe in UNIT_PROBES:
        record = summary.at(probe, -1)
        if record is not None:
            e = estimate(record.values)
            parts.append(f"{probe} {e.mean[0]:.2g} in layer {record.layers[0]}, {e.mean[-1]:.2g} in the last")
    return f"Against layer, dashed at the start, solid at the end: {'; '.join(parts)}."


# Learning curves


def learning_figure(summary: Summary) -> ReportFigure | None:
    """Draw cost and score on each set against step, with 95% intervals over replicates."""
    series = {q: [(p, subsample([r for r in summary.records if r.probe == f"{q}/{p}"])) for p in SETS] for q in SCORES}
    shown = {q: [(p, r) for p, r in parts if len(r) > 1] for q, parts in series.items()}
    shown = {q: parts for q, parts in shown.items() if parts}
    if not shown:
        return None
    with matplotlib.rc_context(CURVES):
        figure, panel_axes = panels(len(shown), 3.9)
        for axes, (quantity, parts) in zip(panel_axes, shown.items(), strict=True):
            _learning_panel(axes, quantity, parts)
        legend_below(figure, panel_axes[0])
    changes = [f"{SCORES[q]} on the {SETS[p]} set {_change(r)}" for q, parts in shown.items() for p, r in parts]
    sets = list(dict.fromkeys(p for parts in shown.values() for p, _ in parts))
    styles = ", ".join(f"{SETS[p]} set {LINES[SET_STYLES[p][1]]}" for p in sets)
    clipped = " (values of R² below −1 lie outside)" if "r2" in shown else ""
    return ReportFigure(
        "What was learned",
        figure,
        f"Learning curves: {'; '.join(changes)}.",
        f"{styles.capitalize()}, with the replicates' 95% intervals{clipped}: where training and other sets part, the "
        "network fits what it was shown better than what it was not.",
    )


def _learning_panel(axes: Axes, quantity: str, parts: Sequence[tuple[str, Sequence[Record]]]) -> None:
    series = [(part, [r.step for r in rs], estimate(np.array([r.values[0] for r in rs]))) for part, rs in parts]
    means = np.concatenate([e.mean for _, _, e in series])
    means = means[np.isfinite(means)]
    is_logarithmic = quantity == "cost" and bool(means.size and means.min() > 0 and means.max() > 10 * means.min())
    lines = []
    for part, steps, e in series:
        colour, style, marker = SET_STYLES[part]
        lines.append(draw(axes, curve(steps, e, is_logarithmic), colour, f"{SETS[part]} set", style, marker))
    ends = limits(lines, least=1e-9)
    if is_logarithmic:
        log_axis(axes, lines)
    elif quantity == "accuracy":
        axes.set_ylim(-0.02, 1.02)
    elif ends is not None:
        axes.set_ylim(*(ends if quantity == "cost" else (max(ends[0], -1.05), max(min(ends[1], 1.05), -0.9))))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel=STEP, ylabel=SCORES[quantity] + (" (logarithmic)" if is_logarithmic else ""))


def _change(records: Sequence[Record]) -> str:
    first, last = (float(estimate(r.values[0]).mean) for r in (records[0], records[-1]))
    return f"goes from {first:.3g} to {last:.3g}"


# Points over one swept key


def points_figure(cells: pd.DataFrame, key: str, quantities: Sequence[Quantity]) -> ReportFigure:
    """Draw each quantity of a sweep's cells against the values of one key, with its interval.

    Args:
        cells: Tidy, one row for each cell: the swept key as text, the quantities as numbers.
        key: The swept key.
        quantities: The quantities to draw, a panel each.
    """
    names = ordered(list(cells[key]))
    with matplotlib.rc_context(CURVES):
        figure, panel_axes = panels(len(quantities), 3.6, width=3.8 * max(len(quantities), 2))
        for axes, quantity in zip(panel_axes, quantities, strict=True):
            _points_panel(axes, cells, key, names, quantity)
        figure.align_xlabels()
    return ReportFigure(
        "Over the swept key",
        figure,
        f"Points against {short_key(key)}. {'; '.join(q.span(cells) for q in quantities)}.",
        f"Each point is a run, the mean over its replicates with the 95% interval, against {short_key(key)}.",
    )


def _points_panel(axes: Axes, cells: pd.DataFrame, key: str, names: Sequence[str], quantity: Quantity) -> None:
    mean, low, high = (
        cells.get(f"{quantity.column}{end}", cells[quantity.column]).to_numpy(np.float64)
        for end in ("", "_low", "_high")
    )
    x = np.array([names.index(name) for name in cells[key]])
    errors = np.nan_to_num(np.array([mean - low, high - mean]))
    axes.errorbar(x, mean, errors, fmt="o", color=BLUE, capsize=4, ms=6)
    ends = limits([Curve(x, mean, low, high)], least=0.05)
    if quantity.column in ("accuracy", "diverged"):
        axes.set_ylim(-0.04, 1.04)
    elif ends is not None:
        axes.set_ylim(*(min(ends[0], -0.02), max(ends[1], 0.02)) if quantity.is_centred else ends)
    if quantity.is_centred:
        axes.axhline(0, color="black", lw=0.8)
    axes.set_xlim(-0.5, len(names) - 0.5)
    category_axis(axes.xaxis, names)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set(xlabel=plot_label(short_key(key)), ylabel=quantity.name)
