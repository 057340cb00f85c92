"""The quantities of a sweep's cells: how each is named, written and coloured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize

from engine.arrays import Array


@dataclass(frozen=True)
class Quantity:
    """A number that every cell of a sweep has.

    Attributes:
        column: Its column in the table of cells; ``column_low`` and ``column_high`` hold its interval, if any.
        name: Title of its map.
        form: Format of a cell's text.
        colours: Name of a colour map.
        low: Value at the lower end of the colours; None for the smallest value.
        high: Value at the upper end; None for the largest value.
        is_centred: Whether 0 is in the middle of the colours.
        caption: How to read its map.
    """

    column: str
    name: str
    form: str
    colours: str
    low: float | None = None
    high: float | None = None
    is_centred: bool = False
    caption: str = ""

    def norm(self, values: Array) -> Normalize:
        """Return the scale of the colours for these values."""
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        if self.is_centred:
            reach = max(abs(low), abs(high), 1e-9)
            return Normalize(-reach, reach)
        low, high = low if self.low is None else self.low, high if self.high is None else self.high
        return Normalize(low, high if high > low else low + 1)

    def text(self, value: float) -> str:
        """Format a value: without a sign if it rounds to zero, with a minus sign if it is negative."""
        text = format(value, self.form)
        return text.lstrip("-") if float(text.rstrip("%")) == 0 else text.replace("-", "−")

    def span(self, cells: pd.DataFrame) -> str:
        """Return 'name: from 0.10 to 0.90' over all cells."""
        values = cells[self.column]
        return f"{self.name}: from {self.text(float(values.min()))} to {self.text(float(values.max()))}"


CELLS = (
    Quantity(
        "decades_per_layer",
        "decades of δ lost per layer, start",
        ".2f",
        "PuOr_r",
        is_centred=True,
        caption="orange cells lose that many decades of δ per layer on the way to the input, purple ones gain",
    ),
    Quantity("accuracy", "test accuracy, end", ".2f", "viridis", 0.0, 1.0, caption="bright cells have learned"),
    Quantity("r2", "test R², end", ".2f", "viridis", -1.0, 1.0, caption="bright cells have learned"),
    Quantity(
        "diverged",
        "share of replicates that diverged",
        ".0%",
        "YlOrRd",
        0.0,
        1.0,
        caption="red cells ended in numbers that are not finite",
    ),
)


def quantities_of(cells: pd.DataFrame, quantities: Sequence[Quantity] = CELLS) -> list[Quantity]:
    """Return the quantities that were measured; ``diverged`` only if a replicate diverged."""
    measured = [q for q in quantities if q.column in cells and np.isfinite(cells[q.column]).any()]
    return [q for q in measured if q.column != "diverged" or (cells[q.column] > 0).any()]


def capitalise(text: str) -> str:
    """Return a text with its first letter in upper case and the other letters unchanged."""
    return text[:1].upper() + text[1:]


def ordered(values: Sequence[str]) -> list[str]:
    """Return the distinct values, numbers by size, other texts in order of appearance."""
    distinct = list(dict.fromkeys(values))
    try:
        return sorted(distinct, key=float)
    except ValueError:
        return distinct
