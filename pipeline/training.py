"""run(config) -> records: mini-batch SGD on a stack of replicates, measured on the way. Pure: no files, no clock.

Step t is after t updates. At each step a batch is drawn, passed forward and backward and, if scheduled, measured;
then the update is added. At the last step only the measurement is made, on the batch that would have come next.

A replicate whose numbers are no longer finite has diverged. That shows late (in θ, which is looked at now and then) or
by chance (in a measurement); the first such value is then found by training the last steps again with open eyes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import Protocol

import numpy as np

from engine.arrays import Array
from engine.blocks import Block
from engine.initializers import initialize
from engine.network import Network
from engine.probes import Step, traits_of
from pipeline.config import Config, check_data
from pipeline.data.prepare import Data, DataConfig, prepare
from pipeline.divergence import Divergence, first_non_finite
from pipeline.errors import ConfigError
from pipeline.evaluate import CHUNK, evaluate
from pipeline.measuring import measure
from pipeline.records import Record, non_finite
from pipeline.schedules import Agenda, Clock
from pipeline.stopwatch import Stopwatch


@dataclass(frozen=True)
class Streams:
    """One generator a replicate for each use of randomness, so that changing one use leaves the others alone."""

    data: list[np.random.Generator]
    initialisation: list[np.random.Generator]
    batching: list[np.random.Generator]

    @classmethod
    def of(cls, seed: int, replicates: int) -> Streams:
        """Replicate k gets the children of SeedSequence(seed + k), in the order of the fields."""
        children = [np.random.SeedSequence(seed + k).spawn(3) for k in range(replicates)]
        data, initialisation, batching = ([np.random.default_rng(c[i]) for c in children] for i in range(3))
        return cls(data, initialisation, batching)


@dataclass(frozen=True)
class Run:
    """A config with its data loaded and everything checked: ready to train."""

    config: Config
    data: Data
    sizes: list[int]
    clock: Clock


def ready(config: Config) -> Run:
    """Load the data and check that everything fits.

    Raises:
        ConfigError: one line about what does not.
    """
    data = _load(config.data, config.seed, config.replicates, config.dtype)
    sizes = check_data(config, data)
    config.activations(len(sizes) - 1)
    per_epoch = config.batching.steps_per_epoch(data.train.shape[1])
    run = Run(config, data, sizes, Clock(config.epochs * per_epoch, per_epoch))
    _check_memory(config, sizes)
    build_network(run)
    return run


def _check_memory(config: Config, sizes: list[int]) -> None:
    parameters = sum(n * (m + 1) for m, n in pairwise(sizes))
    needed = 7 * config.replicates * parameters * np.dtype(config.dtype).itemsize  # theta, gradient, update, snapshots
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ConfigError(
            f"architecture={type(config.architecture).__name__}: {config.replicates} x {parameters} parameters need "
            f"{needed / 2**30:.3g} GiB, this machine has {there / 2**30:.3g}"
        )


@lru_cache(maxsize=1)
def _load(config: DataConfig, seed: int, replicates: int, dtype: str) -> Data:
    """The data of all replicates; the cells of a sweep, which mostly share them, load them once."""
    try:
        return prepare(config, Streams.of(seed, replicates).data, dtype)
    except ValueError as wrong:
        raise ConfigError(f"data.{wrong}") from wrong


def build_network(run: Run) -> Network:
    """The stack of replicates at initialisation.

    Raises:
        ConfigError: initial values that do not fit the network.
    """
    config = run.config
    network = Network(blocks_of(run), (config.replicates,), config.dtype)
    fresh = Streams.of(config.seed, config.replicates).initialisation
    try:
        initialize(network, config.init.weights, config.init.biases, fresh)
    except ValueError as wrong:
        raise ConfigError(f"init: {wrong}") from wrong
    return network


def blocks_of(run: Run) -> list[Block]:
    """The blocks of the run's network, without parameters yet."""
    return run.config.architecture.blocks(run.sizes, run.config.activations(len(run.sizes) - 1))


def run(config: Config) -> Iterator[Record]:
    """All records of a run, in order of step. A function of the config alone."""
    return train(ready(config))


