"""Pruning: a run whose verdict is beyond doubt is ended early, and says so.

Looked at whenever a step has been measured, and by that measurement alone, so that what is sure at initialisation is
acted on at once. Its interval decides, as in :mod:`pipeline.analysis.verdict`: what is not sure trains on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.analysis.summary import Summary
from pipeline.analysis.verdict import DEATH, DECADES, Verdict
from pipeline.training.records import Record

Judge = Callable[[Summary], Verdict | None]


@dataclass(frozen=True)
class Pruning:
    """When a run is doomed.

    Args:
        decades: that the gradient loses or gains between first and last hidden layer, at the least.
    """

    decades: float

    def __post_init__(self) -> None:
        if not self.decades >= DECADES:
            raise ValueError(f"decades={self.decades:g}: must be >= {DECADES:g}, where the verdict begins")

    def reason(self, verdict: Verdict) -> str | None:
        """Why a run with this verdict is doomed; None if it is not, or not surely."""
        d = verdict.decades
        low, high = float(d.low), float(d.high)
        name = "vanishing" if low > self.decades else "exploding" if high < -self.decades else None
        if name:
            return f"{name}: {float(d.mean):.1f} decades [{low:.1f}, {high:.1f}] over the hidden layers"
        return "dead: no error reaches the first layer" if DEATH in verdict.classes else None

    def identity(self, cell: str) -> str:
        """What a cell is that was ended early by this rule: not the cell itself, whose records go on."""
        return hashlib.sha256(f"{cell} pruned beyond {self.decades!r} decades".encode()).hexdigest()


class StoppedEarlyError(Exception):
    """A run that need not go on; its text says why."""


class EarlyStopping:
    """Looks at the newest measurement of a run.

    Args:
        pruning: the rule; None for a run that is never ended.
        judge: the verdict on a few records.
        hidden_layers: of the network.
    """

    def __init__(self, pruning: Pruning | None, judge: Judge, hidden_layers: int) -> None:
        self._pruning, self._judge = pruning, judge
        self._hidden_layers = hidden_layers
        self._newest: list[Record] = []

    @property
    def looks(self) -> bool:
        """Whether there is a rule by which a run can be ended."""
        return self._pruning is not None

    def add(self, record: Record) -> None:
        """Take note of one more record."""
        if self._newest and self._newest[0].step != record.step:
            self._newest.clear()
        if self._pruning is not None and record.bins is None:
            self._newest.append(record)

    def check(self) -> None:
        """Judge what was measured since the last look, if anything was.

        Raises:
            StoppedEarlyError: the run is doomed.
        """
        if self._pruning is None or not self._newest:
            return
        latest = Summary(self._hidden_layers)
        for record in self._newest:
            latest.add(record)
        self._newest.clear()
        verdict = self._judge(latest)
        reason = self._pruning.reason(verdict) if verdict is not None else None
        if reason:
            raise StoppedEarlyError(f"{reason} at step {latest.records[0].step}")
