"""Norms against layer: one run at the start and at the end of training, and all runs of a sweep overlaid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.analysis.estimates import estimate
from pipeline.analysis.summary import RunningSummary, Summary
from pipeline.reports.figures.style import (
    BLUE,
    CURVES,
    ORANGE,
    Curve,
    NotebookFigure,
    ReportFigure,
    annotate,
    curve,
    draw,
    has_line,
    layer_axis,
    legend_below,
    log10,
    log_axis,
    panels,
    plot_label,
    run_colours,
    start_and_end,
)
from pipeline.tracking.logged_run import Theory
from pipeline.training.records import Record
from pipeline.wording import counted

NORMS = (  # probe, label, colour, marker
    ("delta_rms", "δ of one example, √⟨‖δ‖²⟩", BLUE, "o"),
    ("gradient_norm", "weight gradient of the batch, ‖∂C/∂W‖", ORANGE, "s"),
)
PROBES = tuple(probe for probe, *_ in NORMS)
FIXED = CURVES | {"figure.constrained_layout.use": False}  # the solver takes longer than the drawing
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 8.4, 1.15, 0.15, 0.4, 0.55  # inches
PANEL, ROW, X_LABEL, Y_LABEL = 3.6, 0.24, 0.3, 0.25  # inches: height of the panel and a legend's row, place of labels
TITLE = 90  # most characters
THEORY = 3  # theory is drawn above the measurements, which often hide it otherwise
MOST_RUNS, MOST_NAMES = 200, 24  # lines in an overlay; names in its legend


# One run


def run_plot(summary: RunningSummary, theory: Theory | None, title: str) -> Figure | None:
    """Draw δ and the weight gradient against layer in one panel: dashed at the start, solid at the end.

    The margins are fixed: no layout solver draws the figure a second time.

    Args:
        summary: The records of the run. Without a record of either norm the result is None.
        theory: Predicted δ at the start, dotted, with its band.
        title: Title of the figure; a long one is shortened.
    """
    if not any(summary.at(probe, 0) for probe in PROBES):
        return None
    with matplotlib.rc_context(FIXED):
        figure = NotebookFigure()
        axes = figure.add_axes((0, 0, 1, 1))
        layers = tuple[int, ...]([1])
        lines = []
        shown = start_and_end(summary, *PROBES)
        for (probe, label, colour, marker), (index, when) in product(NORMS, shown):
            record = summary.at(probe, index)
            if record is None:
                continue
            layers = max(layers, record.layers, key=len)
            line = curve(record.layers, estimate(record.values, geometric=True), True)
            if has_line(line):
                name, style = f"{label}, {when} (step {record.step})", "-" if (index, when) == shown[-1] else "--"
                lines.append(draw(axes, line, colour, name, style, marker))
        if theory is not None:
            lines.append(_draw_theory(axes, theory, ":"))
        log_axis(axes, lines)
        axes.set_ylabel("norm (logarithmic)")
        layer_axis(axes, layers)
        _fix_layout(figure, axes)
        figure.suptitle(plot_label(title, TITLE), y=1 - 0.1 / figure.get_figheight(), fontsize=10)
    return figure


def _fix_layout(figure: Figure, axes: Axes) -> None:
    """Place panel, labels and legend by their sizes in inches."""
    handles, labels = axes.get_legend_handles_labels()
    legend = ROW * math.ceil(len(handles) / 2)
    height = TOP + PANEL + BOTTOM + legend
    figure.set_size_inches(WIDTH, height)
    panel_width = WIDTH - LEFT - RIGHT
    axes.set_position((LEFT / WIDTH, (BOTTOM + legend) / height, panel_width / WIDTH, PANEL / height))
    axes.xaxis.set_label_coords(0.5, -X_LABEL / PANEL)
    axes.yaxis.set_label_coords((Y_LABEL - LEFT) / panel_width, 0.5)
    if handles:
        figure.legend(
            handles, labels, loc="lower center", ncols=2, borderaxespad=0.2, columnspacing=1.0, handlelength=1.8
        )


def profile_plot(summary: Summary, theory: Theory | None) -> Figure | None:
    """Draw δ and the weight gradient against layer at the start and at the end, with 95% intervals over replicates.

    Args:
        summary: The records of the run. Without a record of either norm the result is None.
        theory: Predicted δ, drawn at the start.
    """
    if not any(summary.at(probe, 0) for probe in PROBES):
        return None
    shown = start_and_end(summary, *PROBES)
    with matplotlib.rc_context(CURVES):
        figure, panel_axes = panels(len(shown), 4.3, sharey=True)
        lines = []
        for axes, (index, when) in zip(panel_axes, shown, strict=True):
            lines += _profile_panel(axes, summary, index, when)
            if theory is not None and index == 0:
                lines.append(_draw_theory(axes, theory, "--"))
        log_axis(panel_axes[0], lines)
        panel_axes[0].set_ylabel("norm (logarithmic)")
        legend_below(figure, panel_axes[0])
    return figure


def profile_figure(summary: Summary, theory: Theory | None) -> ReportFigure | None:
    """Return the profile plot with its texts for a report."""
    figure = profile_plot(summary, theory)
    if figure is None:
        return None
    return ReportFigure("The gradient in every layer", figure, _profile_alt(summary, theory), _profile_caption(summary))


def _profile_panel(axes: Axes, summary: Summary, index: int, when: str) -> list[Curve]:
    lines: list[Curve] = []
    step, layers = 0, tuple[int, ...]([1])
    for probe, label, colour, marker in NORMS:
        record = summary.at(probe, index)
        if record is None:
            continue
        step, layers = record.step, max(layers, record.layers, key=len)
        line = curve(record.layers, estimate(record.values, geometric=True), True)
        if has_line(line):
            lines.append(draw(axes, line, colour, label, marker=marker))
    if not lines:
        annotate(axes, "too few finite values to draw")
    axes.set_title(f"{when} of training (step {step})")
    layer_axis(axes, layers)
    return lines


def _draw_theory(axes: Axes, theory: Theory, style: str) -> Curve:
    line = Curve(theory.layers, log10(theory.delta_rms), log10(theory.low), log10(theory.high))
    label = "theory: δ, and its 95% band for one example"
    axes.plot(line.x, line.mean, style, color="black", lw=1.2, label=label, zorder=THEORY)
    axes.fill_between(line.x, line.low, line.high, color="black", alpha=0.1, lw=0)
    return line._replace(low=line.mean, high=line.mean)


def _change(summary: Summary, index: int) -> str | None:
    """Return how δ changes from the last hidden layer to the first: 'falls by 3.2 decades'."""
    lost = summary.decades_lost("delta_rms", index)
    mean = float(estimate(lost).mean) if lost is not None else math.nan
    if not math.isfinite(mean):
        return None
    if abs(mean) < 0.3:
        return f"stays level (within {abs(mean):.2g} decades)"
    return f"{'falls' if mean > 0 else 'grows'} by {abs(mean):.3g} decades"


def _profile_caption(summary: Summary) -> str:
    changes = [
        f"{change} at the {when}"
        for index, when in start_and_end(summary, "delta_rms")
        if (change := _change(summary, index))
    ]
    if len(changes) == 2 and changes[0].split()[0] == changes[1].split()[0] != "stays":
        changes[1] = changes[1].partition(" ")[2]
    below = f"On its way down from layer {summary.hidden_layers} to layer 1, δ {' and '.join(changes)} of training"
    text = below if changes else "How large the error and the gradient are in each layer"
    return f"{text}; the shaded bands are the replicates' 95% intervals."


def _profile_alt(summary: Summary, theory: Theory | None) -> str:
    parts = []
    for index, when in start_and_end(summary, "delta_rms"):
        record = summary.at("delta_rms", index)
        if record is not None:
            e = estimate(record.values, geometric=True)
            ends = f"{e.mean[0]:.2g} in layer {record.layers[0]}, {e.mean[-1]:.2g} in layer {record.layers[-1]}"
            parts.append(f"δ at the {when} is {ends}")
    dashed = ", with theory's prediction as a dashed line" if theory else ""
    return f"Norms against layer on a logarithmic axis{dashed}. {'; '.join(parts)}."


# The runs of a sweep


class RunProfile(NamedTuple):
    """One run of an overlay.

    Attributes:
        swept: Values of the swept keys, which give the colour.
        start: Record of δ at the start of training.
        end: Record of δ at the end.
    """

    name: str
    swept: Mapping[str, str]
    start: Record | None
    end: Record | None = None
    theory: Theory | None = None


class _Line(NamedTuple):
    """A run with its colour."""

    run: RunProfile
    colour: str

    @property
    def hue(self) -> str:
        """Value of the first swept key."""
        return next(iter(self.run.swept.values()), self.run.name)


def overlay_plot(runs: Sequence[RunProfile], title: str = "") -> Figure | None:
    """Draw δ against layer of all runs at the start and, if there are records, at the end; theory is dashed, in black.

    Args:
        runs: At most the first ``MOST_RUNS`` with a record at the start are drawn. Without one the result is None.
        title: Title of the whole figure.
    """
    colours = run_colours([run.swept for run in runs])
    lines_of_runs = [_Line(run, colour) for run, colour in zip(runs, colours, strict=True)]
    shown = [line for line in lines_of_runs if line.run.start is not None][:MOST_RUNS]
    if not shown:
        return None
    with matplotlib.rc_context(CURVES):
        figure, axes = panels(2 if _was_trained(line.run for line in shown) else 1, 4.6, width=10.5, sharey=True)
        lines = [
            line
            for place, when in zip(axes, ("start", "end"), strict=False)
            for line in _overlay_panel(place, shown, when)
        ]
        log_axis(axes[0], lines)
        axes[0].set_ylabel("δ of one example, √⟨‖δ‖²⟩ (logarithmic)")
        figure.legend(handles=_overlay_legend(shown), loc="outside right upper")
        if title:
            figure.suptitle(title)
    return figure


def overlay_figure(runs: Sequence[RunProfile]) -> ReportFigure | None:
    """Return the overlay plot with its texts for a report."""
    figure = overlay_plot(runs)
    if figure is None:
        return None
    shown = [run for run in runs if run.start is not None][:MOST_RUNS]
    notes = "; black dashed lines are theory's" if any(run.theory for run in shown) else ""
    ends = [run.end.values for run in shown if run.end is not None]
    if _was_trained(shown) and not all(np.isfinite(values).any(axis=1).all() for values in ends):
        notes += "; a run whose replicates have all diverged has no line at the end"
    return ReportFigure(
        "All runs, layer by layer",
        figure,
        f"δ against layer of {counted(len(shown), 'run')} on a logarithmic axis, one line each.",
        f"A line that falls to the left loses the gradient on its way to the input, a level one keeps it{notes}.",
    )


def _was_trained(runs: Iterable[RunProfile]) -> bool:
    return any(run.end is not None and run.end.step > 0 for run in runs)


def _overlay_panel(axes: Axes, shown: Sequence[_Line], when: str) -> list[Curve]:
    lines = []
    for run, colour in shown:
        record = run.start if when == "start" else run.end
        if record is None:
            continue
        line = curve(record.layers, estimate(record.values, geometric=True), True)
        if not has_line(line):
            continue
        if len(shown) > MOST_NAMES:
            line = line._replace(low=np.full_like(line.mean, np.nan), high=np.full_like(line.mean, np.nan))
        lines.append(draw(axes, line, colour, run.name, marker="o" if len(shown) <= MOST_NAMES else ""))
        if when == "start" and run.theory is not None:
            axes.plot(run.theory.layers, log10(run.theory.delta_rms), "--", color="black", lw=1, zorder=THEORY)
    axes.set_title(f"{when} of training")
    layer_axis(axes, [1, max((int(max(line.x)) for line in lines), default=1)])
    return lines


def _overlay_legend(shown: Sequence[_Line]) -> list[Line2D]:
    """Return one entry for each run; for many runs, one for each value of the first swept key."""
    if len(shown) <= MOST_NAMES:
        entries = [(line.run.name, line.colour) for line in shown]
    else:
        entries = list({line.hue: line.colour for line in shown}.items())  # the darkest colour of a hue comes last
    handles = [
        Line2D([], [], color=colour, marker="o", ms=4, label=plot_label(name)) for name, colour in entries[:MOST_NAMES]
    ]
    theory = Line2D([], [], color="black", ls="--", lw=1, label="theory, at the start")
    return [*handles, *([theory] if any(line.run.theory for line in shown) else [])]
