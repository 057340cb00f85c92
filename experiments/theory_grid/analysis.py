"""Compare the measured factors of q and ⟨‖δ‖²⟩ in random networks with mean-field theory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from engine.arrays import Array
from experiments.claims import exact
from experiments.theory_grid.grid import BIAS_VARIANCE, EXAMPLES, INPUT_STD, LIMIT, Row, measure_grid
from pipeline.analysis.estimates import Estimate
from pipeline.reports.figures.style import BLUE, ORANGE, STYLE

PAGE = "docs/theory.md"
WIDTHS, SLOW_WIDTHS = (150,), (150, 600)
SEEDS = 40  # networks in a cell
LEFT = 3  # columns that are aligned to the left


def collect(slow: bool) -> Sequence[Row]:
    """Measure all cells at the default widths."""
    return measure_grid(SLOW_WIDTHS if slow else WIDTHS, SEEDS)


def widths_of(rows: Sequence[Row]) -> list[int]:
    """Return the measured widths, ascending."""
    return sorted({row.width for row in rows})


def at_width(rows: Sequence[Row], width: int) -> list[Row]:
    """Return the rows of one width."""
    return [row for row in rows if row.width == width]


def deviations(rows: Sequence[Row]) -> tuple[Array, Array]:
    """Return the absolute relative deviations of the factors of ⟨‖δ‖²⟩ and of q [rows]."""
    return np.abs([row.delta.relative for row in rows]), np.abs([row.q.relative for row in rows])


def measured(results: Sequence[Row]) -> Mapping[str, Estimate]:
    """Return the median deviations and the share of cells within the limit, for each width.

    Cells of one depth share their random numbers, so their spread gives no interval.
    """
    numbers = {}
    for width in widths_of(results):
        rows = at_width(results, width)
        delta, q = deviations(rows)
        numbers[f"delta_median_{width}"] = exact(float(np.median(delta)))
        numbers[f"q_median_{width}"] = exact(float(np.median(q)))
        numbers[f"within_{width}"] = exact(1 - sum(row.is_outside for row in rows) / len(rows))
    return numbers


def figure(results: Sequence[Row]) -> Figure:
    """Draw the deviation of the factor of ⟨‖δ‖²⟩ against the factor of theory."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(7.5, 4.5))
        axes = drawn.subplots()
        for width, colour in zip(widths_of(results), (ORANGE, BLUE), strict=False):
            rows = at_width(results, width)
            axes.errorbar(
                [row.delta.theory for row in rows],
                [100 * row.delta.relative for row in rows],
                [100 * row.delta.error for row in rows],
                fmt="o",
                ms=3,
                lw=0.7,
                color=colour,
                label=f"n = {width}",
            )
        axes.axhspan(-100 * LIMIT, 100 * LIMIT, color="black", alpha=0.06, lw=0, label=f"within {LIMIT:.0%}")
        axes.set(
            xscale="log",
            xlabel="theory: factor a layer on ⟨‖δ‖²⟩",
            ylabel="measured minus theory (%)",
            title=f"{len(rows)} cells: 12 activations, 6 weight variances, 3 depths; ± 1 standard error",
        )
        axes.legend(frameon=False)
    return drawn


def pages(results: Sequence[Row], command: str) -> Mapping[str, str | Figure]:
    """Return the page of all cells."""
    return {PAGE: markdown(results, command)}


def headings(widths: Sequence[int]) -> list[str]:
    """Return the headings of the page's table."""
    n = widths[-1]
    return ["σ", "σ_w²", "L", "theory", f"n = {n}", *(f"off %, n = {m}" for m in widths), f"q off %, n = {n}"]


def texts(rows: Sequence[Row]) -> list[list[str]]:
    """Return the cells of the page's table."""
    widths = widths_of(rows)
    by_place = {(row.width, row.cell): row for row in rows}
    return [
        [
            row.cell.name,
            f"{row.cell.weight_variance:g}",
            str(row.cell.depth),
            f"{row.delta.theory:.4f}",
            f"{row.delta.measured:.4f}",
            *(by_place[n, row.cell].delta.percent() for n in widths),
            row.q.percent(),
        ]
        for row in at_width(rows, widths[-1])
    ]


def summary(rows: Sequence[Row]) -> list[str]:
    """Return one line for each width, and the cells outside the limit at the largest width."""
    lines = []
    for n in widths_of(rows):
        of_width = at_width(rows, n)
        delta, q = deviations(of_width)
        outside = [row for row in of_width if row.is_outside]
        lines.append(
            f"n = {n}: {len(of_width) - len(outside)} of {len(of_width)} cells within {LIMIT:.0%}; "
            f"median and largest deviation {np.median(delta):.2%} and {delta.max():.2%} of the factor of ⟨‖δ‖²⟩, "
            f"{np.median(q):.2%} and {q.max():.2%} of that of q."
        )
    return [*lines, f"Outside at n = {n}: {', '.join(str(row.cell) for row in outside) or 'none'}."]


def markdown(rows: Sequence[Row], command: str) -> str:
    """Return the page docs/theory.md."""
    names = headings(widths_of(rows))
    aligned = ["---" if i < LEFT else "---:" for i in range(len(names))]
    lines = [f"| {' | '.join(line)} |" for line in (names, aligned, *texts(rows))]
    parts = [
        "# Mean-field theory compared with random networks",
        f"Written by `{command}`. Do not edit; run it again.",
        EXPLANATION.format(seeds=rows[0].seeds, examples=EXAMPLES, bias=BIAS_VARIANCE, std=INPUT_STD),
        "\n".join(f"- {line}" for line in summary(rows)),
        "\n".join(lines),
    ]
    return "\n\n".join(parts) + "\n"


EXPLANATION = """\
Each cell has {seeds} networks at initialisation: L layers of n units, weights N(0, σ_w²/n), biases N(0, {bias:g}),
{examples} Gaussian inputs of standard deviation {std:g}, which are not at the fixed point q*, and a Gaussian δ^L for
each example. Cells of one depth share their random numbers, scaled, so chance moves them together.

- **theory**: the factor by which ⟨‖δ‖²⟩ changes from a layer to the layer below, the geometric mean of
  `engine.theory.profile` over the layers, the transient included.
- **n = ...**: the measured factor. ⟨ ⟩ is the arithmetic mean of squares over examples and networks.
- **off**: measured minus theory in percent of theory, at each width, ± one standard error over networks.
- **q off**: the same for the factor by which the mean square of z changes from a layer to the layer above, from the
  input to layer L.

Theory is exact for n → ∞. The difference at finite n shrinks as n grows (compare the two columns). The largest
differences belong to the smooth rectifiers near the σ_w² at which they turn from vanishing to growing. There χ depends
on q, a chance deviation of q lasts for many layers, and a few networks dominate the arithmetic mean."""
