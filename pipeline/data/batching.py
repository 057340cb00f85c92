"""Batching: the examples of each step. Every replicate has its own generator of index arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.arrays import Array

LastBatch = Literal["keep", "drop"]


class Batching(ABC):
    """A rule that splits ``n`` examples into the batches of an epoch."""

    @abstractmethod
    def steps_per_epoch(self, n: int) -> int:
        """Return the number of steps in one pass over n examples."""

    @abstractmethod
    def batches(self, n: int, rng: np.random.Generator) -> Iterator[Array]:
        """Yield index arrays into 0 ... n−1, epoch after epoch, without end.

        Args:
            n: Number of examples.
            rng: The replicate's own generator.
        """

    @abstractmethod
    def largest(self, n: int) -> int:
        """Return the size of the largest batch."""


@dataclass(frozen=True)
class MiniBatch(Batching):
    """Shuffled examples, cut into batches of ``size`` (last section of the derivation).

    Args:
        size: Examples per batch.
        last: Whether to "keep" a shorter last batch (its gradient is its own average) or "drop" it.
    """

    size: int
    last: LastBatch

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size}: must be >= 1")

    def steps_per_epoch(self, n: int) -> int:
        return n // self.size if self.last == "drop" else -(-n // self.size)

    def batches(self, n: int, rng: np.random.Generator) -> Iterator[Array]:
        end = self.steps_per_epoch(n) * self.size
        while True:
            order = rng.permutation(n)
            for start in range(0, end, self.size):
                yield order[start : start + self.size]

    def largest(self, n: int) -> int:
        return self.size


@dataclass(frozen=True)
class FullBatch(Batching):
    """Every example in every step: gradient descent on the whole training set."""

    def steps_per_epoch(self, n: int) -> int:
        return 1

    def batches(self, n: int, rng: np.random.Generator) -> Iterator[Array]:
        everything = np.arange(n)
        while True:
            yield everything

    def largest(self, n: int) -> int:
        return n


@dataclass(frozen=True)
class WithReplacement(Batching):
    """Batches of independent draws; an epoch has ⌈n/size⌉ batches."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size}: must be >= 1")

    def steps_per_epoch(self, n: int) -> int:
        return -(-n // self.size)

    def batches(self, n: int, rng: np.random.Generator) -> Iterator[Array]:
        while True:
            yield rng.integers(n, size=self.size)

    def largest(self, n: int) -> int:
        return self.size
