"""Turn the columns of a user's table into numbers, classes and categories; refuse what could be read in two ways."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from engine.arrays import Array
from pipeline.data.csv_text import word_of

# In a column of numbers these texts mean a missing value; in a column of texts they are texts.
MISSING_NUMBERS = frozenset({"na", "n/a", "#n/a", "nan", "-nan", "null", "none", "nil", "<na>"})
MOST_CATEGORIES = 20  # of a column whose values are mostly numbers, or mostly different
SHOWN = 3  # values that a message lists


@dataclass(frozen=True)
class Rows:
    """Where the rows of a table are, for messages.

    Attributes:
        places: The place of each row.
        word: What a place is: "line" of a text file, or "row".
    """

    places: Array
    word: str

    def name(self, row: int) -> str:
        """Return the place of a row, such as "line 7"."""
        return f"{self.word} {self.places[row]}"

    def keep(self, kept: Array) -> Rows:
        """Return the places of some rows."""
        return Rows(self.places[kept], self.word)


@dataclass(frozen=True)
class NumberFormat:
    """How numbers are written in texts.

    Attributes:
        decimal: Between the digits of a number.
        thousands: Between groups of digits; None for nothing.
    """

    decimal: str = "."
    thousands: str | None = None

    def pattern(self) -> str:
        """Return a regular expression for a whole number in this format."""
        point, digits = re.escape(self.decimal), "[0-9]+"
        if self.thousands:
            digits = rf"(?:[0-9]{{1,3}}(?:{re.escape(self.thousands)}[0-9]{{3}})+|[0-9]+)"
        return rf"[+-]?(?:{digits}(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+-]?[0-9]+)?"

    def numbers(self, texts: pd.Series) -> Array:
        """Return which texts are numbers in this format; missing values are not."""
        matches: Array = texts.str.fullmatch(self.pattern()).fillna(False).to_numpy(dtype=bool)
        return matches

    def parse(self, texts: pd.Series) -> Array:
        """Return the numbers, float64, each rounded correctly."""
        plain = texts.str.replace(self.thousands, "", regex=False) if self.thousands else texts
        values: Array = plain.str.replace(self.decimal, ".", regex=False).to_numpy(dtype=np.float64)
        return values


def texts_of(column: pd.Series) -> pd.Series:
    """Return a column that is not numeric as texts without spaces around them; missing values stay missing."""
    return column.map(lambda value: str(value).strip(), na_action="ignore").astype(object).where(column.notna(), None)


def is_number_column(column: pd.Series) -> bool:
    """Return whether all values of a column are real numbers, or truth values."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column)


def read_column(column: pd.Series, numbers: NumberFormat, rows: Rows, is_categorical: bool) -> pd.Series:
    """Return a column as numbers if it has numbers, as texts otherwise.

    Args:
        column: The column as it was read.
        numbers: How the file writes numbers.
        rows: The places of its rows.
        is_categorical: Whether a column that mixes a few numbers and texts is one of categories.

    Raises:
        ValueError: Most values are numbers and some are not. The message names one of them, and the key that helps.
    """
    if is_number_column(column):
        return column
    if isinstance(column.dtype, pd.CategoricalDtype) or pd.api.types.is_datetime64_any_dtype(column):
        return texts_of(column)
    texts = texts_of(column)
    if texts.map(lambda value: value in ("True", "False"), na_action="ignore").dropna().all():
        return texts
    is_number, is_given = numbers.numbers(texts), texts.notna().to_numpy()
    is_missing_number = texts.str.lower().isin(MISSING_NUMBERS).to_numpy()
    if is_number.any() and (is_number | ~is_given | is_missing_number).all():
        values = np.full(len(texts), np.nan)
        values[is_number] = numbers.parse(texts[is_number])
        return pd.Series(values, index=column.index)
    stray = is_given & ~is_number & ~is_missing_number
    advice = _format_advice(texts[stray], numbers)
    is_mostly_numbers = 2 * is_number.sum() > is_given.sum() or (advice is not None and not is_number.any())
    if not is_mostly_numbers or (is_categorical and texts.nunique() <= MOST_CATEGORIES):
        return texts
    first = int(np.flatnonzero(stray)[0])
    many = "the only one" if stray.sum() == 1 else f"one of {stray.sum()} such values"
    what = f"{texts.iloc[first]!r} in {rows.name(first)} is not a number ({many} in {len(texts)} rows)"
    raise ValueError(f"{what}; perhaps {advice or _missing_advice(texts[stray])}")


def _format_advice(strays: pd.Series, numbers: NumberFormat) -> str | None:
    """Return the keys of another number format in which all of these texts are numbers; None if there is none."""
    others = [
        NumberFormat(numbers.decimal, mark)
        for mark in (",", ".", " ", "'")
        if mark not in (numbers.decimal, numbers.thousands)
    ]
    others += [NumberFormat(mark, None) for mark in (",", ".") if mark != numbers.decimal]
    others += [NumberFormat(",", mark) for mark in (".", " ", "'")] + [
        NumberFormat(".", mark) for mark in (",", " ", "'")
    ]
    for other in others:
        if len(strays) and other.numbers(strays).all():
            keys = [f"data.source.decimal={word_of(other.decimal)}"] if other.decimal != numbers.decimal else []
            keys += [f"data.source.thousands={word_of(other.thousands)}"] if other.thousands else []
            return " ".join(keys)
    return None


def _missing_advice(strays: pd.Series) -> str:
    values = ",".join(f'"{value}"' for value in strays.unique()[:SHOWN])
    more = ",..." if strays.nunique() > SHOWN else ""
    keys = f"'data.source.missing_values=[{values}{more}]' data.source.missing=drop"
    return f"{keys}, if it stands for a missing value"


def notes_on(name: str, column: pd.Series, texts: pd.Series) -> list[str]:
    """Return what a user may not expect of a column of texts, a sentence each."""
    notes = []
    spaces = column.map(lambda value: isinstance(value, str) and value != value.strip(), na_action="ignore")
    if count := int(spaces.fillna(False).sum()):
        notes.append(f"column {name}: spaces around {count} values are left out")
    doubtful = sorted(value for value in texts.dropna().unique() if value.lower() in MISSING_NUMBERS)
    if doubtful:
        listed = ", ".join(map(repr, doubtful[:SHOWN]))
        notes.append(f"column {name}: {listed}: texts, not missing values (data.source.missing_values changes that)")
    return notes


def reason_to_leave_out(values: pd.Series) -> str | None:
    """Return why a column tells nothing: it has no value, or one value only; None if it has several."""
    present = values.dropna()
    if present.empty:
        return "no values"
    first = present.iloc[0]
    return f"always {_label(first)}" if (present == first).all() else None


def one_hot(texts: pd.Series) -> Array:
    """Return one column of 0 and 1 for each category, in sorted order, float64 [rows, categories]."""
    names = sorted(texts.unique())
    values: Array = (texts.to_numpy()[:, None] == np.array(names, dtype=object)[None, :]).astype(np.float64)
    return values


def classes(target: pd.Series) -> tuple[Sequence[str], Array]:
    """Return the name of each class in sorted order, and the class number of each row."""
    labels, numbers = np.unique(target.to_numpy(), return_inverse=True)
    return [_label(label) for label in labels], numbers.astype(np.int64)


def _label(value: Any) -> str:
    return str(int(value)) if isinstance(value, (float, np.floating)) and float(value).is_integer() else str(value)
