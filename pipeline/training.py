"""run(config) -> records: mini-batch SGD on a stack of replicates, measured on the way. Pure: no files, no clock.

Step t is after t updates. At each step a batch is drawn, passed forward and backward and, if scheduled, measured;
then the update is added. At the last step only the measurement is made, on the batch that would have come next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from engine.arrays import Array
from engine.initializers import initialize
from engine.network import Network
from engine.observed import observe
from engine.probes import Probe, take
from pipeline.config import Config, check_data
from pipeline.data.prepare import Data, DataConfig, prepare
from pipeline.errors import ConfigError
from pipeline.evaluate import evaluate
from pipeline.records import Record
from pipeline.schedules import Clock


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
    needed = 3 * config.replicates * parameters * np.dtype(config.dtype).itemsize  # theta, its gradient, its update
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
    network = Network(run.sizes, config.activations(len(run.sizes) - 1), (config.replicates,), config.dtype)
    fresh = Streams.of(config.seed, config.replicates).initialisation
    try:
        initialize(network, config.init.weights, config.init.biases, fresh)
    except ValueError as wrong:
        raise ConfigError(f"init: {wrong}") from wrong
    return network


def run(config: Config) -> Iterator[Record]:
    """All records of a run, in order of step. A function of the config alone."""
    return train(ready(config))


def train(run: Run, on_step: Callable[[int], None] = lambda step: None) -> Iterator[Record]:
    """Records of a run made ready. ``on_step`` is told each step that has begun (progress)."""
    config, data, clock = run.config, run.data, run.clock
    network = build_network(run)
    optimizer = config.optimizer
    state = optimizer.start(network)
    batches = _batches(run)
    measured, evaluated = (set(s.steps(clock)) for s in (config.schedule, config.evaluation.schedule))
    for step in range(clock.last_step + 1):
        on_step(step)
        rows = next(batches)
        network.forward(data.x[rows].mT)
        network.backward(data.y[rows].mT, config.cost)
        update = optimizer.update(network, state, step, max(clock.last_step, 1))
        if step in measured:
            yield from measure(network, update, config.probes, step)
        if step in evaluated:
            yield from evaluate(network, data, config, step)
        if step < clock.last_step:
            network.theta += update


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


def measure(network: Network, update: Array, probes: Mapping[str, Probe], step: int) -> Iterator[Record]:
    """Every probe in every layer, after a backward pass and before the update is added."""
    layers = observe(network, update)
    for name, probe in probes.items():
        numbers, values = probe.over(layers) if isinstance(probe, Probe) else take(probe, layers)
        if numbers:
            yield Record(step, name, numbers, values.reshape(len(numbers), -1), getattr(probe, "geometric", False))
