"""Learning-rate schedules η(t) = η f(t), t = 0 ... T − 1. A value outside its range raises ValueError."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


class LearningRateSchedule(ABC):
    """Factor f(t) of the learning rate."""

    @abstractmethod
    def factor(self, step: int, total_steps: int) -> float:
        """Return f(t) for t = step, T = total_steps."""


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
    """f = (t + 1)/n for the first n steps, then the schedule ``then`` over the remaining T − n steps."""

    steps: int
    then: LearningRateSchedule

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: must be >= 1")

    def factor(self, step: int, total_steps: int) -> float:
        if step < self.steps:
            return (step + 1) / self.steps
        return self.then.factor(step - self.steps, total_steps - self.steps)
