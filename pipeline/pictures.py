"""More pictures of a run, from its logged records: for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from engine.exponents import INFINITE, NAN, SUBNORMAL, ZERO, label
from pipeline.figures import BLUE, GREEN, ORANGE, RED, STYLE
from pipeline.records import Record
from pipeline.statistics import estimate
from pipeline.summary import Summary


def summary_of(table: pd.DataFrame, hidden_layers: int, geometric: Mapping[str, bool]) -> Summary:
    """The records of a run, from its table; those with bins are left aside."""
    summary = Summary(hidden_layers)
    plain = table[table["bin"].isna()]
    for (step, probe), part in plain.groupby(["step", "probe"], sort=False):
        wide = part.assign(layer=part["layer"].fillna(-1).astype(int)).pivot_table(
            index="layer", columns="replicate", values="value", dropna=False
        )
        layers = tuple(int(n) for n in wide.index if n >= 0)
        summary.add(Record(int(str(step)), str(probe), layers, wide.to_numpy(), geometric.get(str(probe), False)))
    return summary


def curves(summary: Summary) -> Figure | None:
    """Cost and score on training and test set against step, with the replicates' 95% interval."""
    score = "r2" if summary.at("r2/test", 0) else "accuracy"
    if len(summary.steps("cost/train")) < 2:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6))
        for axes, quantity in zip(figure.subplots(1, 2), ("cost", score), strict=True):
            for part, colour in (("train", BLUE), ("test", ORANGE)):
                records = [r for r in summary.records if r.probe == f"{quantity}/{part}"]
                steps = [r.step for r in records]
                e = estimate(np.array([r.values[0] for r in records]))
                axes.plot(steps, e.mean, color=colour, marker="o", ms=3, label=part)
                axes.fill_between(steps, e.low, e.high, color=colour, alpha=0.2, lw=0)
            axes.set(xlabel="step", ylabel=quantity.replace("r2", "R²"))
        axes.legend(frameon=False)
    return figure


def activations(summary: Summary) -> Figure | None:
    """Mean and spread of a, and shares of saturated and dead units, against layer, at start and end."""
    if summary.at("activation_mean", 0) is None or summary.at("activation_std", 0) is None:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6))
        left, right = figure.subplots(1, 2)
        for index, when, style in ((0, "start", "-"), (-1, "end", "--")):
            for probe, name, colour in (("activation_mean", "mean of a", BLUE), ("activation_std", "std of a", ORANGE)):
                _line(left, summary.at(probe, index), f"{name}, {when}", colour, style)
            for probe, name, colour in (("saturated_fraction", "saturated", RED), ("dead_fraction", "dead", GREEN)):
                _line(right, summary.at(probe, index), f"{name}, {when}", colour, style)
        left.set(xlabel="layer (1 is next to the input)", ylabel="activation a")
        right.set(xlabel="layer (1 is next to the input)", ylabel="share of units", ylim=(-0.02, 1.02))
        left.legend(frameon=False)
        right.legend(frameon=False)
    return figure


def _line(axes: Any, record: Record | None, name: str, colour: str, style: str) -> None:
    if record is None:
        return
    e = estimate(record.values)
    axes.plot(record.layers, e.mean, style, color=colour, marker="o", ms=3, label=name)
    axes.fill_between(record.layers, e.low, e.high, color=colour, alpha=0.15, lw=0)


def exponents(table: pd.DataFrame, probe: str, title: str) -> Figure | None:
    """Share of numbers by floating-point exponent against recorded step, for the first, a middle and the last layer."""
    found = table[(table["probe"] == probe) & table["bin"].notna()]
    if found.empty:
        return None
    layers = sorted(found["layer"].dropna().astype(int).unique().tolist())
    chosen = sorted({layers[0], layers[len(layers) // 2], layers[-1]})
    bins = found["bin"].astype(int)
    usual = bins[(bins > SUBNORMAL) & (bins < INFINITE)]
    rows = [ZERO, SUBNORMAL, *range(int(usual.min()), int(usual.max()) + 1), INFINITE, NAN] if len(usual) else []
    if not rows:
        return None
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(9, 4.2))
        for axes, layer in zip(figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0], chosen, strict=True):
            part = found[found["layer"] == layer]
            counts = part.assign(bin=part["bin"].astype(int)).pivot_table(
                index="bin", columns="step", values="value", aggfunc="sum"
            )
            shares = counts.reindex(rows).fillna(0.0) / counts.sum()
            values = np.where(shares.to_numpy() > 0, shares.to_numpy(), np.nan)
            image = axes.imshow(values, aspect="auto", origin="lower", cmap="viridis", vmin=0, interpolation="nearest")
            ticks = [0, 1, *range(2, len(rows) - 2, max(1, (len(rows) - 4) // 8)), len(rows) - 2, len(rows) - 1]
            axes.set_yticks(ticks, [label(rows[t]) for t in ticks], fontsize=8)
            steps = list(counts.columns)
            places = np.unique(np.linspace(0, len(steps) - 1, min(5, len(steps))).round().astype(int))
            axes.set_xticks(places, [str(steps[p]) for p in places])
            axes.set(xlabel="step (recorded)", title=f"layer {layer}")
        figure.colorbar(image, label="share of the layer's numbers")
        figure.suptitle(title)
    return figure


def heat_maps(table: pd.DataFrame, keys: Sequence[str], quantities: Mapping[str, str]) -> Figure | None:
    """Maps of each quantity over the last two swept keys; small multiples over the values of the others.

    Args:
        table: one row a cell: the swept keys as text, the quantities as numbers.
        quantities: column -> title.
    """
    shown = {c: t for c, t in quantities.items() if c in table and np.isfinite(table[c].astype(float)).any()}
    if not keys or not shown:
        return None
    x, y = keys[-1], keys[-2] if len(keys) > 1 else None
    others = list(keys[:-2])
    groups = list(table.groupby(others, sort=False)) if others else [((), table)]
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(3.6 * len(shown) + 0.6, 2.8 * len(groups)))
        grid = figure.subplots(len(groups), len(shown), squeeze=False)
        for row, (values, part) in zip(grid, groups, strict=True):
            for axes, (column, title) in zip(row, shown.items(), strict=True):
                _map(axes, part, x, y, column)
                name = ", ".join(str(v) for v in (values if isinstance(values, tuple) else (values,)))
                axes.set_title(f"{title}\n{name}" if name else title, fontsize=10)
    return figure


def _map(axes: Any, part: pd.DataFrame, x: str, y: str | None, column: str) -> None:
    columns, rows = list(dict.fromkeys(part[x])), list(dict.fromkeys(part[y])) if y else [""]
    numbers = np.full((len(rows), len(columns)), np.nan)
    for _, cell in part.iterrows():
        numbers[rows.index(cell[y]) if y else 0, columns.index(cell[x])] = cell[column]
    image = axes.imshow(numbers, aspect="auto", cmap="cividis")
    low, high = image.get_clim()
    for (i, j), value in np.ndenumerate(numbers):
        if np.isfinite(value):
            dark = high == low or (value - low) / (high - low) < 0.5
            axes.text(j, i, f"{value:.2g}", ha="center", va="center", color="white" if dark else "black", fontsize=9)
    axes.set_xticks(range(len(columns)), [str(c) for c in columns])
    axes.set_yticks(range(len(rows)), [str(r) for r in rows])
    axes.set_xlabel(x.rpartition(".")[2])
    axes.set_ylabel(y.rpartition(".")[2] if y else "")