def train(
    run: Run,
    on_step: Callable[[int], None] = lambda step: None,
    on_divergence: Callable[[Divergence], None] = lambda divergence: None,
    stopwatch: Stopwatch | None = None,
    witness: Witness | None = None,
    keeper: Keeper | None = None,
    start: State | None = None,
    on_trace: Callable[[int], None] = lambda step: None,
) -> Iterator[Record]:
    """Train, and yield each record at its step.

    Args:
        run: ready to train.
        on_step: called with the step number before each step.
        on_divergence: called for each replicate that has diverged, before the records of that step.
        stopwatch: receives the time spent on "step", each probe, "evaluation", "watch", "chain" and "checkpoints".
        witness: shown θ, ∇C and the batch at the steps it asks for.
        keeper: given the state of training at the steps it asks for, after all records of earlier steps.
        start: a kept state to resume from, bit for bit; records of earlier steps are not made again.
        on_trace: called with each step that is repeated to find how a divergence began (a sign of life).
    """
    config, clock = run.config, run.clock
    stopwatch = stopwatch or Stopwatch(None)
    trainer, watch = Trainer(run, start.now if start else None), Watch(run, start, on_trace)
    schedules = {name: config.probe_schedules.get(name, config.schedule) for name in config.probes}
    comparing_schedules = {n: s for n, s in schedules.items() if traits_of(config.probes[n]).needs_previous}
    agenda = Agenda(schedules, clock, trainer.step)
    comparing = Agenda(comparing_schedules, clock, trainer.step)
    evaluations = Agenda({"": config.evaluation.schedule}, clock, trainer.step)
    previous = start.previous if start else None
    for step in range(trainer.step, clock.last_step + 1):
        if keeper is not None and keeper.due(step):
            keeper.keep(State(trainer.snapshot(), previous, *watch.state()))
            stopwatch.lap("checkpoints")
        on_step(step)
        comparing.due(step)
        watch.begin(trainer)
        computed = trainer.compute(previous)
        previous = trainer.network.grad.copy() if comparing.upcoming == step + 1 else None
        stopwatch.lap("step")
        records = measure(computed, {name: config.probes[name] for name in agenda.due(step)}, step, stopwatch)
        if witness is not None and witness.due(step):
            witness.see(step, trainer.network, trainer.rows)
            stopwatch.lap("chain")
        if evaluations.due(step):
            records += evaluate(trainer.network, run.data, config, step)
            stopwatch.lap("evaluation")
        for divergence in watch.look(trainer, records):
            on_divergence(divergence)
        stopwatch.lap("watch")
        yield from records
        if config.divergence.stop and not watch.living:
            break
        if step < clock.last_step:
            trainer.apply()


class Witness(Protocol):
    """Sees the trajectory at the steps it asks for; it changes nothing."""

    def due(self, step: int) -> bool:
        """Whether it wants to see this step; asked in ascending order."""

    def see(self, step: int, network: Network, rows: Array) -> None:
        """θ and ∇C of the network at this step, and the batch's row numbers [R, B]; only to be read."""


class Keeper(Protocol):
    """Keeps states of training, to go on from one after an interruption."""

    def due(self, step: int) -> bool:
        """Whether it wants the state at the beginning of this step; asked in ascending order."""

    def keep(self, state: State) -> None:
        """A state; its arrays are copies."""


