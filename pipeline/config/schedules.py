"""Schedules: the steps at which to measure. Step t comes after t updates; the last step T comes after training.

A schedule is a value with ``due(step, length) -> bool``, so the recorded steps are known before a run starts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingLength:
    """The last step T of a run, and the number of steps per epoch. T may lie within an epoch."""

    last_step: int
    steps_per_epoch: int


class Schedule(ABC):
    """A rule for the steps at which to measure."""

    @abstractmethod
    def due(self, step: int, length: TrainingLength) -> bool:
        """Return whether to measure at a step.

        Args:
            step: 0 ... length.last_step.
            length: The length of the run.
        """

    def next_due(self, step: int, length: TrainingLength) -> int | None:
        """Return the first scheduled step from ``step`` on, or None.

        This searches step by step. Override it where the step can be computed.

        Args:
            step: The first candidate.
            length: The length of the run.
        """
        return next((t for t in range(step, length.last_step + 1) if self.due(t, length)), None)

    def steps(self, length: TrainingLength) -> list[int]:
        """Return all scheduled steps in ascending order."""
        steps, step = [], self.next_due(0, length)
        while step is not None:
            steps.append(step)
            step = self.next_due(step + 1, length)
        return steps


@dataclass(frozen=True)
class Every(Schedule):
    """Steps 0, n, 2n, ... and the last."""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n={self.n}: must be >= 1 step")

    def due(self, step: int, length: TrainingLength) -> bool:
        return step % self.n == 0 or step == length.last_step

    def next_due(self, step: int, length: TrainingLength) -> int | None:
        return None if step > length.last_step else min(-(-step // self.n) * self.n, length.last_step)


@dataclass(frozen=True)
class Logarithmic(Schedule):
    """Step 0, then ⌈10^{k/m}⌉ for k = 0, 1, ... with m steps per decade, and the last."""

    per_decade: int

    def __post_init__(self) -> None:
        if self.per_decade < 1:
            raise ValueError(f"per_decade={self.per_decade}: must be >= 1")

    def due(self, step: int, length: TrainingLength) -> bool:
        return self.next_due(step, length) == step

    def next_due(self, step: int, length: TrainingLength) -> int | None:
        if step > length.last_step:
            return None
        if step == 0:
            return 0
        k = max(0, int(self.per_decade * math.log10(step)) - 2)
        while (t := math.ceil(10 ** (k / self.per_decade))) < step:
            k += 1
        return min(t, length.last_step)


@dataclass(frozen=True)
class EachEpoch(Schedule):
    """The first step of each epoch, and the last step."""

    def due(self, step: int, length: TrainingLength) -> bool:
        return step % length.steps_per_epoch == 0 or step == length.last_step

    def next_due(self, step: int, length: TrainingLength) -> int | None:
        return Every(length.steps_per_epoch).next_due(step, length)


@dataclass(frozen=True)
class FirstAndLast(Schedule):
    """Before and after training."""

    def due(self, step: int, length: TrainingLength) -> bool:
        return step in (0, length.last_step)

    def next_due(self, step: int, length: TrainingLength) -> int | None:
        return None if step > length.last_step else min(step, 1) * length.last_step


@dataclass(frozen=True)
class At(Schedule):
    """The listed steps. Those after the last step have no effect."""

    steps_listed: Sequence[int]

    def __post_init__(self) -> None:
        if not self.steps_listed or any(t < 0 for t in self.steps_listed):
            raise ValueError(f"steps_listed={list(self.steps_listed)}: must be one or more steps >= 0")

    def due(self, step: int, length: TrainingLength) -> bool:
        return step in self.steps_listed

    def next_due(self, step: int, length: TrainingLength) -> int | None:
        return min((t for t in self.steps_listed if step <= t <= length.last_step), default=None)


class ProbeScheduler:
    """Returns the names that are due at each step. The steps must be requested in ascending order.

    Args:
        schedules: Schedules by name, in the order in which names are returned.
        length: The length of the run.
        start: The first step that will be requested.

    Attributes:
        next_step: The next step at which a name is due; after the last step if there is none.
    """

    def __init__(self, schedules: dict[str, Schedule], length: TrainingLength, start: int = 0) -> None:
        self._length = length
        self._groups: list[tuple[Schedule, list[str]]] = []  # names with equal schedules are checked together
        for name, schedule in schedules.items():
            same = next((names for existing, names in self._groups if existing == schedule), None)
            if same is None:
                self._groups.append((schedule, [name]))
            else:
                same.append(name)
        self._order = {name: i for i, name in enumerate(schedules)}
        self._next = [schedule.next_due(start, length) for schedule, _ in self._groups]
        self.next_step = self._earliest()

    def _earliest(self) -> int:
        return min((t for t in self._next if t is not None), default=self._length.last_step + 1)

    def due(self, step: int) -> list[str]:
        """Return the names that are due at this step, in the order of ``schedules``."""
        if step < self.next_step:
            return []
        names = []
        for i, (schedule, group) in enumerate(self._groups):
            if self._next[i] == step:
                names += group
            upcoming = self._next[i]
            if upcoming is not None and upcoming <= step:
                self._next[i] = schedule.next_due(step + 1, self._length)
        self.next_step = self._earliest()
        return sorted(names, key=self._order.__getitem__)
