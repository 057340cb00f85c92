"""Check a config against its data and the memory, load the data and build the network."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from engine.blocks import Block
from engine.initializers import initialize
from engine.network import Network
from pipeline.config.instantiate import OWN_PACKAGES as OWN_PACKAGES
from pipeline.config.schedules import TrainingLength
from pipeline.config.schema import Config, name_of
from pipeline.data.prepare import Data, DataConfig, prepare
from pipeline.errors import ConfigError
from pipeline.training.streams import RandomStreams


@dataclass(frozen=True)
class PreparedRun:
    """A checked config, ready to train. It holds no arrays, so it is cheap to send to another process.

    Attributes:
        config: The run's config.
        sizes: Layer sizes (n_0, ..., n_L).
        length: Number of steps.
    """

    config: Config
    sizes: list[int]
    length: TrainingLength

    @property
    def data(self) -> Data:
        """The rows of all replicates. They are cached until the data of another run are loaded."""
        return load_data(self.config.data, self.config.seed, self.config.replicates, self.config.dtype)


def prepare_run(config: Config) -> PreparedRun:
    """Load the data and check that data, architecture, cost, batching and memory fit.

    Raises:
        ConfigError: Something does not fit, explained in one line.
    """
    data = load_data(config.data, config.seed, config.replicates, config.dtype)
    sizes = check_data(config, data)
    config.activations(len(sizes) - 1)
    per_epoch = config.batching.steps_per_epoch(data.train.shape[1])
    run = PreparedRun(config, sizes, TrainingLength(config.epochs * per_epoch, per_epoch))
    _check_memory(config, sizes)
    build_network(run)
    return run


def _check_memory(config: Config, sizes: list[int]) -> None:
    parameters = sum(n * (m + 1) for m, n in pairwise(sizes))
    needed = 7 * config.replicates * parameters * np.dtype(config.dtype).itemsize  # theta, gradient, update, snapshots
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        raise ConfigError(
            f"architecture={type(config.architecture).__name__}: {config.replicates} x {parameters} parameters need "
            f"{needed / 2**30:.3g} GiB, this machine has {available / 2**30:.3g}"
        )


@lru_cache(maxsize=1)
def load_data(config: DataConfig, seed: int, replicates: int, dtype: str) -> Data:
    """Load the data of all replicates. The last result is cached, because most cells of a sweep share it.

    Args:
        config: The source and its split.
        seed: Seed of replicate 0.
        replicates: Number of replicates.
        dtype: Type of inputs and targets.

    Raises:
        ConfigError: The source or the split is wrong, explained in one line.
    """
    try:
        return prepare(config, RandomStreams.of(seed, replicates).data, dtype)
    except ValueError as wrong:
        raise ConfigError(f"data.{wrong}") from wrong


def build_network(run: PreparedRun) -> Network:
    """Build the stack of replicates at initialisation.

    Raises:
        ConfigError: The initial values do not fit the network.
    """
    config = run.config
    network = Network(blocks_of(run), (config.replicates,), config.dtype)
    generators = RandomStreams.of(config.seed, config.replicates).initialisation
    try:
        initialize(network, config.init.weights, config.init.biases, generators)
    except ValueError as wrong:
        raise ConfigError(f"init: {wrong}") from wrong
    return network


def blocks_of(run: PreparedRun) -> list[Block]:
    """Return the blocks of the run's network, still without parameters."""
    return run.config.architecture.blocks(run.sizes, run.config.activations(len(run.sizes) - 1))


def check_data(config: Config, data: Data) -> list[int]:
    """Check that data, architecture, outputs, cost and batching fit, and return the layer sizes.

    Args:
        config: The run's config.
        data: Its rows.

    Raises:
        ConfigError: The first contradiction.
    """
    n_in, n_targets = data.x.shape[1], data.y.shape[1]
    try:
        sizes = config.architecture.sizes(n_in, n_targets)
    except ValueError as wrong:
        raise ConfigError(f"architecture={name_of(config.architecture)}: {wrong}") from wrong
    if sizes[-1] != n_targets:
        targets = f"{n_targets} classes" if data.classes else f"{n_targets} targets"
        raise ConfigError(f"architecture.outputs={sizes[-1]}: the data have {targets}; must be {n_targets} or null")
    cost, output = config.cost, config.output
    low, high = float(data.y.min()), float(data.y.max())
    if low < cost.target_low or high > cost.target_high or (cost.normalised and data.classes is None):
        raise ConfigError(
            f"cost={name_of(cost)}: the data's targets reach from {low:g} to {high:g}, it needs classes or targets in "
            f"[{cost.target_low:g}, {cost.target_high:g}]; for a regression use half_squared_error or squared_error"
        )
    if low < output.low or high > output.high:
        raise ConfigError(
            f"output={name_of(output)}: its values reach from {output.low:g} to {output.high:g}, "
            f"but the data's targets from {low:g} to {high:g}; for a regression use output=identity"
        )
    count = data.train.shape[1]
    if config.batching.largest(count) > count:
        raise ConfigError(f"batching.size={config.batching.largest(count)}: there are only {count} training examples")
    if config.batching.steps_per_epoch(count) < 1:
        raise ConfigError(f"batching={name_of(config.batching)}: no batch in an epoch of {count} examples")
    if not math.isfinite(low + high) or not bool((abs(data.x) < math.inf).all()):
        raise ConfigError("data.source: inputs or targets are not finite in the run's dtype")
    return sizes
