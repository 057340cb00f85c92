"""Check a config against its data and the memory, load the data and build the network."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from engine.activations import Activation
from engine.blocks import Block
from engine.initializers import initialize
from engine.network import Network
from pipeline.caching import cached
from pipeline.config.architecture import Architecture
from pipeline.config.instantiate import OWN_PACKAGES as OWN_PACKAGES
from pipeline.config.schedules import TrainingLength
from pipeline.config.schema import Config, Init, name_of
from pipeline.data.cache import DataCache
from pipeline.data.prepare import DataConfig, prepare
from pipeline.data.prepared import Data, DataFacts
from pipeline.data.shared import DataFiles, SharedData
from pipeline.errors import ConfigError
from pipeline.training.streams import RandomStreams

CACHE = DataCache()


@dataclass(frozen=True)
class PreparedRun:
    """A checked config, ready to train. It holds no arrays, so it is cheap to send to another process.

    Attributes:
        config: The run's config.
        sizes: Layer sizes (n_0, ..., n_L).
        length: Number of steps.
        facts: The facts about the data that need no arrays.
        files: The arrays in files, if another process wrote them there.
    """

    config: Config
    sizes: list[int]
    length: TrainingLength
    facts: DataFacts
    files: DataFiles | None = None

    @property
    def data(self) -> Data:
        """The rows of all replicates, for training: from the run's files, from memory or from their source."""
        if self.files is not None and (data := _open(self.files)) is not None:
            return data
        return load_data(self.config.data, self.config.seed, self.config.replicates, self.config.dtype)

    def with_shared_data(self, shared: SharedData) -> PreparedRun:
        """Return this run with its data in files, if they can be loaded and there is room for them.

        Args:
            shared: Receives the data that it does not have yet.
        """
        key = _data_key(self.config.data, self.config.seed, self.config.replicates, self.config.dtype)
        if key not in shared:
            try:
                shared.write(key, self.data)
            except Exception:  # noqa: BLE001 (the process of the run loads the data again and reports the error)
                return self
        return replace(self, files=shared.files(key))


@lru_cache(maxsize=1)
def _open(files: DataFiles) -> Data | None:
    return files.open()


def prepare_run(config: Config) -> PreparedRun:
    """Load the data and check that data, architecture, cost, batching and memory fit.

    Raises:
        ConfigError: Something does not fit, explained in one line.
    """
    facts = load_facts(config.data, config.seed, config.replicates, config.dtype)
    sizes = check_data(config, facts)
    config.activations(len(sizes) - 1)
    per_epoch = config.batching.steps_per_epoch(facts.train_examples)
    run = PreparedRun(config, sizes, config.length(per_epoch), facts)
    _check_memory(config, sizes)
    _check_initial_values(run)
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


def load_data(config: DataConfig, seed: int, replicates: int, dtype: str) -> Data:
    """Load the data of all replicates. Cells of a sweep with the same data share them in memory.

    Args:
        config: The source and its split.
        seed: Seed of replicate 0.
        replicates: Number of replicates.
        dtype: Type of inputs and targets.

    Raises:
        ConfigError: The source or the split is wrong, explained in one line.
    """
    key = _data_key(config, seed, replicates, dtype)
    data = CACHE.get(key)
    if data is None:
        generators = RandomStreams.of(seed, replicates).data
        before = [rng.bit_generator.state for rng in generators]
        try:
            data = prepare(config, generators, dtype)
        except ValueError as wrong:
            raise ConfigError(f"data.{wrong}") from wrong
        is_random = before != [rng.bit_generator.state for rng in generators]
        CACHE.put(key if is_random else replace(key, seed=None), data)
    return data


def load_facts(config: DataConfig, seed: int, replicates: int, dtype: str) -> DataFacts:
    """Return the facts about the data that :func:`load_data` returns for these arguments.

    The facts stay in memory when the arrays do not, so each data are prepared once for the checks of all cells.
    """
    facts = CACHE.facts(_data_key(config, seed, replicates, dtype))
    return load_data(config, seed, replicates, dtype).facts if facts is None else facts


