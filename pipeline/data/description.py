"""What was read from a source, in words and numbers: shown before the training, and logged with the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.wording import counted

MOST_NAMES = 12  # that a line lists
NAME_WIDTH = 40  # characters of a name in a line


@dataclass(frozen=True)
class TableDescription:
    """How a table came out of its file. A source without one describes itself by its numbers alone.

    Attributes:
        rows_read: Number of rows in the file.
        dropped: Number of rows that were dropped, by reason.
        columns: Number of inputs that each used column became: 1, or the number of its categories.
        left_out: Reason for which each other column was left out.
        labels: Name of each class.
        notes: What else was done to the table, a sentence each.
    """

    rows_read: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    columns: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    labels: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class DataDescription:
    """What a run is trained, validated and tested on.

    Attributes:
        rows: Number of rows of the table.
        inputs: Number of inputs n_0.
        targets: Number of targets.
        train_examples: Training examples of each replicate.
        validation_examples: Validation examples of each replicate.
        test_examples: Test examples of each replicate.
        class_counts: Rows of each class; empty for a regression.
        baseline: Share of test examples (training examples if there are none) that belong to the class that is the
            largest in the training set, a mean over replicates; None for a regression.
        table: How the table came out of its file; None for a source without one.
    """

    rows: int
    inputs: int
    targets: int
    train_examples: int
    validation_examples: int
    test_examples: int
    class_counts: Sequence[int] = ()
    baseline: float | None = None
    table: TableDescription | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the description as lines of text."""
        split = [f"{self.train_examples} for training"]
        split += [f"{self.validation_examples} for validation"] if self.validation_examples else []
        split.append(f"{self.test_examples or 'none'} for testing")
        rows = f"{counted(self.rows, 'row')} ({', '.join(split)})"
        lines = [f"data: {rows}, {counted(self.inputs, 'input')}, {self._outcome()}"]
        if self.table is not None:
            lines += _table_lines(self.table)
        if self.class_counts:
            lines.append("classes: " + _listed([f"{name} {count}" for name, count in self._named_counts()]))
        if self.baseline is not None:
            judged = "test" if self.test_examples else "training"
            share = f"{100 * self.baseline:.1f} % of the {judged} examples"
            lines.append(f"always guessing the largest class is right in {share}")
        return lines

    def _outcome(self) -> str:
        return f"{len(self.class_counts)} classes" if self.class_counts else counted(self.targets, "target")

    def _named_counts(self) -> list[tuple[str, int]]:
        names = (
            self.table.labels
            if self.table is not None and self.table.labels
            else map(str, range(len(self.class_counts)))
        )
        return [(_short(name), count) for name, count in zip(names, self.class_counts, strict=True)]


def _table_lines(table: TableDescription) -> list[str]:
    dropped = [f"{count} {reason}" for reason, count in table.dropped.items()]
    lines = [f"rows read: {table.rows_read}; dropped: {', '.join(dropped) or 'none'}"]
    used = [_short(name) + (f" ({inputs} categories)" if inputs > 1 else "") for name, inputs in table.columns.items()]
    lines.append(f"columns used: {_listed(used)}")
    if table.left_out:
        lines.append("columns left out: " + _listed([f"{_short(n)} ({why})" for n, why in table.left_out.items()]))
    return [*lines, *table.notes]


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _short(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 1] + "…"
