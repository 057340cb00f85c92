"""Batching: which examples each step sees. One generator of index arrays a replicate, each with its own stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.arrays import Array

LastBatch = Literal["keep", "drop"]


class Batching(ABC):
    """Splits ``n`` examples into the batches of an epoch, for ever."""

    @abstractmethod
    def steps_per_epoch(self, n: int) -> int:
        """Steps in one pass over n examples."""

    @abstractmethod
    def batches(self, n: int, rng: np.random.Generator) -> Iterator[Array]:
        """Index arrays into 0 ... n−1, epoch after epoch, without end."""

    @abstractmethod
    def largest(self, n: int) -> int:
        """Size of the largest batch."""


@dataclass(frozen=True)
class MiniBatch(Batching):
    """Shuffle, then cut into batches of ``size``; the derivation's last section.

    Args:
        size: examples per batch.
        last: what happens to a shorter last batch: "keep" it (its gradient is its own average) or "drop" it.
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
    """Batches of independent draws; an epoch is ⌈n/size⌉ of them."""

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
