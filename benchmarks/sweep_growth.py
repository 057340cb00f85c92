"""Measure how time and memory grow with depth, width, batch, stack, cells and steps, against the arithmetic work."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import ArrayLike

from benchmarks.sweep_commands import AT_INITIALISATION, new_store, run_sweep_command
from benchmarks.sweep_page import Goal, Outcome, markdown_table
from benchmarks.sweep_stacks import prepared_jobs, train_together
from pipeline.config.compose import compose_sweep
from pipeline.reports.figures.style import BLUE, GREEN, ORANGE, STYLE
from pipeline.sweeps.plan import plan_sweep
from pipeline.sweeps.stacks import plan_stacks
from pipeline.training.prepare import PreparedRun

MOST_EXPONENT = 1.1  # 1 is linear in the work
STEPS, TRAINING, PLANNING, RUNS, MEMORY = "training steps", "whole training", "planning", "runs", "memory"
COLOURS = {STEPS: BLUE, TRAINING: ORANGE, PLANNING: BLUE, RUNS: ORANGE, MEMORY: GREEN}


@dataclass(frozen=True)
class Growth:
    """Times and memory along one axis.

    Attributes:
        axis: The name of the axis, such as "depth".
        sizes: The values on the axis, ascending.
        work: The arithmetic work of each value: multiplications and additions, or cells.
        series: Seconds, or bytes for ``MEMORY``, of each value, by name.
    """

    axis: str
    sizes: Sequence[int]
    work: Sequence[float]
    series: dict[str, list[float]]

    def exponent(self, name: str, upper_half: bool = False) -> float:
        """Return the exponent of a series over all values, or over the upper half of them."""
        first = min(len(self.sizes) // 2, len(self.sizes) - 2) if upper_half else 0
        return fitted_exponent(self.work[first:], self.series[name][first:])


def fitted_exponent(work: ArrayLike, values: ArrayLike) -> float:
    """Return the slope of log value against log work, by least squares."""
    return float(np.polyfit(np.log(np.asarray(work)), np.log(np.asarray(values)), 1)[0])


@dataclass(frozen=True)
class Axis:
    """A quantity that grows while all others stay the same.

    Attributes:
        name: The name in the table.
        sizes: The values, ascending.
        overrides: Returns the overrides of the cells that train as one stack.
    """

    name: str
    sizes: Sequence[int]
    overrides: Callable[[int], list[str]]


BASE = [
    "data=gaussian_noise",
    "data.source.examples=6000",
    "data.source.inputs=64",
    "architecture=deep",
    "architecture.depth=5",
    "architecture.width=64",
    "activation=tanh",
    "steps=20",
    "optimizer.learning_rate=1e-6",
    "schedule@evaluation.schedule=first_and_last",
]


def _with(*overrides: str) -> list[str]:
    """Return the base with some overrides in place of those of the same keys."""
    keys = {text.partition("=")[0] for text in overrides}
    return [text for text in BASE if text.partition("=")[0] not in keys] + list(overrides)


def _learning_rates(cells: int) -> str:
    return ",".join(f"{(1 + n) * 1e-6:.6f}" for n in range(cells))


AXES = (
    Axis("depth", (2, 5, 10, 20, 50, 100, 200), lambda n: _with(f"architecture.depth={n}")),
    Axis("width", (8, 32, 128, 512, 1024, 2048), lambda n: _with(f"architecture.width={n}")),
    Axis("batch", (1, 4, 16, 64, 256, 1024, 4096), lambda n: _with(f"batching.size={n}")),
    Axis("stack", (1, 4, 16, 64, 256), lambda n: _with(f"optimizer.learning_rate={_learning_rates(n)}")),
    Axis("steps", (100, 1000, 10_000, 100_000), lambda n: _with("architecture.width=10", f"steps={n}")),
)
QUICK_AXES = (
    Axis("depth", (2, 4), lambda n: _with(f"architecture.depth={n}", "steps=2")),
    Axis("steps", (10, 20), lambda n: _with("architecture.width=10", f"steps={n}")),
)
CELLS, QUICK_CELLS = (1, 10, 100, 1000, 3000), (1, 4)


def arithmetic_work(runs: Sequence[PreparedRun]) -> float:
    """Return the multiplications and additions of the matrix products of the training steps of a stack."""
    total = 0
    for run in runs:
        products = sum(n * m for m, n in zip(run.sizes[:-1], run.sizes[1:], strict=True))
        batch = run.config.batching.largest(run.facts.train_examples)
        total += 6 * products * batch * run.config.replicates * (run.length.last_step + 1)
    return float(total)


def measure_axis(axis: Axis, rounds: int) -> Growth:
    """Time the training of each value on an axis in turns, then measure the peak of its memory.

    Args:
        axis: The axis.
        rounds: The number of rounds; the times are medians.
    """
    stacks = [[job.run for job in prepared_jobs(axis.overrides(size))] for size in axis.sizes]
    train_together(stacks[0])  # loads the data
    done = [[train_together(runs) for runs in stacks] for _ in range(rounds)]
    series = {
        STEPS: [float(np.median([t.step_seconds for t in turns])) for turns in zip(*done, strict=True)],
        TRAINING: [float(np.median([t.seconds for t in turns])) for turns in zip(*done, strict=True)],
        MEMORY: [float(_peak_bytes(runs)) for runs in stacks],
    }
    return Growth(axis.name, axis.sizes, [arithmetic_work(runs) for runs in stacks], series)


def _peak_bytes(runs: Sequence[PreparedRun]) -> int:
    """Return the largest memory that the training allocates."""
    gc.collect()
    tracemalloc.start()
    try:
        train_together(runs)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def measure_cells(counts: Sequence[int]) -> Growth:
    """Time the planning and the runs of sweeps at initialisation, one process at a time.

    Args:
        counts: The numbers of cells, ascending.
    """
    series: dict[str, list[float]] = {PLANNING: [], RUNS: [], MEMORY: []}
    _plan(_cells(1))  # loads the data
    for count in counts:
        series[PLANNING].append(_plan(_cells(count)))
        with new_store() as store:
            used = run_sweep_command(store, "--jobs", "1", *_cells(count))
        series[RUNS].append(used.run_seconds)
        series[MEMORY].append(float(used.command.peak_bytes))
    return Growth("cells", counts, [float(count) for count in counts], series)


def _cells(count: int) -> list[str]:
    """Return the overrides of a sweep at initialisation. Ten seeds at most, so that the data fit into memory."""
    seeds = min(count, 10)
    variances = ",".join(f"{1 + n / 1000:.3f}" for n in range(count // seeds))
    return [*AT_INITIALISATION, f"seed=range(0,{seeds})", f"init.weights.sigma_w2={variances}"]


def _plan(overrides: Sequence[str]) -> float:
    """Return the processor time of planning a sweep: compose, check, fingerprint, and group into stacks."""
    start = time.process_time()
    plan = plan_sweep(compose_sweep(overrides), quiet=True)
    plan_stacks(plan.jobs)
    return time.process_time() - start


SERIES = {axis.name: (STEPS, TRAINING, MEMORY) for axis in AXES} | {"cells": (PLANNING, RUNS, MEMORY)}


def exponent_goal(axis: str, series: str) -> Goal:
    """Return the goal of a series: at most linear in the work."""
    return Goal(f"{axis}: exponent of {series}", most=MOST_EXPONENT)


GROWTH_GOALS = tuple(exponent_goal(axis, series) for axis, names in SERIES.items() for series in names)


def time_growth(quick: bool) -> Outcome:
    """Measure the growth along all axes."""
    axes, counts, rounds = (QUICK_AXES, QUICK_CELLS, 1) if quick else (AXES, CELLS, 3)
    grown = [measure_axis(axis, rounds) for axis in axes]
    return growth_outcome([*grown, measure_cells(counts)])


def growth_outcome(grown: Sequence[Growth]) -> Outcome:
    """Return the exponents, the table and the plot."""
    values = {
        exponent_goal(growth.axis, name).quantity: growth.exponent(name) for growth in grown for name in growth.series
    }
    rows = [
        [
            growth.axis,
            f"{growth.sizes[0]:,} to {growth.sizes[-1]:,}",
            f"{growth.work[-1] / growth.work[0]:,.0f}×",
            name,
            _quantity(name, growth.series[name][0]),
            _quantity(name, growth.series[name][-1]),
            f"{growth.exponent(name):.2f}",
            f"{growth.exponent(name, upper_half=True):.2f}",
        ]
        for growth in grown
        for name in growth.series
    ]
    heads = ["axis", "values", "growth of the work", "series", "first", "last", "exponent", "upper half"]
    return Outcome(values, [EXPLANATION, markdown_table(heads, rows)], picture(grown))


def _quantity(name: str, value: float) -> str:
    return f"{value / 2**20:.1f} MiB" if name == MEMORY else f"{value:.4f} s"


def picture(grown: Sequence[Growth]) -> Figure:
    """Draw seconds (above) and MiB (below) against the work, one column for each axis."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * len(grown) + 0.6, 5.6))
        panels = figure.subplots(2, len(grown), squeeze=False)
        for column, growth in enumerate(grown):
            times = {name: values for name, values in growth.series.items() if name != MEMORY}
            _draw(panels[0, column], growth, times)
            _draw(panels[1, column], growth, {MEMORY: [v / 2**20 for v in growth.series[MEMORY]]})
            panels[0, column].set_title(f"{growth.axis}, {growth.sizes[0]:,} to {growth.sizes[-1]:,}", fontsize=10)
            panels[1, column].set_xlabel("cells" if growth.axis == "cells" else "operations")
        panels[0, 0].set_ylabel("seconds")
        panels[1, 0].set_ylabel("MiB")
        return figure


