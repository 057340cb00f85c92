"""Early stopping: stop a run as soon as its verdict is certain, and tag it as pruned.

Each measured step is judged by itself, so that what is certain at initialisation stops the run at once. The interval
decides, as in :mod:`pipeline.analysis.verdict`: a run whose verdict is uncertain trains on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.analysis.classes import DEATH
from pipeline.analysis.flow import DECADES
from pipeline.analysis.summary import RunningSummary
from pipeline.analysis.verdict import Verdict
from pipeline.training.records import Record

Judge = Callable[[RunningSummary], Verdict | None]


@dataclass(frozen=True)
class Pruning:
    """The rule by which a run is stopped early.

    Args:
        decades: Smallest number of decades that the gradient loses or gains between first and last hidden layer.
    """

    decades: float

    def __post_init__(self) -> None:
        if not self.decades >= DECADES:
            raise ValueError(f"decades={self.decades:g}: must be >= {DECADES:g}, where the verdict begins")

    def reason(self, verdict: Verdict) -> str | None:
        """Return why a run with this verdict is stopped; None if its interval does not exclude a better end."""
        d = verdict.decades
        low, high = float(d.low), float(d.high)
        name = "vanishing" if low > self.decades else "exploding" if high < -self.decades else None
        if name:
            return f"{name}: {float(d.mean):.1f} decades [{low:.1f}, {high:.1f}] over the hidden layers"
        return "dead: no error reaches the first layer" if DEATH in verdict.classes else None

    def identity(self, cell_id: str) -> str:
        """Return the fingerprint of a cell that this rule stopped early: its records differ from the whole cell's."""
        return hashlib.sha256(f"{cell_id} pruned beyond {self.decades!r} decades".encode()).hexdigest()


class EarlyStopping:
    """Judges the newest measurement of a run.

    Args:
        pruning: The rule; None for a run that is never stopped.
        judge: Returns the verdict on a few records.
        hidden_layers: Number of hidden layers of the network.
    """

    def __init__(self, pruning: Pruning | None, judge: Judge, hidden_layers: int) -> None:
        self._pruning, self._judge = pruning, judge
        self._hidden_layers = hidden_layers
        self._newest: list[Record] = []

    def add(self, record: Record) -> None:
        """Add a record; those of earlier steps are dropped."""
        if self._newest and self._newest[0].step != record.step:
            self._newest.clear()
        if self._pruning is not None and record.bins is None:
            self._newest.append(record)

    def check(self) -> str | None:
        """Judge the records that were added since the last check.

        Returns:
            Why the run is to be stopped; None if it is not.
        """
        if self._pruning is None or not self._newest:
            return None
        latest = RunningSummary(self._hidden_layers)
        for record in self._newest:
            latest.add(record)
        self._newest.clear()
        verdict = self._judge(latest)
        reason = self._pruning.reason(verdict) if verdict is not None else None
        return f"{reason} at step {latest.last_step}" if reason else None
