"""One training step at a time, and the state between two steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np

from engine.arrays import Array
from engine.probes import Step
from pipeline.training.evaluate import CHUNK
from pipeline.training.prepare import PreparedRun, build_network
from pipeline.training.streams import RandomStreams


@dataclass(frozen=True)
class TrainerState:
    """All that training depends on at one step.

    Attributes:
        step: updates made before.
        theta: parameters, [R, P].
        velocity: the optimizer's memory.
        state: arrays of the network's blocks that are no parameters, by name (running statistics).
    """

    step: int
    theta: Array
    velocity: Array
    state: Mapping[str, Array]


@dataclass(frozen=True)
class TrainingState:
    """All that the rest of a run depends on at the beginning of a step: generators follow from the seed and the step.

    Attributes:
        now: step, θ and the optimizer's memory.
        previous: ∇C of the step before, if a probe compares with it at this one.
        active: replicates that have not diverged.
        known_harmless, recent: what the watch knows (:class:`DivergenceMonitor`).
    """

    now: TrainerState
    previous: Array | None
    active: tuple[int, ...]
    known_harmless: tuple[tuple[str, int], ...]
    recent: tuple[TrainerState, ...]


class Trainer:
    """The state of training, one step at a time: ``compute`` the update, then ``apply`` it.

    Args:
        run: ready to train.
        start: where to begin, the initialisation by default; training resumes from it bit for bit.

    Attributes:
        network: the stack of replicates.
        step: the number of the next step.
        rows: row numbers of the batch computed last, [R, B].
    """

    rows: Array

    def __init__(self, run: PreparedRun, start: TrainerState | None = None) -> None:
        self.run = run
        self.network = build_network(run)
        self.velocity = run.config.optimizer.start(self.network)
        self.step = 0
        if start is not None:
            self.step = start.step
            self.network.theta[...] = start.theta
            self.velocity[...] = start.velocity
            for name, array in self.network.state().items():
                array[...] = start.state[name]
        self._batches = islice(_batches(run), self.step, None)
        self._total_steps = max(run.length.last_step, 1)

    def compute(self, previous: Array | None) -> Step:
        """PreparedRun forward and backward pass on the next batch, and propose the update.

        Args:
            previous: the gradient of the step before, for probes that compare.
        """
        data, network, config = self.run.data, self.network, self.run.config
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
        data = self.run.data
        rows = data.train[:, : self.run.config.evaluation.train_examples]
        for start in range(0, rows.shape[1], CHUNK):
            yield data.x[rows[:, start : start + CHUNK]].mT

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def apply(self) -> None:
        """θ ← θ + Δθ."""
        self.network.theta += self.network.update
        self.network.update_state()
        self.step += 1

    def snapshot(self) -> TrainerState:
        """A copy of all that the rest of training depends on."""
        state = {name: array.copy() for name, array in self.network.state().items()}
        return TrainerState(self.step, self.network.theta.copy(), self.velocity.copy(), state)


def _batches(run: PreparedRun) -> Iterator[Array]:
    """Row numbers of each step's batch for all replicates: [R, B]."""
    count = run.data.train.shape[1]
    fresh = RandomStreams.of(run.config.seed, run.config.replicates).batching
    streams = [run.config.batching.batches(count, rng) for rng in fresh]
    while True:
        yield np.stack([train[next(s)] for train, s in zip(run.data.train, streams, strict=True)])


def first_batch(run: PreparedRun) -> Array:
    """Row numbers of the first batch of every replicate: [R, B]."""
    return next(_batches(run))
