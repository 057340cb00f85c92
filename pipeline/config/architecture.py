"""Architectures: the list of layer sizes (n_0, ..., n_L) and the network's blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from engine.activations import Activation
from engine.blocks import Block
from engine.network import Dense

MAX_DEPTH = 100_000


class Architecture(ABC):
    """A rule for the sizes of the layers."""

    @abstractmethod
    def sizes(self, n_in: int, n_out: int) -> list[int]:
        """Return (n_0, ..., n_L).

        Args:
            n_in: Number of inputs of the data.
            n_out: Number of targets of the data.

        Raises:
            ValueError: The architecture does not fit such data.
        """

    def blocks(self, sizes: Sequence[int], activations: Sequence[Activation]) -> list[Block]:
        """Return the network's blocks: Dense layers only.

        Override this method for other blocks. The layers must keep their numbers, sizes and activations.

        Args:
            sizes: Layer sizes (n_0, ..., n_L).
            activations: Activations of layers 1 ... L.
        """
        return [Dense(m, n, sigma) for (m, n), sigma in zip(pairwise(sizes), activations, strict=True)]


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value}: must be >= 1")


def _check_depth(depth: int) -> None:
    if not 1 <= depth <= MAX_DEPTH:
        raise ValueError(f"depth={depth}: must be in 1 ... {MAX_DEPTH}")


@dataclass(frozen=True)
class Mlp(Architecture):
    """A multilayer perceptron with hidden layers of the given sizes; an empty list gives no hidden layer."""

    hidden: Sequence[int]
    outputs: int | None

    def __post_init__(self) -> None:
        if any(n < 1 for n in self.hidden):
            raise ValueError(f"hidden={list(self.hidden)}: every size must be >= 1")
        if self.outputs is not None:
            _check_at_least_one("outputs", self.outputs)

    def sizes(self, n_in: int, n_out: int) -> list[int]:
        return [n_in, *self.hidden, n_out if self.outputs is None else self.outputs]


@dataclass(frozen=True)
class Deep(Architecture):
    """A multilayer perceptron with ``depth`` hidden layers of ``width`` units."""

    depth: int
    width: int
    outputs: int | None

    def __post_init__(self) -> None:
        _check_depth(self.depth)
        _check_at_least_one("width", self.width)
        if self.outputs is not None:
            _check_at_least_one("outputs", self.outputs)

    def sizes(self, n_in: int, n_out: int) -> list[int]:
        return [n_in, *[self.width] * self.depth, n_out if self.outputs is None else self.outputs]


@dataclass(frozen=True)
class Chain(Architecture):
    """A chain of single neurons (section 1 of the derivation): one input, ``depth`` hidden layers, one output."""

    depth: int

    def __post_init__(self) -> None:
        _check_depth(self.depth)

    def sizes(self, n_in: int, n_out: int) -> list[int]:
        if n_in != 1 or n_out != 1:
            raise ValueError(f"a chain needs data of 1 input and 1 target, got {n_in} and {n_out} (try data=point)")
        return [1] * (self.depth + 2)