@dataclass(frozen=True)
class Snapshot:
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
class State:
    """All that the rest of a run depends on at the beginning of a step: generators follow from the seed and the step.

    Attributes:
        now: step, θ and the optimizer's memory.
        previous: ∇C of the step before, if a probe compares with it at this one.
        living: replicates that have not diverged.
        harmless, recent: what the watch knows (:class:`Watch`).
    """

    now: Snapshot
    previous: Array | None
    living: tuple[int, ...]
    harmless: tuple[tuple[str, int], ...]
    recent: tuple[Snapshot, ...]


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

    def __init__(self, run: Run, start: Snapshot | None = None) -> None:
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
        self._total_steps = max(run.clock.last_step, 1)

    def compute(self, previous: Array | None) -> Step:
        """Run forward and backward pass on the next batch, and propose the update.

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

    def snapshot(self) -> Snapshot:
        """A copy of all that the rest of training depends on."""
        state = {name: array.copy() for name, array in self.network.state().items()}
        return Snapshot(self.step, self.network.theta.copy(), self.velocity.copy(), state)


class Watch:
    """Notices replicates whose numbers are no longer finite, and finds out how it began.

    Attributes:
        living: replicates that have not diverged.
    """

    def __init__(self, run: Run, start: State | None, on_trace: Callable[[int], None]) -> None:
        self.run = run
        self._on_trace = on_trace
        self.living = set(start.living if start else range(run.config.replicates))
        self._every = run.config.divergence.keep_steps
        # so many that the oldest is from before the last steps to be kept
        self._snapshots: deque[Snapshot] = deque(start.recent if start else (), maxlen=4)
        # what was not finite in whom though nothing in the network was
        self._harmless: set[tuple[str, int]] = set(start.harmless if start else ())

    def state(self) -> tuple[tuple[int, ...], tuple[tuple[str, int], ...], tuple[Snapshot, ...]]:
        """The living, what is harmless, the snapshots."""
        return tuple(sorted(self.living)), tuple(sorted(self._harmless)), tuple(self._snapshots)

    def begin(self, trainer: Trainer) -> None:
        """Before a step is computed."""
        if trainer.step % self._every == 0:
            self._snapshots.append(trainer.snapshot())

    def look(self, trainer: Trainer, found: Sequence[Record]) -> list[Divergence]:
        """New divergences, given what was measured at this step; before the update is applied."""
        step = trainer.step
        strange = self._strange(found)
        suspects = {k for _, k in strange}
        if step % self._every == 0 or step == self.run.clock.last_step:
            broken = np.flatnonzero(~np.isfinite(trainer.network.theta).all(axis=-1))
            suspects |= self.living & set(broken.tolist())
        if not suspects:
            return []
        divergences = self._trace_back(suspects, step)
        diverged = {d.finding.replicate for d in divergences}
        self._harmless |= {(probe, k) for probe, k in strange if k not in diverged}
        self.living -= diverged
        return divergences

    def _strange(self, found: Sequence[Record]) -> set[tuple[str, int]]:
        """What is not finite in which of the living, and was never found to be harmless."""
        strange: set[tuple[str, int]] = set()
        for record in found:
            if record.bins is None and non_finite([record]):
                lost = np.flatnonzero(~np.isfinite(record.values).all(axis=0)).tolist()
                strange |= {(record.probe, k) for k in lost if k in self.living}
        return strange - self._harmless

    def _trace_back(self, suspects: Collection[int], until: int) -> list[Divergence]:
        """Train again from the oldest snapshot to this step, looking at every number of the suspects.

        What is not finite from the first step on may be older (an overflowing cost reaches neither θ nor, unmeasured, a
        record): then from the very beginning.
        """
        start = self._snapshots[0]
        divergences = self._train_again(suspects, start, until)
        older = {d.finding.replicate for d in divergences if d.finding.step == start.step > 0}
        if older:
            divergences = [d for d in divergences if d.finding.replicate not in older]
            divergences += self._train_again(older, None, until)
        return divergences

    def _train_again(self, suspects: Collection[int], start: Snapshot | None, until: int) -> list[Divergence]:
        config = self.run.config
        probes = {name: probe for name, probe in config.probes.items() if not traits_of(probe).costly}
        trainer = Trainer(self.run, start)
        last: deque[list[Record]] = deque(maxlen=config.divergence.keep_steps + 1)
        previous, divergences, left = None, [], sorted(suspects)
        while trainer.step <= until and left:
            self._on_trace(trainer.step)
            computed = trainer.compute(previous)
            previous = trainer.network.grad.copy()
            last.append(measure(computed, probes, trainer.step))
            for k in list(left):
                finding = first_non_finite(computed, k, trainer.step)
                if finding is not None:
                    left.remove(k)
                    divergences.append(Divergence(finding, [record for step in last for record in step]))
            trainer.apply()
        return divergences


def _batches(run: Run) -> Iterator[Array]:
    """Row numbers of each step's batch for all replicates: [R, B]."""
    count = run.data.train.shape[1]
    fresh = Streams.of(run.config.seed, run.config.replicates).batching
    streams = [run.config.batching.batches(count, rng) for rng in fresh]
    while True:
        yield np.stack([train[next(s)] for train, s in zip(run.data.train, streams, strict=True)])


def first_batch(run: Run) -> Array:
    """Row numbers of the first batch of every replicate: [R, B]."""
    return next(_batches(run))