@dataclass(frozen=True)
class _DataKey:
    """Everything that prepared data depend on. The seed is None for data that are the same for every seed."""

    config: DataConfig
    text: str  # 0.0 equals -0.0, their texts do not
    version: Hashable
    seed: int | None
    replicates: int
    dtype: str


def _data_key(config: DataConfig, seed: int, replicates: int, dtype: str) -> _DataKey:
    key = _DataKey(config, repr(config), config.source.version(), seed, replicates, dtype)
    for_every_seed = replace(key, seed=None)
    return key if CACHE.facts(for_every_seed) is None else for_every_seed


def build_network(run: PreparedRun) -> Network:
    """Build the stack of replicates at initialisation.

    Raises:
        ConfigError: The initial values do not fit the network.
    """
    config = run.config
    generators = RandomStreams.of(config.seed, config.replicates).initialisation
    return _initialised(blocks_of(run), config.init, config.dtype, generators)


def _initialised(blocks: list[Block], init: Init, dtype: str, generators: list[np.random.Generator]) -> Network:
    network = Network(blocks, (len(generators),), dtype)
    try:
        initialize(network, init.weights, init.biases, generators)
    except ValueError as wrong:
        raise ConfigError(f"init: {wrong}") from wrong
    return network


def _check_initial_values(run: PreparedRun) -> None:
    """Build one replicate. Its shapes do not depend on the seed, so cells that differ elsewhere share the check."""
    config, layers = run.config, len(run.sizes) - 1
    sigmas = tuple(config.activations(layers))
    _check_one_replicate(config.architecture, config.init, tuple(run.sizes), sigmas, config.dtype)


@cached(maxsize=256)
def _check_one_replicate(
    architecture: Architecture, init: Init, sizes: Sequence[int], activations: Sequence[Activation], dtype: str
) -> None:
    _initialised(architecture.blocks(list(sizes), list(activations)), init, dtype, [np.random.default_rng(0)])


def blocks_of(run: PreparedRun) -> list[Block]:
    """Return the blocks of the run's network, still without parameters."""
    return run.config.architecture.blocks(run.sizes, run.config.activations(len(run.sizes) - 1))


def check_data(config: Config, facts: DataFacts) -> list[int]:
    """Check that data, architecture, outputs, cost and batching fit, and return the layer sizes.

    Args:
        config: The run's config.
        facts: The facts about its data.

    Raises:
        ConfigError: The first contradiction.
    """
    n_in, n_targets = facts.inputs, facts.targets
    try:
        sizes = config.architecture.sizes(n_in, n_targets)
    except ValueError as wrong:
        raise ConfigError(f"architecture={name_of(config.architecture)}: {wrong}") from wrong
    if sizes[-1] != n_targets:
        targets = f"{n_targets} classes" if facts.classes else f"{n_targets} targets"
        raise ConfigError(f"architecture.outputs={sizes[-1]}: the data have {targets}; must be {n_targets} or null")
    cost, output = config.cost, config.output
    low, high = facts.lowest_target, facts.highest_target
    if low < cost.target_low or high > cost.target_high or (cost.normalised and facts.classes is None):
        raise ConfigError(
            f"cost={name_of(cost)}: the data's targets reach from {low:g} to {high:g}, it needs classes or targets in "
            f"[{cost.target_low:g}, {cost.target_high:g}]; for a regression use half_squared_error or squared_error"
        )
    if low < output.low or high > output.high:
        raise ConfigError(
            f"output={name_of(output)}: its values reach from {output.low:g} to {output.high:g}, "
            f"but the data's targets from {low:g} to {high:g}; for a regression use output=identity"
        )
    count = facts.train_examples
    if config.batching.largest(count) > count:
        raise ConfigError(f"batching.size={config.batching.largest(count)}: there are only {count} training examples")
    if config.batching.steps_per_epoch(count) < 1:
        raise ConfigError(f"batching={name_of(config.batching)}: no batch in an epoch of {count} examples")
    if not facts.is_finite:
        raise ConfigError("data.source: inputs or targets are not finite in the run's dtype")
    return sizes
