"""Pictures of a run for its report; None where nothing was recorded that could be drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.analysis.estimates import estimate
from pipeline.analysis.summary import Summary
from pipeline.reports.figures.profiles import BLUE, GREEN, ORANGE, RED
from pipeline.reports.figures.style import (
    FINE,
    LAYER,
    MISSING,
    PLAIN,
    STEP,
    Curve,
    ReportFigure,
    curve,
    draw,
    has_line,
    layer_axis,
    layer_ticks,
    legend_below,
    limits,
    log10,
    log_axis,
    moments,
    ordinal_ticks,
    panels,
    say,
    subsample,
)
from pipeline.tracking.logged_run import Theory
from pipeline.training.records import Record


class Trait(NamedTuple):
    """One quantity of a panel."""

    probe: str
    name: str
    colour: str


NORMS = (
    Trait("delta_rms", "δ of one example, √⟨‖δ‖²⟩", BLUE),
    Trait("gradient_norm", "weight gradient of the batch, ‖∂C/∂W‖", ORANGE),
)


def profiles(summary: Summary, theory: Theory | None) -> ReportFigure | None:
    """δ and the weight gradient against layer, at the start and at the end, with theory's line at the start."""
    if not any(summary.at(trait.probe, 0) for trait in NORMS):
        return None
    shown = moments(summary)
    with matplotlib.rc_context(FINE):
        figure, axes = panels(len(shown), 4.3, sharey=True)
        lines = []
        for place, (index, when) in zip(axes, shown, strict=True):
            lines += _profile_panel(place, summary, index, when)
            if theory is not None and index == 0:
                lines.append(_theory_line(place, theory))
        log_axis(axes[0], lines)
        axes[0].set_ylabel("norm (logarithmic)")
        legend_below(figure, axes[0])
    return ReportFigure("The gradient in every layer", figure, _profile_alt(summary, theory), _profile_caption(summary))


def _profile_panel(axes: Axes, summary: Summary, index: int, when: str) -> list[Curve]:
    lines: list[Curve] = []
    step, layers = 0, tuple[int, ...]([1])
    for trait, marker in zip(NORMS, "os", strict=True):
        record = summary.at(trait.probe, index)
        if record is None:
            continue
        step, layers = record.step, max(layers, record.layers, key=len)
        line = curve(record.layers, estimate(record.values, geometric=True), True)
        if has_line(line):
            lines.append(draw(axes, line, trait.colour, trait.name, marker=marker))
    if not lines:
        say(axes, "hardly a number is still finite")
    axes.set_title(f"{when} of training (step {step})")
    layer_axis(axes, layers)
    return lines


def _theory_line(axes: Axes, theory: Theory) -> Curve:
    with np.errstate(all="ignore"):
        line = Curve(theory.layers, log10(theory.delta_rms), log10(theory.low), log10(theory.high))
    axes.plot(line.x, line.mean, "--", color="black", lw=1.2, label="theory: δ, and its 95% band for one example")
    axes.fill_between(line.x, line.low, line.high, color="black", alpha=0.1, lw=0)
    return line._replace(low=line.mean, high=line.mean)


def falls(summary: Summary, index: int) -> str | None:
    """'falls by 3.2 decades', of δ from the last hidden layer to the first."""
    lost = summary.decades_lost("delta_rms", index)
    mean = float(estimate(lost).mean) if lost is not None else math.nan
    if not math.isfinite(mean):
        return None
    if abs(mean) < 0.3:
        return f"stays level (within {abs(mean):.2g} decades)"
    return f"{'falls' if mean > 0 else 'grows'} by {abs(mean):.3g} decades"


def _profile_caption(summary: Summary) -> str:
    told = [f"{found} at the {when}" for index, when in moments(summary) if (found := falls(summary, index))]
    if len(told) == 2 and told[0].split()[0] == told[1].split()[0] != "stays":
        told[1] = told[1].partition(" ")[2]
    below = f"On its way down from layer {summary.hidden_layers} to layer 1, δ {' and '.join(told)} of training"
    what = below if told else "How large the error and the gradient are in each layer"
    return f"{what}; the shaded bands are the replicates' 95% intervals."


