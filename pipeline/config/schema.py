"""The config of a run: its schema and the checks that need more than one key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.activations import Activation
from engine.costs import Cost
from engine.initializers import Initializer
from engine.optimizers import SGD
from engine.probes import Probe
from pipeline.config.architecture import Architecture
from pipeline.config.instantiate import OWN_PACKAGES as OWN_PACKAGES
from pipeline.config.instantiate import instantiate
from pipeline.config.schedules import Schedule
from pipeline.data.batching import Batching
from pipeline.data.prepare import DataConfig
from pipeline.errors import ConfigError

MOST_REPLICATES = 100_000


@dataclass(frozen=True)
class Init:
    """Initialisers of weights and of biases."""

    weights: Initializer
    biases: Initializer


@dataclass(frozen=True)
class Evaluation:
    """When and on how much to take cost and accuracy (R² for a regression).

    Args:
        schedule: the steps.
        train_examples: how many training examples at most, the first of each replicate's; the test set is always whole.
    """

    schedule: Schedule
    train_examples: int

    def __post_init__(self) -> None:
        if self.train_examples < 1:
            raise ValueError(f"train_examples={self.train_examples}: must be >= 1")


@dataclass(frozen=True)
class Config:
    """Everything a run's numbers depend on.

    Args:
        seed: replicate k is the run with seed + k.
        replicates: networks trained as one stack.
        epochs: passes over the training set; 0 measures at initialisation only.
        dtype: of parameters, activations and gradients.
        activation, output: of the hidden layers and of the last one.
        layer_activations: exceptions, ``layer_03: ...``.
        schedule: when to measure, for every probe that has no schedule of its own in ``probe_schedules``.
    """

    seed: int
    replicates: int
    epochs: int
    dtype: Literal["float64", "float32"]
    architecture: Architecture
    activation: Activation
    output: Activation
    layer_activations: Mapping[str, Activation]
    cost: Cost
    init: Init
    batching: Batching
    optimizer: SGD
    data: DataConfig
    probes: Mapping[str, Probe]
    schedule: Schedule
    probe_schedules: Mapping[str, Schedule]
    evaluation: Evaluation
    divergence: DivergenceConfig

    def __post_init__(self) -> None:
        for name, lowest in (("seed", 0), ("replicates", 1), ("epochs", 0)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name}={getattr(self, name)}: must be >= {lowest}")
        if self.replicates > MOST_REPLICATES:
            raise ValueError(f"replicates={self.replicates}: must be <= {MOST_REPLICATES}")
        for name in self.layer_activations:
            if not (name.startswith("layer_") and name[6:].isdigit() and int(name[6:]) >= 1):
                raise ValueError(f"layer_activations.{name}: must be layer_01, layer_02, ...")
        for name in self.probes:
            if not name.replace("_", "").isalnum():
                raise ValueError(f"probes.{name}: a probe's name may have letters, digits and underscores only")
        for name in self.probe_schedules:
            if name not in self.probes:
                raise ValueError(f"probe_schedules.{name}: no such probe; allowed: {', '.join(self.probes) or 'none'}")

    def activations(self, layers: int) -> list[Activation]:
        """σ of layers 1 ... ``layers``.

        Raises:
            ConfigError: an exception for a layer that does not exist.
        """
        sigmas = [self.activation] * (layers - 1) + [self.output]
        for name, sigma in self.layer_activations.items():
            number = int(name[6:])
            if number > layers:
                raise ConfigError(f"layer_activations.{name}: the network has {layers} layers")
            sigmas[number - 1] = sigma
        for number, sigma in enumerate(sigmas[:-1], start=1):
            if sigma.normalised:
                exception = next((n for n in self.layer_activations if int(n[6:]) == number), None)
                key = f"layer_activations.{exception}" if exception else "activation"
                raise ConfigError(
                    f"{key}={name_of(sigma)}: for the output layer only (activation@output=...), not for layer {number}"
                )
        return sigmas


def build(node: Mapping[str, Any], trusted: Collection[str] | None = None) -> Config:
    """The run that a resolved config describes; its tracking and other outer keys are left aside.

    Args:
        trusted: packages whose targets may be called; None for a config composed here.

    Raises:
        ConfigError: anything wrong that shows without loading the data.
    """
    if isinstance(node.get("name"), (list, dict)):
        raise ConfigError(f"name={node['name']}: must be text or null")
    if "_target_" in node:
        raise ConfigError("_target_: unknown key; the parts have targets, not the whole")
    config: Config = instantiate(Config, scientific(node), "", trusted)
    check_cost(config)
    chain_config(node, trusted)
    return config


@dataclass(frozen=True)
class ChainConfig:
    """The hash chain over the trajectory (:mod:`pipeline.reproducibility.hash_chain`).

    Args:
        schedule: the steps to observer; the first and the last are in any case.
    """

    schedule: Schedule


def chain_config(node: Mapping[str, Any], trusted: Collection[str] | None = None) -> ChainConfig | None:
    """That of a resolved config; None for one that is older than chains.

    Raises:
        ConfigError: what is wrong with it.
    """
    if "chain" not in node:
        return None
    found: ChainConfig = instantiate(ChainConfig, node["chain"], "chain", trusted)
    return found


OUTER_KEYS = ("tracking", "name", "checkpoints", "chain", "search")


def scientific(node: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved config on which a run's numbers depend."""
    return {key: value for key, value in node.items() if key not in OUTER_KEYS}


