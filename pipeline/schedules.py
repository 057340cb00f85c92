"""Schedules: at which steps to measure. Step t is after t updates; T, the last, is after training.

A schedule is a value ``due(step, clock) -> bool``, so recorded steps can be listed before a run starts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """How long the run is: its last step T and the steps of one epoch."""

    last_step: int
    steps_per_epoch: int


class Schedule(ABC):
    """step -> bool."""

    @abstractmethod
    def due(self, step: int, clock: Clock) -> bool:
        """Whether to measure at this step, 0 <= step <= clock.last_step."""

    def steps(self, clock: Clock) -> list[int]:
        """All scheduled steps, ascending."""
        return [t for t in range(clock.last_step + 1) if self.due(t, clock)]


@dataclass(frozen=True)
class Every(Schedule):
    """Steps 0, n, 2n, ... and the last."""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n={self.n}: must be >= 1 step")

    def due(self, step: int, clock: Clock) -> bool:
        return step % self.n == 0 or step == clock.last_step


@dataclass(frozen=True)
class Logarithmic(Schedule):
    """Step 0, then ⌈10^{k/m}⌉ for k = 0, 1, ... with m steps a decade, and the last."""

    per_decade: int

    def __post_init__(self) -> None:
        if self.per_decade < 1:
            raise ValueError(f"per_decade={self.per_decade}: must be >= 1")

    def due(self, step: int, clock: Clock) -> bool:
        if step in (0, clock.last_step):
            return True
        k = 0
        while (t := -int(-(10 ** (k / self.per_decade)) // 1)) < step:
            k += 1
        return t == step


@dataclass(frozen=True)
class EachEpoch(Schedule):
    """The first step of each epoch, and the last step."""

    def due(self, step: int, clock: Clock) -> bool:
        return step % clock.steps_per_epoch == 0 or step == clock.last_step


@dataclass(frozen=True)
class FirstAndLast(Schedule):
    """Before and after training."""

    def due(self, step: int, clock: Clock) -> bool:
        return step in (0, clock.last_step)


@dataclass(frozen=True)
class At(Schedule):
    """The given steps; those beyond the run's end are never reached."""

    steps_listed: Sequence[int]

    def __post_init__(self) -> None:
        if not self.steps_listed or any(t < 0 for t in self.steps_listed):
            raise ValueError(f"steps_listed={list(self.steps_listed)}: must be one or more steps >= 0")

    def due(self, step: int, clock: Clock) -> bool:
        return step in self.steps_listed
