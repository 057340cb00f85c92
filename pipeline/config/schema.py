"""The schema of a run's config, and the checks that concern several keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.activations import Activation
from engine.costs import Cost
from engine.initializers import Initializer
from engine.optimizers import Optimizer
from engine.probes import Probe
from pipeline.config.architecture import Architecture
from pipeline.config.early_stopping import ValidationCost
from pipeline.config.instantiate import OWN_PACKAGES as OWN_PACKAGES
from pipeline.config.instantiate import instantiate
from pipeline.config.schedules import Schedule, TrainingLength
from pipeline.data.batching import Batching
from pipeline.data.prepare import DataConfig
from pipeline.errors import ConfigError

MOST_REPLICATES = 100_000
LENGTHS = ("epochs", "steps")  # of the training; one of them is given


@dataclass(frozen=True)
class Init:
    """Initialisers of weights and biases."""

    weights: Initializer
    biases: Initializer


@dataclass(frozen=True)
class Evaluation:
    """When and on how many examples to compute cost and accuracy (R² for a regression).

    Args:
        schedule: The steps. The validation set is used whole at each of them.
        train_examples: Largest number of training examples, the first of each replicate.
        intermediate_test_examples: Largest number of test examples at every evaluation but the last, which uses the
            whole test set; None for no such limit. The training examples are the same in all, so that costs compare.
    """

    schedule: Schedule
    train_examples: int
    intermediate_test_examples: int | None = None

    def __post_init__(self) -> None:
        if self.train_examples < 1:
            raise ValueError(f"train_examples={self.train_examples}: must be >= 1")
        if self.intermediate_test_examples is not None and self.intermediate_test_examples < 1:
            raise ValueError(
                f"intermediate_test_examples={self.intermediate_test_examples}: must be >= 1, or null for all"
            )


@dataclass(frozen=True)
class Config:
    """Everything that a run's numbers depend on.

    Args:
        seed: Replicate k is the run with seed + k.
        replicates: Number of networks, trained as one stack.
        epochs: Passes over the training set, or None; 0 measures at initialisation only.
        dtype: Type of parameters, activation values and gradients.
        architecture: The layer sizes and blocks.
        activation: Activation of the hidden layers.
        output: Activation of the last layer.
        layer_activations: Exceptions for single layers, ``layer_03: ...``.
        cost: The cost.
        init: Initialisers of weights and biases.
        batching: How each epoch is split into batches.
        optimizer: SGD or Adam with its options.
        data: The source and its split.
        probes: Probes by name.
        schedule: When to measure every probe without an entry in ``probe_schedules``.
        probe_schedules: Schedules of single probes.
        evaluation: When to compute cost and accuracy.
        divergence: What to do when a replicate diverges.
        early_stopping: When to end the training before its last step, or None for never.
        steps: Number of updates, or None. Either ``epochs`` or ``steps`` is given.
    """

    seed: int
    replicates: int
    epochs: int | None
    dtype: Literal["float64", "float32"]
    architecture: Architecture
    activation: Activation
    output: Activation
    layer_activations: Mapping[str, Activation]
    cost: Cost
    init: Init
    batching: Batching
    optimizer: Optimizer
    data: DataConfig
    probes: Mapping[str, Probe]
    schedule: Schedule
    probe_schedules: Mapping[str, Schedule]
    evaluation: Evaluation
    divergence: DivergenceConfig
    steps: int | None = None  # absent from configs that older versions logged
    early_stopping: ValidationCost | None = None  # absent unless the group is chosen

    def __post_init__(self) -> None:
        for name, lowest in (("seed", 0), ("replicates", 1), ("epochs", 0), ("steps", 0)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"{name}={value}: must be >= {lowest}")
        if (self.epochs is None) == (self.steps is None):
            epochs, steps = ("null" if value is None else value for value in (self.epochs, self.steps))
            raise ValueError(f"epochs={epochs}, steps={steps}: give one of them; the other must be null")
        if self.replicates > MOST_REPLICATES:
            raise ValueError(f"replicates={self.replicates}: must be <= {MOST_REPLICATES}")
        if self.early_stopping is not None and not self.data.validation_fraction:
            fraction = f"data.validation_fraction={self.data.validation_fraction}"
            raise ValueError(f"{fraction}: early_stopping needs a validation set; must be above 0, such as 0.2")
        for name in self.layer_activations:
            if not (name.startswith("layer_") and name[6:].isdigit() and int(name[6:]) >= 1):
                raise ValueError(f"layer_activations.{name}: must be layer_01, layer_02, ...")
        for name in self.probes:
            if not name.replace("_", "").isalnum():
                raise ValueError(f"probes.{name}: a probe's name may have letters, digits and underscores only")
        for name in self.probe_schedules:
            if name not in self.probes:
                raise ValueError(f"probe_schedules.{name}: no such probe; allowed: {', '.join(self.probes) or 'none'}")

    def length(self, steps_per_epoch: int) -> TrainingLength:
        """Return the length of the training.

        Args:
            steps_per_epoch: Steps in one pass over the training set.
        """
        last_step = self.steps if self.steps is not None else (self.epochs or 0) * steps_per_epoch
        return TrainingLength(last_step, steps_per_epoch)

    def activations(self, layers: int) -> list[Activation]:
        """Return the activations of layers 1 ... ``layers``.

        Raises:
            ConfigError: An exception concerns a layer that does not exist, or a normalised activation a hidden layer.
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


