"""A stack of cells in training: its network, its batches, its update, and the state between two steps.

A stack trains C cells of R replicates as one network with the ensemble axes [C, R]. Each cell has the numbers, byte for
byte, that it has alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from engine.arrays import Array
from engine.network import Network
from engine.optimizers import SGD, Adam, ClipGlobalNorm, ClipPerLayer, Optimizer
from engine.probes import Step
from pipeline.data.prepare import Data
from pipeline.training.prepare import PreparedRun, blocks_of, build_network
from pipeline.training.streams import RandomStreams

CHUNK = 1000  # examples per pass through a whole set: bounds the memory of the network's buffers


@dataclass(frozen=True)
class TrainerState:
    """Everything that the following updates of a cell depend on. Random generators follow from the seed and the step.

    Attributes:
        step: Number of updates made.
        theta: Parameters [R, P].
        optimizer_state: The optimizer's state [R, ...], such as the velocity [R, P]; empty if it has none.
        state: Arrays of the network's blocks that are not parameters, such as running statistics, by name.
    """

    step: int
    theta: Array
    optimizer_state: Array
    state: Mapping[str, Array]


@dataclass(frozen=True)
class TrainingState:
    """Everything that the rest of a cell's run depends on, before a step.

    Attributes:
        now: Step, θ and the optimizer's state.
        previous: ∇C of the step before [R, P], if a probe compares with it at this step.
        active: Replicates that have not diverged.
        known_harmless, recent: The state of the :class:`DivergenceMonitor`.
        patience: The state of :class:`pipeline.training.patience.Patience` [2, R]; None without early stopping.
    """

    now: TrainerState
    previous: Array | None
    active: tuple[int, ...]
    known_harmless: tuple[tuple[str, int], ...]
    recent: tuple[TrainerState, ...]
    patience: Array | None = None


class StackData:
    """The rows of the cells of a stack. Cells with the same data, batches and evaluation share one gather.

    Args:
        runs: The cells' runs.
        step: The step from which batches are drawn.

    Attributes:
        sets: The distinct data sets of the stack.
        set_of: The data set of each cell, as a place in ``sets``.
    """

    def __init__(self, runs: Sequence[PreparedRun], step: int = 0) -> None:
        keys = [(run.config.data, run.config.seed, run.config.batching, run.config.evaluation) for run in runs]
        distinct = [keys.index(key) for key in keys]  # the first cell with the same key
        firsts = list(dict.fromkeys(distinct))
        self.sets: list[Data] = [runs[first].data for first in firsts]
        self.set_of = [firsts.index(first) for first in distinct]
        self._batches = [
            islice(_batches(runs[first], data), step, None) for first, data in zip(firsts, self.sets, strict=True)
        ]

    def draw(self) -> list[Array]:
        """Return the row numbers [R, B] of the next batch of each data set."""
        return [next(batches) for batches in self._batches]

    def gather(self, rows: Sequence[Array]) -> tuple[Array, Array]:
        """Return the inputs [C, R, n_0, B] and targets [C, R, n_L, B] of the given rows of each data set."""
        x = [data.x[chosen].mT for data, chosen in zip(self.sets, rows, strict=True)]
        y = [data.y[chosen].mT for data, chosen in zip(self.sets, rows, strict=True)]
        return self._for_cells(x), self._for_cells(y)

    def _for_cells(self, of_sets: Sequence[Array]) -> Array:
        if len(of_sets) == 1:
            return np.broadcast_to(of_sets[0], (len(self.set_of), *of_sets[0].shape))
        # The examples stay contiguous in memory, as they are for a cell alone: their order can change the last bits.
        return np.stack([of_sets[number].mT for number in self.set_of]).mT

    def cells_of(self, number: int) -> list[int]:
        """Return the cells that use a data set."""
        return [cell for cell, own in enumerate(self.set_of) if own == number]

    def keep(self, cells: Sequence[int]) -> None:
        """Drop all other cells."""
        self.set_of = [self.set_of[cell] for cell in cells]
        used = sorted(set(self.set_of))
        self.sets = [self.sets[number] for number in used]
        self._batches = [self._batches[number] for number in used]
        self.set_of = [used.index(number) for number in self.set_of]


class Trainer:
    """Trains a stack of cells. :func:`pipeline.training.loop.train_stack` computes each update, ``apply`` adds it.

    Args:
        runs: The cells' runs. They share shapes, probes and schedules.
        start: The states from which the cells resume, bit for bit, all of the same step; the initialisation by default.

    Attributes:
        runs: The runs of the cells that are in training.
        data: The rows of all cells.
        network: The stack [C, R].
        optimizer: The optimizer with the hyperparameters of all cells.
        optimizer_state: Its state [C, R, ...]; empty if it has none.
        step: Number of the next step.
        rows: Row numbers of the last drawn batch, [R, B] for each data set.
    """

    rows: list[Array]

    def __init__(self, runs: Sequence[PreparedRun], start: Sequence[TrainerState] | None = None) -> None:
        self.runs = list(runs)
        first = self.runs[0].config
        self.network = Network(blocks_of(self.runs[0]), (len(runs), first.replicates), first.dtype)
        self.optimizer = stacked_optimizer([run.config.optimizer for run in runs])
        self.optimizer_state = self.optimizer.start(self.network)
        self.step = 0
        if start is None:
            for cell, run in enumerate(runs):
                self.network.theta[cell] = build_network(run).theta
        else:
            self.step = start[0].step
            for cell, saved in enumerate(start):
                self.network.theta[cell] = saved.theta
                if self.optimizer_state.size:
                    self.optimizer_state[cell] = saved.optimizer_state
                for name, array in self.network.state().items():
                    array[cell] = saved.state[name]
        self.data = StackData(self.runs, self.step)
        self.total_steps = max(self.runs[0].length.last_step, 1)

    def next_batch(self) -> tuple[Array, Array]:
        """Return the inputs [C, R, n_0, B] and targets [C, R, n_L, B] of the next batch."""
        self.rows = self.data.draw()
        return self.data.gather(self.rows)

    def rows_of(self, cell: int) -> Array:
        """Return the row numbers [R, B] of a cell's last batch."""
        return self.rows[self.data.set_of[cell]]

    def computed(self, y: Array, previous: Array | None) -> Step:
        """Return the step that was just computed, as probes read it.

        Args:
            y: Targets of the batch [C, R, n_L, B].
            previous: The gradient of the step before [C, R, P], for probes that compare.
        """
        step, configs = self.step, [run.config for run in self.runs]

        def generators(use: int) -> list[np.random.Generator]:
            seeds = [config.seed + k for config in configs for k in range(config.replicates)]
            keys = [np.random.SeedSequence(seed, spawn_key=(3, step, use)) for seed in seeds]
            return [np.random.default_rng(key) for key in keys]

        return Step(self.network, y, configs[0].cost, previous, generators, self._inputs)

    def _inputs(self) -> Iterator[Array]:
        most = self.runs[0].config.evaluation.train_examples
        rows = [data.train[:, :most] for data in self.data.sets]
        for start in range(0, rows[0].shape[1], CHUNK):
            yield self.data.gather([chosen[:, start : start + CHUNK] for chosen in rows])[0]

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def apply(self) -> None:
        """Add the update: θ ← θ + Δθ."""
        self.network.theta += self.network.update
        self.network.update_state()
        self.step += 1

    def snapshot(self) -> list[TrainerState]:
        """Return a copy of the state of each cell."""
        theta, optimizer_state = self.network.theta.copy(), self.optimizer_state.copy()
        state = {name: array.copy() for name, array in self.network.state().items()}
        return [
            TrainerState(
                self.step,
                theta[cell],
                optimizer_state[cell] if optimizer_state.size else optimizer_state,
                {name: array[cell] for name, array in state.items()},
            )
            for cell in range(len(self.runs))
        ]

    def cell_network(self, cell: int) -> Network:
        """Return a network [R] with copies of θ and the state of one cell. The next call overwrites it."""
        network, state = self._cell_network, self.network.state()
        network.theta[...] = self.network.theta[cell]
        for name, array in network.state().items():
            array[...] = state[name][cell]
        return network

    @cached_property
    def _cell_network(self) -> Network:
        return Network(blocks_of(self.runs[0]), self.network.ensemble[1:], self.network.dtype)

    def keep(self, cells: Sequence[int]) -> None:
        """Drop all other cells, between two steps."""
        kept = list(cells)
        self.runs = [self.runs[cell] for cell in kept]
        old, state = self.network, self.network.state()
        ensemble = (len(kept), *old.ensemble[1:])
        self.network = Network(blocks_of(self.runs[0]), ensemble, old.dtype, old.theta[kept])
        for name, array in self.network.state().items():
            array[...] = state[name][kept]
        self.optimizer = stacked_optimizer([run.config.optimizer for run in self.runs])
        if self.optimizer_state.size:
            self.optimizer_state = self.optimizer_state[kept]
        self.data.keep(kept)


