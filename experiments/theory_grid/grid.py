"""Measure how q and ⟨‖δ‖²⟩ change through random networks, and compute the same from mean-field theory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from threadpoolctl import threadpool_limits

from engine import activations
from engine.activations import Elementwise
from engine.arrays import Array
from engine.network import Dense, Network
from engine.theory import Profile, profile
from pipeline.progress import bars

SIGMAS: dict[str, Elementwise] = {
    "sigmoid": activations.Sigmoid(),
    "tanh": activations.Tanh(),
    "relu": activations.Relu(),
    "leaky_relu": activations.LeakyRelu(0.1),
    "elu": activations.Elu(1.0),
    "selu": activations.Selu(),
    "gelu": activations.Gelu(),
    "silu": activations.Silu(),
    "softplus": activations.Softplus(),
    "softsign": activations.Softsign(),
    "hard_tanh": activations.HardTanh(),
    "identity": activations.Identity(),
}
WEIGHT_VARIANCES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
BIAS_VARIANCE = 0.05
DEPTHS = (6, 12, 24)
EXAMPLES, INPUT_STD = 10, 0.5
CHUNK_BYTES = 2**28  # of parameters in one stack
LIMIT = 0.02  # largest accepted deviation of a cell


@dataclass(frozen=True)
class Cell:
    """An activation by name, σ_w² and the depth L."""

    name: str
    weight_variance: float
    depth: int

    def sigmas(self) -> list[Elementwise]:
        """Return the activations of layers 1 to L."""
        return [SIGMAS[self.name]] * self.depth

    def __str__(self) -> str:
        return f"{self.name} σ_w² = {self.weight_variance:g} L = {self.depth}"


CELLS = [Cell(*values) for values in product(SIGMAS, WEIGHT_VARIANCES, DEPTHS)]


@dataclass(frozen=True)
class MeanSquares:
    """Means over examples and units [networks]: ⟨z²⟩ in layer L, ⟨δ²⟩ in layers 1 and L."""

    q: Array
    delta_first: Array
    delta_last: Array


@dataclass(frozen=True)
class Deviation:
    """A factor for each layer.

    Attributes:
        measured: The measured factor.
        theory: The factor of mean-field theory.
        error: The standard error of the measured factor, relative to it.
    """

    measured: float
    theory: float
    error: float

    @property
    def relative(self) -> float:
        """Measured factor over theory, minus 1."""
        return self.measured / self.theory - 1

    def percent(self) -> str:
        """Return the deviation with its standard error, in percent."""
        return f"{100 * self.relative:+.2f}±{100 * self.error:.2f}"


@dataclass(frozen=True)
class Row:
    """A measured cell.

    Attributes:
        width: The number of units n.
        seeds: The number of networks.
        cell: The activation, σ_w² and depth.
        delta: The mean factor of ⟨‖δ‖²⟩ for each layer, from layer L to layer 1.
        q: The mean factor of q for each layer, from the input to layer L.
    """

    width: int
    seeds: int
    cell: Cell
    delta: Deviation
    q: Deviation

    @property
    def is_outside(self) -> bool:
        """Whether one of the two factors deviates by more than the limit."""
        return max(abs(self.delta.relative), abs(self.q.relative)) > LIMIT


def measure_grid(
    widths: Sequence[int], seeds: int, cells: Sequence[Cell] = CELLS, depths: Sequence[int] = DEPTHS
) -> list[Row]:
    """Measure cells at several widths.

    Args:
        widths: The numbers of units.
        seeds: The number of networks in a cell, at least 2.
        cells: The cells.
        depths: The depths among the cells.

    Returns:
        One row for each width and cell, in this order.
    """
    by_place: dict[tuple[int, Cell], Row] = {}
    with bars(len(widths) * len(depths), quiet=False) as progress, threadpool_limits(1):
        for width, depth in product(widths, depths):
            rows = measure_depth(width, seeds, [cell for cell in cells if cell.depth == depth])
            by_place |= {(width, row.cell): row for row in rows}
            progress.advance()
    return [by_place[width, cell] for width in widths for cell in cells]


def measure_depth(width: int, seeds: int, cells: Sequence[Cell]) -> list[Row]:
    """Measure cells of one depth. They share their random numbers, scaled to the variances of each cell."""
    depth = cells[0].depth
    x = INPUT_STD * np.random.default_rng([width, depth]).standard_normal((width, EXAMPLES)).astype(np.float32)
    squares: dict[Cell, list[MeanSquares]] = {cell: [] for cell in cells}
    for number, members in chunks(width, depth, seeds):
        rng = np.random.default_rng([width, depth, number])
        blank = Network(_blocks(width, cells[0]), (members,), np.float32)
        normal = rng.standard_normal(blank.theta.shape, np.float32)
        delta_last = rng.standard_normal((members, width, EXAMPLES), np.float32)
        for cell in cells:
            network = Network(_blocks(width, cell), (members,), np.float32, blank.theta)
            squares[cell].append(mean_squares(network, normal, cell.weight_variance, x, delta_last))
    input_squares = np.square(x, dtype=np.float64).sum(axis=0)
    return [compare(_join(squares[cell]), cell, width, input_squares) for cell in cells]


def chunks(width: int, depth: int, seeds: int) -> Iterator[tuple[int, int]]:
    """Return (number, members) of stacks that together have all seeds and fit into memory."""
    members = max(1, min(seeds, CHUNK_BYTES // (4 * width * width * depth)))
    for number, first in enumerate(range(0, seeds, members)):
        yield number, min(members, seeds - first)


def _blocks(width: int, cell: Cell) -> list[Dense]:
    return [Dense(width, width, sigma) for sigma in cell.sigmas()]


def _join(parts: Sequence[MeanSquares]) -> MeanSquares:
    return MeanSquares(
        np.concatenate([part.q for part in parts]),
        np.concatenate([part.delta_first for part in parts]),
        np.concatenate([part.delta_last for part in parts]),
    )


def mean_squares(network: Network, normal: Array, weight_variance: float, x: Array, delta_last: Array) -> MeanSquares:
    """Initialise a stack of networks, pass x forward and δ^L backward, and return the mean squares.

    Args:
        network: A stack of networks. Its parameters are overwritten.
        normal: Standard normal numbers [networks, P].
        weight_variance: σ_w².
        x: The inputs [n, B].
        delta_last: δ^L [networks, n, B].
    """
    weights = network.n_weights
    weight_std = math.sqrt(weight_variance / network.blocks[0].n_in)
    np.multiply(normal[:, :weights], weight_std, out=network.theta[:, :weights])
    np.multiply(normal[:, weights:], math.sqrt(BIAS_VARIANCE), out=network.theta[:, weights:])
    network.forward(x)
    network.backward_from(delta_last)
    first, last = network.layers[0], network.layers[-1]
    values = (last.z, first.delta, last.delta)
    return MeanSquares(*(np.square(v, dtype=np.float64).mean(axis=(-2, -1)) for v in values))


def compare(squares: MeanSquares, cell: Cell, width: int, input_squares: Array) -> Row:
    """Compare measured mean squares with theory.

    Args:
        squares: The measured mean squares.
        cell: The cell.
        width: The number of units.
        input_squares: ‖x‖² of each example [B].
    """
    depth = cell.depth
    variances = [cell.weight_variance / width] * depth, [BIAS_VARIANCE] * depth
    expected: Profile = profile([width] * (depth + 1), cell.sigmas(), *variances, input_squares)
    input_mean_square = float(input_squares.mean()) / width
    delta_factor = math.exp(float(np.log(expected.chi[:-1]).mean()))
    q_factor = (float(expected.z_mean_square[-1]) / input_mean_square) ** (1 / depth)
    delta, delta_error = jackknife(squares.delta_first, squares.delta_last, depth - 1)
    q, q_error = jackknife(squares.q, np.full_like(squares.q, input_mean_square), depth)
    deviations = Deviation(delta, delta_factor, delta_error), Deviation(q, q_factor, q_error)
    return Row(width, len(squares.q), cell, *deviations)


def jackknife(above: Array, below: Array, steps: int) -> tuple[float, float]:
    """Return (Σ above / Σ below)^(1/steps), and its relative standard error by leaving out one network at a time."""
    n = len(above)
    whole = float(above.sum() / below.sum()) ** (1 / steps)
    without_one = ((above.sum() - above) / (below.sum() - below)) ** (1 / steps)
    return whole, math.sqrt((n - 1) * float(np.square(without_one - without_one.mean()).mean())) / whole
