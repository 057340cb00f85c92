"""Learning-rate schedules: the factor f(t) by which the learning rate is multiplied at step t of T.

η(t) = η · f(t). Small and composable: :class:`WarmUp` wraps any other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


class LearningRateSchedule(ABC):
    """A factor of the learning rate for each step."""

    @abstractmethod
    def factor(self, step: int, total_steps: int) -> float:
        """f(t) for t = step of T = total_steps, t from 0."""


@dataclass(frozen=True)
class Constant(LearningRateSchedule):
    """f = 1."""

    def factor(self, step: int, total_steps: int) -> float:
        return 1.0


@dataclass(frozen=True)
class StepDecay(LearningRateSchedule):
    """f = decay^⌊t/every⌋."""

    every: int
    decay: float

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every={self.every}: must be >= 1 step")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay={self.decay}: must be in (0, 1]")

    def factor(self, step: int, total_steps: int) -> float:
        return self.decay ** (step // self.every)


@dataclass(frozen=True)
class Cosine(LearningRateSchedule):
    """f = end + (1 − end)·½(1 + cos πt/T). Source: Loshchilov & Hutter, "SGDR", 2017, without restarts."""

    end: float

    def __post_init__(self) -> None:
        if not 0 <= self.end <= 1:
            raise ValueError(f"end={self.end}: must be in [0, 1]")

    def factor(self, step: int, total_steps: int) -> float:
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * step / max(total_steps, 1))) / 2


@dataclass(frozen=True)
class WarmUp(LearningRateSchedule):
    """f = (t + 1)/n for the first n steps, then another schedule over the remaining T − n."""

    steps: int
    then: LearningRateSchedule

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: must be >= 1")

    def factor(self, step: int, total_steps: int) -> float:
        if step < self.steps:
            return (step + 1) / self.steps
        return self.then.factor(step - self.steps, total_steps - self.steps)
