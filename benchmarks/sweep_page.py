"""The page of the sweep benchmark: goals, what each part measured, and the Markdown that shows both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.timing import median_with_interval

Values = float | Sequence[float] | NDArray[np.float64]  # one number, or one for each round
HEADINGS = ("row", "quantity", "to reach", "measured", "result")
MET, MISSED, REPORTED = "met", "**not met**", "no goal"


class UnavailableError(Exception):
    """A part of the benchmark cannot run here: a package, a data set or the git history is absent."""


class BrokenError(Exception):
    """A part of the benchmark ran and failed."""


@dataclass(frozen=True)
class Goal:
    """A quantity and its goal.

    Attributes:
        quantity: What is measured, such as "time / time of cadba5f".
        most: The largest allowed median; None for no upper limit.
        least: The smallest allowed median; None for no lower limit.
        unit: The unit of the numbers; "" for a ratio.
    """

    quantity: str
    most: float | None = None
    least: float | None = None
    unit: str = ""

    def text(self) -> str:
        """Return the goal in words."""
        limits = [("at most", self.most), ("at least", self.least)]
        return " and ".join(f"{word} {_number(n)}{self._suffix}" for word, n in limits if n is not None) or "-"

    def is_met(self, value: float) -> bool:
        """Return whether a median reaches the goal. A number that is not finite never does."""
        return bool(
            np.isfinite(value)
            and (self.most is None or value <= self.most)
            and (self.least is None or value >= self.least)
        )

    def shown(self, values: Values) -> str:
        """Return the median, and the interval of several values."""
        middle, low, high = median_with_interval(np.atleast_1d(np.asarray(values, dtype=np.float64)))
        interval = f" [{_number(low)}, {_number(high)}]" if np.size(values) > 1 else ""
        return f"{_number(middle)}{interval}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return f" {self.unit}" if self.unit else ""


@dataclass(frozen=True)
class Outcome:
    """What a part of the benchmark measured.

    Attributes:
        values: One number, or one for each round, by quantity.
        sections: Markdown below the table of goals.
        figure: A plot, if the part has one.
    """

    values: Mapping[str, Values]
    sections: Sequence[str] = ()
    figure: Figure | None = None


@dataclass(frozen=True)
class Line:
    """One line of the table of goals.

    Attributes:
        row: The row's name, as in ``--rows``.
        goal: The goal.
        measured: The measured numbers as text; "-" without any.
        result: Whether the goal is met, or why nothing is measured.
    """

    row: str
    goal: Goal
    measured: str
    result: str

    @property
    def is_missed(self) -> bool:
        """Whether the goal is not met."""
        return self.result.startswith(MISSED)

    def cells(self) -> list[str]:
        """Return the line as text, under ``HEADINGS``."""
        return [f"`{self.row}`", self.goal.quantity, self.goal.text(), self.measured, self.result]


def lines_of(row: str, goals: Sequence[Goal], outcome: Outcome) -> list[Line]:
    """Return a line for each goal of a part that ran."""
    lines = []
    for goal in goals:
        values = outcome.values[goal.quantity]
        if goal.most is None and goal.least is None:
            result = REPORTED
        else:
            result = MET if goal.is_met(float(np.median(np.asarray(values)))) else MISSED
        lines.append(Line(row, goal, goal.shown(values), result))
    return lines


def absent_lines(row: str, goals: Sequence[Goal], reason: UnavailableError | BrokenError) -> list[Line]:
    """Return a line for each goal of a part without numbers. A part that failed has missed its goals."""
    result = f"{MISSED}: {reason}" if isinstance(reason, BrokenError) else f"not measured: {reason}"
    return [Line(row, goal, "-", result) for goal in goals]


def page(lines: Sequence[Line], sections: Sequence[str], command: str, machine: Sequence[str], image: str) -> str:
    """Return the page docs/results/sweeps.md.

    Args:
        lines: The lines of the table of goals.
        sections: Markdown below the table.
        command: The command that writes the page.
        machine: Facts about the machine and the versions.
        image: File name of the plot of growth; "" for none.
    """
    parts = [
        "# Fast sweeps, measured",
        f"Written by `{command}`. Do not edit; run it again.",
        "\n".join(f"- {fact}" for fact in machine),
        EXPLANATION,
        markdown_table(HEADINGS, [line.cells() for line in lines]),
        *sections,
    ]
    if image:
        parts.append(f"![time and memory against the arithmetic work]({image})")
    return "\n\n".join(parts) + "\n"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def _number(value: float) -> str:
    """Return three significant digits, but at most four decimals."""
    if not np.isfinite(value) or value == int(value):
        return f"{value:g}"
    return f"{value:.{min(4, max(0, 2 - int(np.floor(np.log10(abs(value))))))}f}"


EXPLANATION = """\
Both sides of a comparison run here, in turns, in the same benchmark. A measured number is a median; in brackets is its
interval over the rounds. Whole commands are timed by the wall clock, each in a process of its own, with the default
number of jobs unless the row says otherwise. Training inside the benchmark's process is timed in processor time, on
one thread."""
