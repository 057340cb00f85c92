"""Where the time of a command goes: each second is charged to one activity.

Activities nest: while an inner one runs, the outer one is not charged. What no activity claims, from the first line of
the program on, is "imports" until the first activity and "other" after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.table import Table

IMPORTS, OTHER, WAITING = "imports", "other", "waiting for processes"
STEPS, PROBES = "steps", "probes"
# Names of the training's timer that are no probes, and their activity.
OF_TRAINING = {
    "step": STEPS,
    "initialise": "initialise",
    "evaluation": "evaluation",
    "watch": "divergence check",
    "chain": "hash chain",
    "checkpoints": "checkpoints",
    "tracking": "metrics",
}


class Profile:
    """Seconds by activity, of one process and of the processes that worked for it.

    Args:
        clock: Returns ascending seconds.

    Attributes:
        seconds: Seconds of this process by activity.
        of_workers: Sum of the seconds of all worker processes by activity.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.restart(IMPORTS)

    def restart(self, activity: str) -> None:
        """Forget all times, and charge an activity from now on."""
        self.seconds: dict[str, float] = {}
        self.of_workers: dict[str, float] = {}
        self._current, self._since = activity, self._clock()
        self._is_starting = activity == IMPORTS

    def _switch(self, activity: str) -> str:
        now, before = self._clock(), self._current
        self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._current, self._since = activity, now
        return before

    @contextmanager
    def activity(self, name: str) -> Iterator[None]:
        """Charge the time of a block to an activity. The first one ends the imports of the program."""
        if self._is_starting:
            self._switch(OTHER)
            self._is_starting = False
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def split_training(self, seconds: Mapping[str, float]) -> None:
        """Charge the times that a training's timer measured, which the activity "steps" has, to their own activities.

        Args:
            seconds: Seconds by the names of :class:`pipeline.training.timing.Timer`.
        """
        for name, spent in seconds.items():
            activity = OF_TRAINING.get(name, PROBES)
            self.seconds[STEPS] = self.seconds.get(STEPS, 0.0) - spent
            self.seconds[activity] = self.seconds.get(activity, 0.0) + spent

    def add_worker(self, seconds: Mapping[str, float]) -> None:
        """Add the times of a worker process."""
        for name, spent in seconds.items():
            self.of_workers[name] = self.of_workers.get(name, 0.0) + spent

    def taken(self) -> dict[str, float]:
        """Return the seconds of this process so far, by activity."""
        self._switch(self._current)
        return dict(self.seconds)

    def rows(self) -> list[tuple[str, float, float]]:
        """Return activity, seconds of this process and seconds of its workers, the longest first."""
        own = self.taken()
        names = dict.fromkeys([*own, *self.of_workers])
        rows = [(name, own.get(name, 0.0), self.of_workers.get(name, 0.0)) for name in names]
        return sorted(rows, key=lambda row: -(row[1] + row[2]))

    def table(self) -> Table:
        """Return a table of where the time went."""
        rows = self.rows()
        total, of_workers = (sum(column) for column in list(zip(*rows, strict=True))[1:])
        table = Table("activity", title="where the time went", title_justify="left")
        for heading in ("this process, s", "its workers, s", "share"):
            table.add_column(heading, justify="right")
        busy = total + of_workers - next((own for name, own, _ in rows if name == WAITING), 0.0)
        for name, own, worker in rows:
            share = "" if name == WAITING else f"{(own + worker) / busy:.1%}"
            table.add_row(name, f"{own:.2f}", f"{worker:.2f}", share)
        table.add_row("all", f"{total:.2f}", f"{of_workers:.2f}", "")
        return table

    def text(self) -> str:
        """Return the rows as lines of text."""
        lines = [f"{name:<24}{own:10.3f} s{worker:12.3f} s" for name, own, worker in self.rows()]
        return "\n".join([f"{'activity':<24}{'this process':>12}{'its workers':>14}", *lines]) + "\n"


PROFILE = Profile(time.perf_counter)