def _profile_alt(summary: Summary, theory: Theory | None) -> str:
    parts = []
    for index, when in moments(summary):
        record = summary.at("delta_rms", index)
        if record is not None:
            e = estimate(record.values, geometric=True)
            ends = f"{e.mean[0]:.2g} in layer {record.layers[0]}, {e.mean[-1]:.2g} in layer {record.layers[-1]}"
            parts.append(f"δ at the {when} is {ends}")
    dashed = ", with theory's prediction as a dashed line" if theory else ""
    return f"Norms against layer on a logarithmic axis{dashed}. {'; '.join(parts)}."


def layer_by_step(summary: Summary) -> ReportFigure | None:
    """log10 δ as a heat map, layer against recorded step."""
    records = subsample([r for r in summary.records if r.probe == "delta_rms"])
    if len(records) < 2:
        return None
    values = np.stack([log10(estimate(r.values, geometric=True).mean) for r in records], axis=1)
    with matplotlib.rc_context(PLAIN):
        figure, (axes,) = panels(1, 3.9, width=9 / 0.68)
        axes.set_facecolor(MISSING)
        image = axes.imshow(values, aspect="auto", origin="lower", cmap="viridis", interpolation="none")
        layers = records[0].layers
        ticks = [n for n in layer_ticks(layers) if n in layers]
        axes.set_yticks([layers.index(n) for n in ticks], [str(n) for n in ticks])
        axes.set_xticks(*ordinal_ticks([r.step for r in records], 12))
        axes.set(xlabel=f"{STEP}; recorded steps, evenly spaced", ylabel=LAYER)
        figure.colorbar(image, label="log₁₀ δ, √⟨‖δ‖²⟩ of one example", pad=0.02)
    seen = np.isfinite(values)
    reach = f"{np.ptp(values[seen]):.3g} decades lie between the darkest and the brightest" if seen.any() else "none is"
    return ReportFigure(
        "δ while the network learns",
        figure,
        f"Heat map of log10 δ, {len(records[0].layers)} layers against {len(records)} steps from {records[0].step} to "
        f"{records[-1].step}. {reach}.",
        "A column is one moment and its lowest cell is next to the input: where columns darken downwards the gradient "
        f"vanishes, where they brighten it explodes, and where it is grey δ is zero or not finite; {reach}.",
    )


UNITS = (
    (
        "activation a, over units and examples",
        (Trait("activation_mean", "mean", BLUE), Trait("activation_std", "standard deviation", ORANGE)),
    ),
    (
        "share of a layer",
        (
            Trait("saturated_fraction", "saturated (unit, example) pairs", RED),
            Trait("dead_fraction", "dead units", GREEN),
        ),
    ),
    ("⟨z²⟩ (logarithmic)", (Trait("z_mean_square", "mean square of z", BLUE),)),
)


def activations(summary: Summary, theory: Theory | None) -> ReportFigure | None:
    """Mean and spread of a, saturated and dead shares, and the scale of z, against layer; dashed at the start."""
    shown = [(label, [t for t in traits if summary.at(t.probe, 0)]) for label, traits in UNITS]
    shown = [(label, traits) for label, traits in shown if traits]
    if not shown:
        return None
    with matplotlib.rc_context(FINE):
        figure, axes = panels(len(shown), 4.0, width=11 if len(shown) > 2 else 9)
        for place, (label, traits) in zip(axes, shown, strict=True):
            logarithmic = "logarithmic" in label
            lines = [line for trait in traits for line in _trait(place, summary, trait, logarithmic)]
            if logarithmic and theory is not None:
                mean = log10(theory.z_mean_square)
                place.plot(theory.layers, mean, ":", color="black", lw=1.4, label="theory, at the start")
                lines.append(Curve(theory.layers, mean, mean, mean))
            _unit_axes(place, label, lines, logarithmic)
    return ReportFigure("What the units do", figure, _unit_alt(summary), _unit_caption(summary))


def _trait(axes: Axes, summary: Summary, trait: Trait, logarithmic: bool) -> list[Curve]:
    lines = []
    for index, when in moments(summary):
        record = summary.at(trait.probe, index)
        if record is not None:
            line = curve(record.layers, estimate(record.values, geometric=logarithmic), logarithmic)
            style, marker = ("--", "") if when == "start" else ("-", "o")
            lines.append(draw(axes, line, trait.colour, f"{trait.name}, {when}", style, marker))
    return lines


def _unit_axes(axes: Axes, label: str, lines: Sequence[Curve], logarithmic: bool) -> None:
    if logarithmic:
        log_axis(axes, lines)
    elif label.startswith("share"):
        axes.set_ylim(-0.03, 1.03)
    elif (ends := limits(lines, least=1e-3)) is not None:
        axes.set_ylim(*ends)
    axes.set_ylabel(label)
    layer_axis(axes, [int(n) for n in max((line.x for line in lines), key=len)])
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1, borderaxespad=0.3)


