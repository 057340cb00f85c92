"""Schedules: at which steps to measure. Step t is after t updates; T, the last, is after training.

A schedule is a value ``due(step, clock) -> bool``, so recorded steps can be known before a run starts.
"""

from __future__ import annotations

import math
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

    def next_due(self, step: int, clock: Clock) -> int | None:
        """The first scheduled step at or after this one. Looked for step by step; override it where it can be known."""
        return next((t for t in range(step, clock.last_step + 1) if self.due(t, clock)), None)

    def steps(self, clock: Clock) -> list[int]:
        """All scheduled steps, ascending."""
        found, step = [], self.next_due(0, clock)
        while step is not None:
            found.append(step)
            step = self.next_due(step + 1, clock)
        return found


@dataclass(frozen=True)
class Every(Schedule):
    """Steps 0, n, 2n, ... and the last."""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n={self.n}: must be >= 1 step")

    def due(self, step: int, clock: Clock) -> bool:
        return step % self.n == 0 or step == clock.last_step

    def next_due(self, step: int, clock: Clock) -> int | None:
        return None if step > clock.last_step else min(-(-step // self.n) * self.n, clock.last_step)


@dataclass(frozen=True)
class Logarithmic(Schedule):
    """Step 0, then ⌈10^{k/m}⌉ for k = 0, 1, ... with m steps a decade, and the last."""

    per_decade: int

    def __post_init__(self) -> None:
        if self.per_decade < 1:
            raise ValueError(f"per_decade={self.per_decade}: must be >= 1")

    def due(self, step: int, clock: Clock) -> bool:
        return self.next_due(step, clock) == step

    def next_due(self, step: int, clock: Clock) -> int | None:
        if step > clock.last_step:
            return None
        if step == 0:
            return 0
        k = max(0, int(self.per_decade * math.log10(step)) - 2)
        while (t := math.ceil(10 ** (k / self.per_decade))) < step:
            k += 1
        return min(t, clock.last_step)


@dataclass(frozen=True)
class EachEpoch(Schedule):
    """The first step of each epoch, and the last step."""

    def due(self, step: int, clock: Clock) -> bool:
        return step % clock.steps_per_epoch == 0 or step == clock.last_step

    def next_due(self, step: int, clock: Clock) -> int | None:
        return Every(clock.steps_per_epoch).next_due(step, clock)


@dataclass(frozen=True)
class FirstAndLast(Schedule):
    """Before and after training."""

    def due(self, step: int, clock: Clock) -> bool:
        return step in (0, clock.last_step)

    def next_due(self, step: int, clock: Clock) -> int | None:
        return None if step > clock.last_step else min(step, 1) * clock.last_step


@dataclass(frozen=True)
class At(Schedule):
    """The given steps; those beyond the run's end are never reached."""

    steps_listed: Sequence[int]

    def __post_init__(self) -> None:
        if not self.steps_listed or any(t < 0 for t in self.steps_listed):
            raise ValueError(f"steps_listed={list(self.steps_listed)}: must be one or more steps >= 0")

    def due(self, step: int, clock: Clock) -> bool:
        return step in self.steps_listed

    def next_due(self, step: int, clock: Clock) -> int | None:
        return min((t for t in self.steps_listed if step <= t <= clock.last_step), default=None)


class Agenda:
    """Which of several named things are due at each step, asked for in ascending order of steps.

    Args:
        schedules: name -> its schedule, in the order in which to answer.
        start: the first step that will be asked for.
    """

    def __init__(self, schedules: dict[str, Schedule], clock: Clock, start: int = 0) -> None:
        self._clock = clock
        self._groups: list[tuple[Schedule, list[str]]] = []
        for name, schedule in schedules.items():
            same = next((names for other, names in self._groups if other == schedule), None)
            if same is None:
                self._groups.append((schedule, [name]))
            else:
                same.append(name)
        self._order = {name: i for i, name in enumerate(schedules)}
        self._next = [schedule.next_due(start, clock) for schedule, _ in self._groups]
        self.upcoming = self._soonest()

    def _soonest(self) -> int:
        """The next step at which anything is due; beyond the end if nothing is."""
        return min((t for t in self._next if t is not None), default=self._clock.last_step + 1)

    def due(self, step: int) -> list[str]:
        """The names due at this step, in the order given."""
        if step < self.upcoming:
            return []
        names = []
        for i, (schedule, group) in enumerate(self._groups):
            if self._next[i] == step:
                names += group
            after = self._next[i]
            if after is not None and after <= step:
                self._next[i] = schedule.next_due(step + 1, self._clock)
        self.upcoming = self._soonest()
        return sorted(names, key=self._order.__getitem__)