def build(raw_config: Mapping[str, Any], trusted: Collection[str] | None = None) -> Config:
    """Build the typed config of a run. Tracking and other outer keys are ignored.

    Args:
        raw_config: A resolved config.
        trusted: Packages whose targets may be called; None for a config that the user composed.

    Raises:
        ConfigError: Anything wrong that can be detected without the data.
    """
    if isinstance(raw_config.get("name"), (list, dict)):
        raise ConfigError(f"name={raw_config['name']}: must be text or null")
    if not str(raw_config.get("name")).isprintable():
        raise ConfigError(f"name={raw_config['name']!r}: must be one line without control characters")
    if "_target_" in raw_config:
        raise ConfigError("_target_: unknown key; the parts have targets, not the whole")
    config: Config = instantiate(Config, scientific(raw_config), "", trusted)
    check_cost(config)
    chain_config(raw_config, trusted)
    return config


@dataclass(frozen=True)
class ChainConfig:
    """The hash chain over the trajectory (:mod:`pipeline.reproducibility.hash_chain`).

    Args:
        schedule: The steps to hash; the first and the last are always included.
    """

    schedule: Schedule


def chain_config(raw_config: Mapping[str, Any], trusted: Collection[str] | None = None) -> ChainConfig | None:
    """Build the chain's config; None for a raw config without the key.

    Args:
        raw_config: A resolved config.
        trusted: Packages whose targets may be called; None for a config that the user composed.

    Raises:
        ConfigError: A value is wrong.
    """
    if "chain" not in raw_config:
        return None
    config: ChainConfig = instantiate(ChainConfig, raw_config["chain"], "chain", trusted)
    return config


OUTER_KEYS = ("tracking", "name", "checkpoints", "chain", "search", "executor")


def scientific(raw_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved config that a run's numbers depend on.

    ``steps=null``, ``early_stopping=null`` and ``data.validation_fraction=0`` are left out, so that the config equals
    that of an older run without the keys.
    """
    plain = {key: value for key, value in raw_config.items() if key not in OUTER_KEYS}
    for key in ("steps", "early_stopping"):
        if plain.get(key, 0) is None:
            del plain[key]
    data = plain.get("data")
    if isinstance(data, Mapping) and data.get("validation_fraction") == 0:
        plain["data"] = {key: value for key, value in data.items() if key != "validation_fraction"}
    return plain


def with_one_length(overrides: Sequence[str]) -> list[str]:
    """Add the override by which ``steps=...`` replaces the config's ``epochs``, or ``epochs=...`` its ``steps``.

    Args:
        overrides: Overrides ``key=value``. If they give both keys, both remain, and :func:`build` refuses them.
    """
    values = dict(text.lstrip("+").split("=", 1) for text in overrides if "=" in text)
    if all(values.get(key, "null").strip().lower() == "null" for key in LENGTHS):
        return list(overrides)
    return [*overrides, *(f"{key}=null" for key in LENGTHS if key not in values)]


def digest(raw_config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the scientific part of a resolved config, for any order of its keys."""
    return hashlib.sha256(json.dumps(scientific(raw_config), sort_keys=True).encode()).hexdigest()


def name_of(part: object) -> str:
    """Return the class name of a part."""
    return type(part).__name__


def check_cost(config: Config) -> None:
    """Check that the outputs lie in the cost's domain.

    Raises:
        ConfigError: Outputs can leave the cost's domain, or only one of output and cost is normalised.
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
        stop: Whether to end the run as soon as every replicate has diverged.
        keep_steps: Number of steps before the first non-finite value to replay, measure and keep. The parameters are
            also checked at this interval, in steps.
    """

    stop: bool
    keep_steps: int

    def __post_init__(self) -> None:
        if self.keep_steps < 1:
            raise ValueError(f"keep_steps={self.keep_steps}: must be >= 1")


@dataclass(frozen=True)
class CheckpointConfig:
    """How often to save the state of a run.

    Args:
        seconds: Seconds of training between two checkpoints; null saves none.
    """

    seconds: float | None

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds >= 0:
            raise ValueError(f"seconds={self.seconds}: must be >= 0 or null")


def checkpoint_config(raw_config: Mapping[str, Any]) -> CheckpointConfig:
    """Build the config of checkpoints. A raw config without the key saves none.

    Args:
        raw_config: A resolved config.

    Raises:
        ConfigError: A value is wrong.
    """
    return instantiate(CheckpointConfig, raw_config.get("checkpoints", {"seconds": None}), "checkpoints", frozenset())