def is_stackable(optimizer: Optimizer) -> bool:
    """Return whether the optimizer's classes take one number per cell. A class of the user's own may not."""
    return type(optimizer) in (SGD, Adam) and type(optimizer.clipping) in (type(None), ClipGlobalNorm, ClipPerLayer)


def stacked_optimizer(optimizers: Sequence[Optimizer]) -> Optimizer:
    """Return one optimizer with the hyperparameters [C, 1] of all cells.

    The same terms are on in all of them. Optimizers that are not stackable are equal.
    """
    first = optimizers[0]
    if len(optimizers) == 1 or not is_stackable(first):
        return first

    def column(values: Sequence[object]) -> Array:
        return np.array(values, dtype=np.float64)[:, None]

    columns: dict[str, Any] = {
        name: column([getattr(optimizer, name) for optimizer in optimizers]) for name in first.per_member_names
    }
    if first.clipping is not None:
        bounds = column([optimizer.clipping.max_norm for optimizer in optimizers if optimizer.clipping])
        columns["clipping"] = replace(first.clipping, max_norm=bounds)
    stacked: Optimizer = replace(first, **columns)  # type: ignore[type-var]  # SGD or Adam, which are dataclasses
    return stacked


def _batches(run: PreparedRun, data: Data) -> Iterator[Array]:
    """Yield the row numbers of each step's batch for all replicates [R, B]."""
    count = data.train.shape[1]
    generators = RandomStreams.of(run.config.seed, run.config.replicates).batching
    streams = [run.config.batching.batches(count, rng) for rng in generators]
    while True:
        yield np.stack([train[next(s)] for train, s in zip(data.train, streams, strict=True)])


def first_batch(run: PreparedRun) -> Array:
    """Return the row numbers of the first batch of every replicate [R, B]."""
    return next(_batches(run, run.data))