def _draw(panel: mpl.axes.Axes, growth: Growth, series: dict[str, list[float]]) -> None:
    """Draw series with logarithmic axes, and a linear growth up to the last value of the largest one."""
    work = np.array(growth.work)
    top = max(values[-1] for values in series.values())
    lowest = min(min(values) for values in series.values())
    linear = top * work / work[-1]
    panel.plot(
        work[linear >= lowest / 2], linear[linear >= lowest / 2], "--", color="gray", linewidth=1, label="linear"
    )
    for name, values in series.items():
        panel.plot(work, values, "o-", color=COLOURS[name], label=name, markersize=4)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_ylim(min(lowest / 2, top / 20), top * 2)
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.legend(frameon=False, fontsize=8)


EXPLANATION = """\
## Growth

Each axis grows while all others stay the same. The work is the multiplications and additions of the matrix products of
all training steps; for cells it is their number. An exponent is the slope of log time, or log memory, against log work
by least squares: 1 is linear, and fixed costs make it smaller. The goals are for the exponents over all values; the
last column has the exponent over the upper half of them, where fixed costs matter least and caches most. Training is
timed without a store (20 steps, except along steps); memory is the largest that it allocates. Cells are sweeps at
initialisation with one job: planning is processor time, the runs are from the start of the first to the end of the
last, and memory is the largest of the process."""
