"""Measures how q and ⟨‖δ‖²⟩ change through random networks, and writes them beside theory into docs/theory.md."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from threadpoolctl import threadpool_limits

from engine import activations as act
from engine.activations import Elementwise
from engine.arrays import Array
from engine.network import Dense, Network
from engine.theory import Profile, profile

PAGE = Path(__file__).parents[2] / "docs" / "theory.md"
SIGMAS: dict[str, Elementwise] = {
    "sigmoid": act.Sigmoid(),
    "tanh": act.Tanh(),
    "relu": act.Relu(),
    "leaky_relu": act.LeakyRelu(0.1),
    "elu": act.Elu(1.0),
    "selu": act.Selu(),
    "gelu": act.Gelu(),
    "silu": act.Silu(),
    "softplus": act.Softplus(),
    "softsign": act.Softsign(),
    "hard_tanh": act.HardTanh(),
    "identity": act.Identity(),
}
WEIGHT_VARIANCES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
BIAS_VARIANCE = 0.05
DEPTHS = (6, 12, 24)
EXAMPLES, INPUT_STD = 10, 0.5
CHUNK_BYTES = 2**28  # of parameters at a time
CLAIM = 0.02
LEFT = 3  # columns that are aligned to the left


class Cell(NamedTuple):
    """An activation with its name, σ_w² and the depth L."""

    name: str
    weight_variance: float
    depth: int

    def activations(self) -> list[Elementwise]:
        """Of layers 1 ... L."""
        return [SIGMAS[self.name]] * self.depth


CELLS = [Cell(*place) for place in product(SIGMAS, WEIGHT_VARIANCES, DEPTHS)]


class Squares(NamedTuple):
    """Mean over examples and units, one number a network: ⟨z²⟩ in layer L, ⟨δ²⟩ in layers 1 and L."""

    q: Array
    bottom: Array
    top: Array


class Deviation(NamedTuple):
    """A measured factor a layer, theory's, and the standard error of the measured one as a share of itself."""

    measured: float
    theory: float
    error: float

    @property
    def share(self) -> float:
        """By which the measured one is greater."""
        return self.measured / self.theory - 1

    def percent(self) -> str:
        """With its standard error."""
        return f"{100 * self.share:+.2f}±{100 * self.error:.2f}"


class Row(NamedTuple):
    """A cell at one width: the mean factor of ⟨‖δ‖²⟩ a layer, downwards, and that of q from the input to layer L."""

    delta: Deviation
    q: Deviation


