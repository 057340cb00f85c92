"""Pictures of a run and of a sweep. Okabe-Ito colours: they differ for every kind of colour vision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from engine.arrays import Array
from pipeline.analysis.estimates import estimate
from pipeline.analysis.summary import Summary
from pipeline.training.records import Record

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "figure.constrained_layout.use": True,
}
LABELS = {
    "delta_rms": "δ, per example: √⟨‖δ‖²⟩",
    "gradient_norm": "weight gradient of the batch: ‖∂C/∂W‖",
}


def profile(summary: Summary, title: str, theory: Mapping[str, Any] | None = None) -> Figure | None:
    """Gradient norm and δ against layer, at the start and at the end, with the replicates' 95% interval.

    Args:
        theory: what is expected of δ at the start, with the band of one example (:mod:`pipeline.analysis.expectation`).
    """
    if not any(summary.at(probe, 0) for probe in LABELS):
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4))
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, index, when in ((left, 0, "start"), (right, -1, "end")):
            step = 0
            for (probe, label), colour, marker in zip(LABELS.items(), (BLUE, ORANGE), "os", strict=True):
                record = summary.at(probe, index)
                if record is None:
                    continue
                step = record.step
                _band(axes, record, label, colour, marker)
            if theory is not None and index == 0:
                _draw_theory(axes, theory)
            axes.set(yscale="log", xlabel="layer (1 is next to the input)", title=f"{when} of training (step {step})")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.set_ylabel("norm")
        left.legend(frameon=False)
        figure.suptitle(title)
    return figure


def _draw_theory(axes: matplotlib.axes.Axes, theory: Mapping[str, Any]) -> None:
    """δ as expected, anchored at layer L, and the 95% band of one example's δ at finite width."""
    layers = theory["layers"]
    middle, low, high = (np.array(theory[k], dtype=np.float64) for k in ("delta_rms", "low", "high"))
    if not (middle > 0).any():  # neither of NaN nor of 0 is there a logarithm
        return
    axes.plot(layers, middle, color="black", lw=1, ls="--", label="δ by mean-field theory")
    axes.fill_between(layers, low, high, color="black", alpha=0.08, lw=0)


def _band(axes: matplotlib.axes.Axes, record: Record, label: str, colour: str, marker: str) -> None:
    e = estimate(record.values, record.geometric)
    positive = np.where(np.isfinite(e.mean) & (e.mean > 0), e.mean, np.nan)
    axes.plot(record.layers, positive, marker=marker, ms=4, color=colour, label=label)
    if np.isfinite(e.low).any():
        axes.fill_between(record.layers, e.low, e.high, color=colour, alpha=0.2, lw=0)


def overlay(runs: Sequence[tuple[str, Record | None]], colours: Sequence[str], title: str) -> Figure | None:
    """One line a run: a norm against layer, log axis, with the replicates' 95% interval."""
    if not any(record for _, record in runs):
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.5))
        axes = figure.subplots()
        for (name, record), colour in zip(runs, colours, strict=True):
            if record is not None:
                _band(axes, record, name, colour, "o")
        axes.set(yscale="log", xlabel="layer (1 is next to the input)", ylabel=LABELS["delta_rms"], title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside right upper", frameon=False)
    return figure


def heat_map(summary: Summary, probe: str, title: str) -> Figure | None:
    """log10 of a probe, layer against recorded step (evenly spaced, labelled), mean over replicates."""
    records = [r for r in summary.records if r.probe == probe]
    if len(records) < 2:
        return None
    with np.errstate(divide="ignore"):
        values = np.stack([np.log10(estimate(r.values, r.geometric).mean) for r in records], axis=1)
    values[~np.isfinite(values)] = np.nan
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(8, 4))
        axes = figure.subplots()
        image = axes.imshow(values, aspect="auto", origin="lower", cmap="viridis", interpolation="nearest")
        layers = records[0].layers
        ticks = np.unique(np.linspace(0, len(layers) - 1, min(len(layers), 10)).round().astype(int))
        axes.set_yticks(ticks, [str(layers[t]) for t in ticks])
        ticks = np.unique(np.linspace(0, len(records) - 1, min(len(records), 12)).round().astype(int))
        axes.set_xticks(ticks, [str(records[t].step) for t in ticks])
        axes.set(xlabel="step (scheduled steps, evenly spaced)", ylabel="layer", title=title)
        figure.colorbar(image, label=f"log₁₀ {probe}")
    return figure


def grid(
    values: Sequence[tuple[str, Array, str, str]],
    rows: Sequence[str],
    columns: Sequence[str],
    names: tuple[str, str],
    title: str,
) -> Figure:
    """Heat maps side by side over the same two swept keys.

    Args:
        values: for each map its title, its numbers [rows, columns], the format of a cell's text and its colour map.
        names: what rows and columns are.
    """
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        width = max(3.2, 0.9 * len(columns) + 1.8)
        figure = Figure(figsize=(width * len(values), max(2.4, 0.6 * len(rows) + 1.6)))
        for axes, (label, numbers, form, colours) in zip(
            np.atleast_1d(figure.subplots(1, len(values))), values, strict=True
        ):
            finite = numbers[np.isfinite(numbers)]
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
            norm = Normalize(low, high if high > low else low + 1)
            colour_map = matplotlib.colormaps[colours]
            axes.imshow(numbers, aspect="auto", cmap=colour_map, norm=norm)
            for (i, j), number in np.ndenumerate(numbers):
                shade = colour_map(norm(number)) if np.isfinite(number) else (1, 1, 1, 1)
                dark = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] < 0.5
                text = format(round(number, 6) + 0.0, form).replace("-0.00", "0.00") if np.isfinite(number) else "–"
                axes.text(j, i, text, ha="center", va="center", color="white" if dark else "black")
            axes.set_xticks(range(len(columns)), columns)
            axes.set_yticks(range(len(rows)), rows)
            axes.set(xlabel=names[1], ylabel=names[0], title=label)
        figure.suptitle(title)
    return figure


HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def run_colours(swept: Sequence[Mapping[str, str]]) -> list[str]:
    """A colour a run: its hue from the first swept key, its lightness from the other keys."""
    hues, rest = ([tuple(list(cell.values())[part]) for cell in swept] for part in (slice(0, 1), slice(1, None)))
    hue_order, rest_order = list(dict.fromkeys(hues)), list(dict.fromkeys(rest))
    colours = []
    for hue, other in zip(hues, rest, strict=True):
        base = np.array(matplotlib.colors.to_rgb(HUES[hue_order.index(hue) % len(HUES)]))
        towards_white = 0.6 * (1 - (rest_order.index(other) + 1) / len(rest_order))
        colours.append(matplotlib.colors.to_hex(tuple(base + (1 - base) * towards_white)))
    return colours