def _worst(summary: Summary, probe: str) -> tuple[float, int] | None:
    """The largest mean over replicates at the last measurement, and its layer."""
    record = summary.at(probe, -1)
    means = estimate(record.values).mean if record is not None else np.array([])
    if record is None or not np.isfinite(means).any():
        return None
    return float(np.nanmax(means)), record.layers[int(np.nanargmax(means))]


def _unit_caption(summary: Summary) -> str:
    told = []
    for probe, name in (("saturated_fraction", "saturated"), ("dead_fraction", "dead")):
        worst = _worst(summary, probe)
        if worst is not None:
            told.append(f"{worst[0]:.0%} are {name}" + (f" (layer {worst[1]})" if worst[0] >= 0.005 else ""))
    end = ", at the end" if len(moments(summary)) > 1 else ""
    state = f"; here{end}, at most {' and '.join(told)}" if told else ""
    return (
        "A unit that is saturated or dead passes no error down, and a spread that shrinks or grows from layer to layer "
        f"takes the signal with it{state}."
    )


def _unit_alt(summary: Summary) -> str:
    parts = []
    for _, traits in UNITS:
        for trait in traits:
            record = summary.at(trait.probe, -1)
            if record is not None:
                e = estimate(record.values)
                parts.append(f"{trait.probe} {e.mean[0]:.2g} in layer {record.layers[0]}, {e.mean[-1]:.2g} in the last")
    return f"Against layer, dashed at the start, solid at the end: {'; '.join(parts)}."


SETS = {"train": "training", "test": "test"}
SCORES = {"cost": "cost", "accuracy": "accuracy", "r2": "R²"}


def learning(summary: Summary) -> ReportFigure | None:
    """Cost and score on training and test set against step."""
    series = {
        q: [(p, subsample([r for r in summary.records if r.probe == f"{q}/{p}"])) for p in ("train", "test")]
        for q in SCORES
    }
    shown = {q: [(p, r) for p, r in parts if len(r) > 1] for q, parts in series.items()}
    shown = {q: parts for q, parts in shown.items() if parts}
    if not shown:
        return None
    with matplotlib.rc_context(FINE):
        figure, axes = panels(len(shown), 3.9)
        for place, (quantity, parts) in zip(axes, shown.items(), strict=True):
            _learning_axes(place, quantity, parts)
        legend_below(figure, axes[0])
    told = [f"{SCORES[q]} on the {SETS[p]} set {_ends(r)}" for q, parts in shown.items() for p, r in parts]
    gap = "where the two part, the network fits what it was shown better than what it was not"
    clipped = " (values of R² below −1 lie outside)" if "r2" in shown else ""
    return ReportFigure(
        "What was learned",
        figure,
        f"Learning curves: {'; '.join(told)}.",
        f"Training set solid, test set dashed, with the replicates' 95% intervals{clipped}: {gap}.",
    )


def _learning_axes(axes: Axes, quantity: str, parts: Sequence[tuple[str, Sequence[Record]]]) -> None:
    found = [(part, [r.step for r in rs], estimate(np.array([r.values[0] for r in rs]))) for part, rs in parts]
    means = np.concatenate([e.mean for _, _, e in found])
    means = means[np.isfinite(means)]
    logarithmic = quantity == "cost" and bool(means.size and means.min() > 0 and means.max() > 10 * means.min())
    lines = []
    for (part, steps, e), (colour, style, marker) in zip(found, ((BLUE, "-", "o"), (RED, "--", "s")), strict=False):
        lines.append(draw(axes, curve(steps, e, logarithmic), colour, f"{SETS[part]} set", style, marker))
    ends = limits(lines, least=1e-9)
    if logarithmic:
        log_axis(axes, lines)
    elif quantity == "accuracy":
        axes.set_ylim(-0.02, 1.02)
    elif ends is not None:
        axes.set_ylim(*(ends if quantity == "cost" else (max(ends[0], -1.05), max(min(ends[1], 1.05), -0.9))))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel=STEP, ylabel=SCORES[quantity] + (" (logarithmic)" if logarithmic else ""))


def _ends(records: Sequence[Record]) -> str:
    first, last = (float(estimate(r.values[0]).mean) for r in (records[0], records[-1]))
    return f"goes from {first:.3g} to {last:.3g}"