def chunks(width: int, depth: int, seeds: int) -> Iterator[tuple[int, int]]:
    """(number, members) of stacks that together are the seeds."""
    members = max(1, min(seeds, CHUNK_BYTES // (4 * width * width * depth)))
    for number, first in enumerate(range(0, seeds, members)):
        yield number, min(members, seeds - first)


def measure(width: int, depth: int, seeds: int, progress: Progress) -> dict[Cell, Row]:
    """All cells of this depth. They share their random numbers, scaled to each cell's variances."""
    cells = [cell for cell in CELLS if cell.depth == depth]
    x = INPUT_STD * np.random.default_rng([width, depth]).standard_normal((width, EXAMPLES)).astype(np.float32)
    found: dict[Cell, list[Squares]] = {cell: [] for cell in cells}
    parts = list(chunks(width, depth, seeds))
    task = progress.add_task(f"width {width}, depth {depth}", total=len(parts) * len(cells))
    for number, members in parts:
        rng = np.random.default_rng([width, depth, number])
        blank = Network(_blocks(width, cells[0]), (members,), np.float32)
        drawn = rng.standard_normal(blank.theta.shape, np.float32)
        top = rng.standard_normal((members, width, EXAMPLES), np.float32)
        for cell in cells:
            net = Network(_blocks(width, cell), (members,), np.float32, blank.theta)
            found[cell].append(one(net, drawn, cell.weight_variance, x, top))
            progress.advance(task)
    size = np.square(x, dtype=np.float64).sum(axis=0)
    return {
        cell: row(Squares(*map(np.concatenate, zip(*found[cell], strict=True))), cell, width, size) for cell in cells
    }


def _blocks(width: int, cell: Cell) -> list[Dense]:
    return [Dense(width, width, sigma) for sigma in cell.activations()]


def one(net: Network, drawn: Array, weight_variance: float, x: Array, top: Array) -> Squares:
    """A stack with the drawn numbers for parameters, on the inputs x, from δ^L = top."""
    weights = net.n_weights
    np.multiply(drawn[:, :weights], math.sqrt(weight_variance / net.blocks[0].n_in), out=net.theta[:, :weights])
    np.multiply(drawn[:, weights:], math.sqrt(BIAS_VARIANCE), out=net.theta[:, weights:])
    net.forward(x)
    net.backward_from(top)
    first, last = net.layers[0], net.layers[-1]
    q, bottom, given = (np.square(v, dtype=np.float64).mean(axis=(-2, -1)) for v in (last.z, first.delta, last.delta))
    return Squares(q, bottom, given)


def row(squares: Squares, cell: Cell, width: int, size: Array) -> Row:
    """Measured beside theory; standard errors by leaving out one network at a time."""
    depth = cell.depth
    variances = [cell.weight_variance / width] * depth, [BIAS_VARIANCE] * depth
    expected: Profile = profile([width] * (depth + 1), cell.activations(), *variances, size)
    start = float(size.mean()) / width
    delta = jackknife(squares.bottom, squares.top, depth - 1)
    q = jackknife(squares.q, np.full_like(squares.q, start), depth)
    return Row(
        Deviation(delta[0], math.exp(float(np.log(expected.chi[:-1]).mean())), delta[1]),
        Deviation(q[0], (float(expected.z_mean_square[-1]) / start) ** (1 / depth), q[1]),
    )


def jackknife(above: Array, below: Array, steps: int) -> tuple[float, float]:
    """(Σ above / Σ below)^(1/steps), and its standard error as a share of it."""
    n = len(above)
    whole = float(above.sum() / below.sum()) ** (1 / steps)
    without = ((above.sum() - above) / (below.sum() - below)) ** (1 / steps)
    return whole, math.sqrt((n - 1) * float(np.square(without - without.mean()).mean())) / whole


Grid = dict[int, dict[Cell, Row]]  # by width


def headings(widths: Sequence[int]) -> list[str]:
    """Of the table."""
    n = widths[-1]
    return ["σ", "σ_w²", "L", "theory", f"n = {n}", *(f"off %, n = {m}" for m in widths), f"q off %, n = {n}"]


def texts(grid: Grid) -> list[list[str]]:
    """The table's rows."""
    widest = grid[max(grid)]
    return [
        [
            cell.name,
            f"{cell.weight_variance:g}",
            str(cell.depth),
            f"{found.delta.theory:.4f}",
            f"{found.delta.measured:.4f}",
            *(grid[n][cell].delta.percent() for n in sorted(grid)),
            found.q.percent(),
        ]
        for cell, found in widest.items()
    ]


def outside(rows: dict[Cell, Row]) -> list[Cell]:
    """Where one of the two factors is off by more than is claimed."""
    return [cell for cell, found in rows.items() if max(abs(found.delta.share), abs(found.q.share)) > CLAIM]


def summary(grid: Grid) -> list[str]:
    """A line a width, and the cells that are outside at the greatest."""
    lines = []
    for n, rows in sorted(grid.items()):
        delta, q = (np.abs([getattr(found, which).share for found in rows.values()]) for which in ("delta", "q"))
        lines.append(
            f"n = {n}: {len(rows) - len(outside(rows))} of {len(rows)} cells within {CLAIM:.0%}; "
            f"median and largest deviation {np.median(delta):.2%} and {delta.max():.2%} of the factor of ⟨‖δ‖²⟩, "
            f"{np.median(q):.2%} and {q.max():.2%} of that of q."
        )
    left = ", ".join(f"{c.name} σ_w² = {c.weight_variance:g} L = {c.depth}" for c in outside(grid[max(grid)]))
    return [*lines, f"Outside at n = {max(grid)}: {left or 'none'}."]


def markdown(grid: Grid, seeds: int, command: str) -> str:
    """The page docs/theory.md."""
    names = headings(sorted(grid))
    aligned = ["---" if i < LEFT else "---:" for i in range(len(names))]
    lines = [f"| {' | '.join(cells)} |" for cells in ([*names], aligned, *texts(grid))]
    about = EXPLANATION.format(seeds=seeds, examples=EXAMPLES, bias=BIAS_VARIANCE, std=INPUT_STD)
    parts = [
        "# Theory beside random networks",
        f"Written by `{command}`. Do not edit; run it again.",
        about,
        "\n".join(f"- {line}" for line in summary(grid)),
        "\n".join(lines),
    ]
    return "\n\n".join(parts) + "\n"


EXPLANATION = """\
{seeds} networks a cell at initialisation: L layers of n units, weights N(0, σ_w²/n), biases N(0, {bias:g}),
{examples} Gaussian inputs of standard deviation {std:g}, which are not at the fixed point q*, and a Gaussian δ^L for
each example. Cells of one depth share their random numbers, scaled, so chance moves them together.

- **theory**: the factor by which ⟨‖δ‖²⟩ changes a layer on its way down, geometric mean of `engine.theory.profile` over
  the layers, transient included.
- **n = ...**: the same measured, ⟨ ⟩ being the arithmetic mean of squares over examples and networks.
- **off**: by how many percent the measured factor is greater, at each width, ± one standard error over networks.
- **q off**: the same for the factor by which the mean square of z changes a layer, from the input to layer L.

Theory is exact for n → ∞. What is left at finite n shrinks with it (compare the two columns). It is greatest for the
smooth rectifiers near the σ_w² at which they turn from vanishing to growing: there χ depends on q, a chance deviation
of q lasts for many layers, and a few networks carry the arithmetic mean."""


def main() -> None:
    """Print the table and write the page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.theory_grid", description=__doc__)
    parser.add_argument("--write", type=Path, default=PAGE, help="where to write the page (default: docs/theory.md)")
    parser.add_argument("--widths", type=int, nargs="+", default=[150, 600], help="n (default: 150 600)")
    parser.add_argument("--seeds", type=int, default=40, help="networks a cell, at least 2 (default: 40)")
    options = parser.parse_args()
    if options.seeds < 2 or min(options.widths) < 1:
        parser.error("at least 2 seeds and widths of 1")
    grid: Grid = {}
    with Progress(console=Console(stderr=True), transient=True) as progress, threadpool_limits(1):
        for n in sorted(set(options.widths)):
            found: dict[Cell, Row] = {}
            for depth in DEPTHS:
                found |= measure(n, depth, options.seeds, progress)
            grid[n] = {cell: found[cell] for cell in CELLS}
    console, table = Console(), Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for i, heading in enumerate(headings(sorted(grid))):
        table.add_column(heading.replace(", ", "\n"), justify="left" if i < LEFT else "right", no_wrap=True)
    wrong = outside(grid[max(grid)])
    for cell, cells in zip(grid[max(grid)], texts(grid), strict=True):
        table.add_row(*cells, style="red" if cell in wrong else None, end_section=cell.depth == DEPTHS[-1])
    console.print(table)
    for line in summary(grid):
        console.print(line, highlight=False)
    extra = [] if options.widths == [150, 600] else ["--widths", *map(str, options.widths)]
    extra += [] if options.seeds == parser.get_default("seeds") else ["--seeds", str(options.seeds)]
    command = " ".join(["python -m experiments.theory_grid", *extra])
    options.write.write_text(markdown(grid, options.seeds, command), encoding="utf-8")


if __name__ == "__main__":
    main()
