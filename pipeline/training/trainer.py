"""One training step at a time, and the state between two steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np

from engine.arrays import Array
from engine.probes import Step
from pipeline.data.prepare import Data
from pipeline.training.evaluate import CHUNK
from pipeline.training.prepare import PreparedRun, build_network
from pipeline.training.streams import RandomStreams


@dataclass(frozen=True)
class TrainerState:
    """Everything that the following updates depend on. Random generators follow from the seed and the step.

    Attributes:
        step: Number of updates made.
        theta: Parameters [R, P].
        velocity: The optimizer's memory [R, P].
        state: Arrays of the network's blocks that are not parameters, such as running statistics, by name.
    """

    step: int
    theta: Array
    velocity: Array
    state: Mapping[str, Array]


@dataclass(frozen=True)
class TrainingState:
    """Everything that the rest of a run depends on, before a step.

    Attributes:
        now: Step, θ and the optimizer's memory.
        previous: ∇C of the step before [R, P], if a probe compares with it at this step.
        active: Replicates that have not diverged.
        known_harmless, recent: The state of the :class:`DivergenceMonitor`.
    """

    now: TrainerState
    previous: Array | None
    active: tuple[int, ...]
    known_harmless: tuple[tuple[str, int], ...]
    recent: tuple[TrainerState, ...]


class Trainer:
    """Trains one step at a time: ``compute`` the update, then ``apply`` it.

    Args:
        run: The checked config and its data.
        start: The state to resume from, bit for bit; the initialisation by default.

    Attributes:
        data: The rows of all replicates.
        network: The stack of replicates.
        step: Number of the next step.
        rows: Row numbers of the last computed batch [R, B].
    """

    rows: Array

    def __init__(self, run: PreparedRun, start: TrainerState | None = None) -> None:
        self._config = run.config
        self.data = run.data
        self.network = build_network(run)
        self.velocity = run.config.optimizer.start(self.network)
        self.step = 0
        if start is not None:
            self.step = start.step
            self.network.theta[...] = start.theta
            self.velocity[...] = start.velocity
            for name, array in self.network.state().items():
                array[...] = start.state[name]
        self._batches = islice(_batches(run, self.data), self.step, None)
        self._total_steps = max(run.length.last_step, 1)

    def compute(self, previous: Array | None) -> Step:
        """Pass the next batch forward and backward, and propose the update.

        Args:
            previous: The gradient of the step before [R, P], for probes that compare.
        """
        data, network, config = self.data, self.network, self._config
        rows = self.rows = next(self._batches)
        y = data.y[rows].mT
        network.forward(data.x[rows].mT)
        network.backward(y, config.cost)
        config.optimizer.propose(network, self.velocity, self.step, self._total_steps)
        seed, step = config.seed, self.step

        def generators(use: int) -> list[np.random.Generator]:
            keys = [np.random.SeedSequence(seed + k, spawn_key=(3, step, use)) for k in range(config.replicates)]
            return [np.random.default_rng(key) for key in keys]

        return Step(network, y, config.cost, previous, generators, self._inputs)

    def _inputs(self) -> Iterator[Array]:
        rows = self.data.train[:, : self._config.evaluation.train_examples]
        for start in range(0, rows.shape[1], CHUNK):
            yield self.data.x[rows[:, start : start + CHUNK]].mT

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def apply(self) -> None:
        """Add the update: θ ← θ + Δθ."""
        self.network.theta += self.network.update
        self.network.update_state()
        self.step += 1

    def snapshot(self) -> TrainerState:
        """Return a copy of the state."""
        state = {name: array.copy() for name, array in self.network.state().items()}
        return TrainerState(self.step, self.network.theta.copy(), self.velocity.copy(), state)


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