def digest(node: Mapping[str, Any]) -> str:
    """SHA-256 of the scientific part of a resolved config, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(scientific(node), sort_keys=True).encode()).hexdigest()


def name_of(part: object) -> str:
    """Return the name of the class of a part."""
    return type(part).__name__


def check_cost(config: Config) -> None:
    """Output activation and cost must speak of the same numbers.

    Raises:
        ConfigError: outputs outside the cost's domain, or coupled outputs with an uncoupled cost or the reverse.
    """
    cost, output = config.cost, config.output
    if cost.normalised is not None and cost.normalised != output.normalised:
        needs = "outputs that sum to one: output=softmax" if cost.normalised else "independent outputs: output=sigmoid"
        raise ConfigError(f"cost={name_of(cost)}: contradicts output={name_of(output)}; it needs {needs}")
    if output.low < cost.output_low or output.high > cost.output_high:
        raise ConfigError(
            f"cost={name_of(cost)}: contradicts output={name_of(output)}, whose values reach from {output.low:g} to "
            f"{output.high:g}; the cost needs [{cost.output_low:g}, {cost.output_high:g}]: output=sigmoid"
        )


@dataclass(frozen=True)
class DivergenceConfig:
    """What to do when a replicate diverges.

    Args:
        stop: end the run as soon as every replicate has diverged; otherwise train on to the end.
        keep_steps: how many steps before the first non-finite value to measure again and keep; also how often the
            parameters are looked at (measured values are, whenever they are measured).
    """

    stop: bool
    keep_steps: int

    def __post_init__(self) -> None:
        if self.keep_steps < 1:
            raise ValueError(f"keep_steps={self.keep_steps}: must be >= 1")


@dataclass(frozen=True)
class CheckpointConfig:
    """How often to keep the state of a run.

    Args:
        seconds: of training between two checkpoints; null for none at all.
    """

    seconds: float | None

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds >= 0:
            raise ValueError(f"seconds={self.seconds}: must be >= 0 or null")


def checkpoint_config(node: Mapping[str, Any]) -> CheckpointConfig:
    """That of a resolved config; none for a config without the key.

    Raises:
        ConfigError: what is wrong with it.
    """
    return instantiate(CheckpointConfig, node.get("checkpoints", {"seconds": None}), "checkpoints", frozenset())
