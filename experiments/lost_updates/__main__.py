"""Trains conf/experiment/lost_updates.yaml in both types, prints the share of lost updates and draws it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from pipeline.analysis.estimates import Estimate, estimate
from pipeline.config.compose import compose_sweep
from pipeline.config.schema import build
from pipeline.reports.figures.style import BLUE, RED, STYLE
from pipeline.training.loop import run
from pipeline.training.records import Record

FIGURE = Path(__file__).with_name("figure.png")


def measured() -> dict[str, list[Record]]:
    """The probe's records, by dtype."""
    cells = compose_sweep(["experiment=lost_updates"])
    with threadpool_limits(1):
        return {
            cell.swept["dtype"]: [r for r in run(build(cell.config)) if r.probe == "lost_updates"] for cell in cells
        }


def over_run(records: list[Record]) -> Estimate:
    """Each layer's share, averaged over the recorded steps, with the interval over replicates."""
    return estimate(np.mean([r.values for r in records], axis=0))


def draw(found: Mapping[str, list[Record]]) -> Figure:
    """Share of lost updates against layer, a line a type."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4))
        axes = figure.subplots()
        for (dtype, records), colour, marker in zip(found.items(), (RED, BLUE), "os", strict=True):
            share, layers = over_run(records), records[0].layers
            axes.plot(layers, 100 * share.mean, color=colour, marker=marker, label=dtype, clip_on=False)
            axes.fill_between(layers, 100 * share.low, 100 * share.high, color=colour, alpha=0.2, lw=0)
        axes.set(
            xlabel="layer (1 is next to the input)",
            ylabel="updates lost to rounding (% of weights with g ≠ 0)",
            title="10 hidden sigmoid layers of 30, digits, η = 0.1, B = 10",
            ylim=(0, 100),
            xticks=layers,
        )
        axes.legend(frameon=False)
    return figure


def main() -> None:
    """Print the table and write the figure."""
    parser = argparse.ArgumentParser(prog="python -m experiments.lost_updates", description=__doc__)
    parser.add_argument("--figure", type=Path, default=FIGURE, help="where to draw it (default: beside this file)")
    options = parser.parse_args()
    found = measured()
    table = Table("layer", *found, title="updates lost to rounding, mean [95% interval] over replicates")
    shares = {dtype: over_run(records) for dtype, records in found.items()}
    for i, layer in enumerate(next(iter(found.values()))[0].layers):
        table.add_row(str(layer), *(f"{s.mean[i]:.2%} [{s.low[i]:.2%}, {s.high[i]:.2%}]" for s in shares.values()))
    Console().print(table)
    draw(found).savefig(options.figure, dpi=150)


if __name__ == "__main__":
    main()
