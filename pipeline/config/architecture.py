"""Architectures: from what the data needs, the list of layer sizes (n_0, ..., n_L)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from engine.activations import Activation
from engine.blocks import Block
from engine.network import Dense


class Architecture(ABC):
    """A rule for the sizes of the layers."""

    @abstractmethod
    def sizes(self, n_in: int, n_out: int) -> list[int]:
        """(n_0, ..., n_L) for data with ``n_in`` inputs and ``n_out`` targets.

        Raises:
            ValueError: the architecture cannot carry such data.
        """

    def blocks(self, sizes: Sequence[int], activations: Sequence[Activation]) -> list[Block]:
        """The network's blocks for these layer sizes and the activations of layers 1 ... L: Dense layers only.

        Override this for other blocks; the layers keep their numbers, sizes and activations.
        """
        return [Dense(m, n, sigma) for (m, n), sigma in zip(pairwise(sizes), activations, strict=True)]


DEEPEST = 100_000


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value}: must be >= 1")


def _check_depth(depth: int) -> None:
    if not 1 <= depth <= DEEPEST:
        raise ValueError(f"depth={depth}: must be in 1 ... {DEEPEST}")


@dataclass(frozen=True)
class Mlp(Architecture):
    """Hidden layers of the given sizes; none is a network without hidden layers."""

    hidden: Sequence[int]
    outputs: int | None

    def __post_init__(self) -> None:
        if any(n < 1 for n in self.hidden):
            raise ValueError(f"hidden={list(self.hidden)}: every size must be >= 1")
        if self.outputs is not None:
            _at_least_one("outputs", self.outputs)

    def sizes(self, n_in: int, n_out: int) -> list[int]:
        return [n_in, *self.hidden, n_out if self.outputs is None else self.outputs]


@dataclass(frozen=True)
class Deep(Architecture):
    """``depth`` hidden layers of ``width`` units."""

    depth: int
    width: int
    outputs: int | None

    def __post_init__(self) -> None:
        _check_depth(self.depth)
        _at_least_one("width", self.width)
        if self.outputs is not None:
            _at_least_one("outputs", self.outputs)

    def sizes(self, n_in: int, n_out: int) -> list[int]:
        return [n_in, *[self.width] * self.depth, n_out if self.outputs is None else self.outputs]


@dataclass(frozen=True)
class Chain(Architecture):
    """A chain of single neurons, section 1 of the derivation: one input, ``depth`` hidden units in line, one output."""

    depth: int

    def __post_init__(self) -> None:
        _check_depth(self.depth)

    def sizes(self, n_in: int, n_out: int) -> list[int]:
        if n_in != 1 or n_out != 1:
            raise ValueError(f"a chain needs data of 1 input and 1 target, got {n_in} and {n_out} (try data=point)")
        return [1] * (self.depth + 2)
