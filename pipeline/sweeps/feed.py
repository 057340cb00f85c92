"""Workers for cells that are not known beforehand: each is asked for when somebody has time for it."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from pipeline.runs.cell import CellJob, CellResult
from pipeline.sweeps.executor import Pool


class Source(Protocol):
    """Where the cells come from."""

    def done(self) -> bool:
        """Whether nothing is left to ask for, here or elsewhere."""

    def ask(self) -> tuple[Any, CellJob] | None:
        """A cell and what it is asked for; None if there is none at the moment."""

    def tell(self, asked: Any, settled: CellResult) -> None:
        """How it was settled."""

    def abandon(self, asked: Any) -> None:
        """It is not going to be settled here."""

    def wait(self) -> None:
        """Nothing to do at the moment."""


class Feed(Pool):
    """A pool that asks for its cells one by one."""

    def feed(self, source: Source) -> None:
        """Settle whatever the source has; what is not settled when this ends is lost to it."""
        tasks: list[CellJob] = []
        asked: dict[int, Any] = {}
        left: deque[int] = deque()
        tries: dict[int, int] = {}
        not_before: dict[int, float] = {}
        try:
            with self._open():
                while True:
                    while len(asked) < self.jobs and (new := source.ask()) is not None:
                        number = len(tasks)
                        asked[number] = new[0]
                        tasks.append(new[1])
                        left.append(number)
                        tries[number], not_before[number] = 0, 0.0
                    if not asked:
                        if source.done():
                            return
                        source.wait()
                        continue
                    self._hand_out(tasks, left, not_before)
                    for number, settled in self._heard(tasks, left, tries, not_before):
                        source.tell(asked[number], settled)
                        del asked[number]
                        self.on_settled(number, settled)
        finally:
            for one in asked.values():
                source.abandon(one)
