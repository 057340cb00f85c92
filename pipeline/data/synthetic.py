"""Synthetic data. Each replicate draws its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.activations import Activation, Identity
from engine.initializers import Constant, GaussianFanIn, initialize
from engine.network import Network
from pipeline.data.table import Source, Table

MOST_EXAMPLES = 10_000_000  # of two numbers each; their arrays take seconds to draw
MOST_CLASSES = 10_000  # their targets are one-hot


def _at_most(name: str, value: int, highest: int) -> None:
    if value > highest:
        raise ValueError(f"{name}={value}: must be <= {highest}")


def _at_least(name: str, value: float, lowest: float) -> None:
    if not value >= lowest or math.isinf(value):
        raise ValueError(f"{name}={value}: must be >= {lowest} and finite")


@dataclass(frozen=True)
class TwoSpirals(Source):
    """Two interleaved spirals in the plane. Source: Lang & Witbrock, "Learning to Tell Two Spirals Apart", 1988.

    Args:
        examples: Number of rows.
        turns: Turns of each arm.
        noise: Standard deviation of the Gaussian added to both coordinates (the radius is at most 1).
    """

    examples: int
    turns: float
    noise: float
    varies = True

    def __post_init__(self) -> None:
        _at_least("examples", self.examples, 4)
        _at_most("examples", self.examples, MOST_EXAMPLES)
        _at_least("turns", self.turns, 0)
        _at_least("noise", self.noise, 0)

    def load(self, rng: np.random.Generator) -> Table:
        y = np.arange(self.examples) % 2
        radius = np.sqrt(rng.random(self.examples))
        angle = 2 * np.pi * self.turns * radius + np.pi * y
        x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return Table(x + self.noise * rng.standard_normal(x.shape), y, classes=2)


@dataclass(frozen=True)
class GaussianNoise(Source):
    """Independent inputs x ~ N(0, variance) with random classes, to compare gradients with theory.

    The expected mean square of a weighted input in layer 1 is exactly σ_w² · variance + σ_b².

    Args:
        examples: Number of rows.
        inputs: Number of inputs.
        classes: Number of classes.
        variance: Variance of each input.
    """

    examples: int
    inputs: int
    classes: int
    variance: float
    varies = True

    def __post_init__(self) -> None:
        _at_least("examples", self.examples, 2)
        _at_least("inputs", self.inputs, 1)
        _at_least("classes", self.classes, 2)
        _at_most("classes", self.classes, MOST_CLASSES)
        _at_least("variance", self.variance, 0)

    def load(self, rng: np.random.Generator) -> Table:
        x = math.sqrt(self.variance) * rng.standard_normal((self.examples, self.inputs))
        return Table(x, rng.integers(self.classes, size=self.examples), classes=self.classes)


@dataclass(frozen=True)
class Teacher(Source):
    """Regression targets from a random network of known shape: y = a^L(x), x ~ N(0, 1).

    The teacher has weights N(0, s²/fan_in) with s = weight_std, no biases and a linear output.

    Args:
        examples: Number of rows.
        inputs: Number of inputs.
        outputs: Number of targets.
        hidden: Hidden sizes of the teacher.
        activation: Activation of its hidden layers.
        weight_std: s.
    """

    examples: int
    inputs: int
    outputs: int
    hidden: Sequence[int]
    activation: Activation
    weight_std: float
    varies = True

    def __post_init__(self) -> None:
        _at_least("examples", self.examples, 2)
        _at_least("inputs", self.inputs, 1)
        _at_least("outputs", self.outputs, 1)
        _at_least("weight_std", self.weight_std, 0)
        if any(n < 1 for n in self.hidden):
            raise ValueError(f"hidden={list(self.hidden)}: every size must be >= 1")

    def load(self, rng: np.random.Generator) -> Table:
        sigmas: list[Activation] = [self.activation] * len(self.hidden)
        teacher = Network.mlp([self.inputs, *self.hidden, self.outputs], [*sigmas, Identity()])
        initialize(teacher, GaussianFanIn(self.weight_std), Constant(0.0), [rng])
        x = rng.standard_normal((self.examples, self.inputs))
        return Table(x, teacher.forward(x.T).T.copy(), classes=None)


@dataclass(frozen=True)
class Point(Source):
    """A few examples given in the config, the same for training and test: one neuron, a chain, a worked example.

    Args:
        x: Rows of inputs.
        y: Rows of real targets.
    """

    x: Sequence[Sequence[float]]
    y: Sequence[Sequence[float]]

    def load(self, rng: np.random.Generator) -> Table:
        try:
            x, y = np.array(self.x, dtype=np.float64), np.array(self.y, dtype=np.float64)
        except ValueError as ragged:
            raise ValueError("x, y: all rows must have equal lengths") from ragged
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or x.size == 0 or y.size == 0:
            raise ValueError(f"x, y: as many rows each, none empty; got shapes {x.shape} and {y.shape}")
        return Table(np.concatenate([x, x]), np.concatenate([y, y]), classes=None, test=len(x))
