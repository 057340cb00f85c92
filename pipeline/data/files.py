"""A user's own table: a CSV or parquet file, read with pandas."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from engine.arrays import Array
from pipeline.data import columns
from pipeline.data.columns import NumberFormat, Rows
from pipeline.data.csv_text import NO_NAME, NUMBER, Dialect, read_csv, separator_advice
from pipeline.data.description import TableDescription
from pipeline.data.table import Source, Table, TableError, file_versions
from pipeline.errors import did_you_mean

Task = Literal["classification", "regression"]
Categorical = Literal["refuse", "one_hot"]
Missing = Literal["refuse", "drop"]
MOST_NUMERIC_CLASSES = 20  # of a target whose values are no integers


class RawTable(NamedTuple):
    """A table as it stands in its file.

    Attributes:
        frame: Columns of numbers or texts.
        rows: The places of the rows.
        left_out: Reason for which each column that is not in the frame was left out.
        numbers: How texts write numbers.
    """

    frame: pd.DataFrame
    rows: Rows
    left_out: dict[str, str]
    numbers: NumberFormat


class _File(Source):
    """One file with one target column.

    Texts lose the spaces around them. A column of numbers may have texts such as NA or NaN for missing values. Inputs
    that have one value only, and the index that pandas writes, are left out.

    Args:
        path: The file.
        target: The column to predict.
        task: "classification" (values become classes, in sorted order) or "regression" (numbers).
        categorical: Whether to "refuse" columns that are not numeric or to encode them as "one_hot".
        missing: Whether to "refuse" rows that lack a value or to "drop" them.
    """

    path: str
    target: str
    task: Task
    categorical: Categorical
    missing: Missing

    @abstractmethod
    def _read(self, path: Path) -> RawTable:
        """Read the file."""

    def version(self) -> Hashable:
        return file_versions([Path(self.path).expanduser()])

    def load(self, rng: np.random.Generator) -> Table:
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise TableError(f"path={self.path}: {'is a folder; must be a file' if path.is_dir() else 'no such file'}")
        try:
            raw = self._read(path)
        except TableError:
            raise
        except Exception as unreadable:  # pandas and pyarrow raise a dozen kinds
            first = (str(unreadable).splitlines() or [type(unreadable).__name__])[0]
            raise TableError(f"path={self.path}: cannot read it: {first}") from unreadable
        if self.target not in raw.frame.columns:
            hint = did_you_mean(self.target, map(str, raw.frame.columns))
            raise TableError(f"target={self.target}: no such column{hint}{self._advice(path, raw)}")
        return self._table(raw)

    def _advice(self, path: Path, raw: RawTable) -> str:
        """Return what may help if the target is not there."""
        return ""

    def _table(self, raw: RawTable) -> Table:
        kept = ~raw.frame.isna().all(axis=1).to_numpy()
        rows = raw.rows.keep(kept)
        frame, left_out, notes = self._interpret(raw.frame[kept].reset_index(drop=True), rows, raw)
        frame, rows, incomplete = self._complete(frame, rows)
        for name, column in frame.items():
            if name != self.target and (reason := columns.reason_to_leave_out(column)) is not None:
                left_out[str(name)] = reason
        x, used = self._inputs(frame.drop(columns=[self.target, *(n for n in left_out if n in frame)]), rows)
        if x.shape[1] == 0:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise TableError(
                f"path={self.path}: no input besides the target {self.target!r}" + f" ({reasons})" * bool(reasons)
            )
        y, labels = self._targets(frame[self.target], rows)
        dropped = {"empty": int((~kept).sum()), "lack a value": incomplete}
        dropped = {reason: count for reason, count in dropped.items() if count}
        description = TableDescription(len(raw.frame), dropped, used, left_out, labels, notes)
        return Table(x, y, len(labels) or None, description=description)

    def _interpret(
        self, frame: pd.DataFrame, rows: Rows, raw: RawTable
    ) -> tuple[pd.DataFrame, dict[str, str], list[str]]:
        """Return the columns as numbers or texts, why others were left out, and what was done to texts."""
        left_out, notes = dict(raw.left_out), []
        read: dict[str, pd.Series] = {}
        for name, column in ((str(name), column) for name, column in frame.items()):
            if name != self.target and NO_NAME.fullmatch(name):
                left_out[name] = "the index that pandas wrote"
                continue
            is_categorical = self.categorical == "one_hot" or (name == self.target and self.task == "classification")
            try:
                values = columns.read_column(column, raw.numbers, rows, is_categorical)
            except ValueError as wrong:
                raise TableError(f"path={self.path}: column {name!r}: {wrong}") from None
            if name != self.target and values.isna().all():
                left_out[name] = "no values"
                continue
            if not columns.is_number_column(values):
                notes += columns.notes_on(name, column, values)
            read[name] = values
        return pd.DataFrame(read), left_out, notes

    def _complete(self, frame: pd.DataFrame, rows: Rows) -> tuple[pd.DataFrame, Rows, int]:
        """Return the rows that lack no value, and the number of the others."""
        missing = frame.isna()
        incomplete = missing.any(axis=1).to_numpy()
        if incomplete.any() and self.missing == "refuse":
            counts = missing.sum()
            column = counts[counts > 0].index[0]
            row = int(np.flatnonzero(missing[column])[0])
            many = f"{int(incomplete.sum())} rows lack values" if incomplete.sum() > 1 else "1 row lacks a value"
            raise TableError(
                f"missing=refuse: {many}, the first in column {column!r}, {rows.name(row)} "
                f"({counts[column]} of {len(frame)} in this column); allowed: data.source.missing=drop"
            )
        kept = frame[~incomplete].reset_index(drop=True)
        if len(kept) < 2:
            raise TableError(f"path={self.path}: {len(kept)} complete rows of {len(frame)}; at least 2 are needed")
        return kept, rows.keep(~incomplete), int(incomplete.sum())

    def _inputs(self, inputs: pd.DataFrame, rows: Rows) -> tuple[Array, dict[str, int]]:
        """Return the inputs [rows, n_0], numbers before categories, and how many each column became."""
        parts, used = [np.empty((len(inputs), 0))], {}
        textual = [name for name, column in inputs.items() if not columns.is_number_column(column)]
        for name in [*(n for n in inputs if n not in textual), *textual]:
            column = inputs[name]
            if name in textual:
                count = column.nunique()
                if self.categorical == "refuse":
                    raise TableError(
                        f"categorical=refuse: column {name!r} holds texts, such as {column.iloc[0]!r} in "
                        f"{rows.name(0)}; allowed: data.source.categorical=one_hot, which makes {count} inputs of it"
                    )
                if count > max(columns.MOST_CATEGORIES, len(column) // 2):
                    raise TableError(
                        f"path={self.path}: column {name!r} has {count} different texts in {len(column)} rows, which "
                        "are no categories; leave the column out of the file"
                    )
                parts.append(columns.one_hot(column))
            else:
                parts.append(column.to_numpy(dtype=np.float64)[:, None])
                self._check_finite(str(name), parts[-1][:, 0], rows)
            used[str(name)] = parts[-1].shape[1]
        return np.concatenate(parts, axis=1), used

    def _targets(self, target: pd.Series, rows: Rows) -> tuple[Array, list[str]]:
        """Return the targets, and the names of the classes (none for a regression)."""
        if (reason := columns.reason_to_leave_out(target)) is not None:
            raise TableError(f"target={self.target}: {reason} in all {len(target)} rows, so there is nothing to learn")
        is_numeric = columns.is_number_column(target)
        if is_numeric:
            self._check_finite(self.target, target.to_numpy(dtype=np.float64), rows)
        if self.task == "regression":
            if not is_numeric:
                raise TableError(
                    f"target={self.target}: holds texts, such as {target.iloc[0]!r} in {rows.name(0)}; "
                    "allowed: data.source.task=classification"
                )
            return target.to_numpy(dtype=np.float64)[:, None], []
        count = target.nunique()
        is_fractional = is_numeric and bool((target.to_numpy(dtype=np.float64) % 1 != 0).any())
        if count > max(20, len(target) // 2) or (is_fractional and count > MOST_NUMERIC_CLASSES):
            advice = "; perhaps data.source.task=regression" if is_numeric else ""
            raise TableError(
                f"target={self.target}: {count} different values in {len(target)} rows are no classes{advice}"
            )
        labels, numbers = columns.classes(target)
        return numbers, list(labels)

    def _check_finite(self, name: str, values: Array, rows: Rows) -> None:
        infinite = np.flatnonzero(~np.isfinite(values))
        if len(infinite):
            raise TableError(
                f"path={self.path}: column {name!r}: the value in {rows.name(int(infinite[0]))} is infinite"
            )


@dataclass(frozen=True)
class Csv(_File):
    """A CSV file.

    See :class:`_File` for the first arguments, :class:`pipeline.data.csv_text.Dialect` for the others.

    Args:
        missing_values: Texts that mean a missing value in every column, besides the empty text and those of
            :data:`pipeline.data.columns.MISSING_NUMBERS` in a column of numbers.

    Raises:
        ValueError: A character of the dialect is none, or has two meanings.
    """

    path: str
    target: str
    task: Task
    categorical: Categorical
    missing: Missing
    separator: str
    decimal: str
    thousands: str | None
    encoding: str
    header: bool | None
    missing_values: tuple[str, ...] | None
    comment: str | None

    def __post_init__(self) -> None:
        self.dialect()

    def dialect(self) -> Dialect:
        """Return how the file is written."""
        return Dialect(
            self.separator,
            self.decimal,
            self.thousands,
            self.encoding,
            self.header,
            self.missing_values or (),
            self.comment,
        )

    def _read(self, path: Path) -> RawTable:
        dialect = self.dialect()
        text = read_csv(path, dialect)
        left_out = {f"column {position}": _unnamed(position) for position in text.unnamed}
        numbers = NumberFormat(dialect.decimal, dialect.thousands)
        return RawTable(text.frame, Rows(text.lines, "line"), left_out, numbers)

    def _advice(self, path: Path, raw: RawTable) -> str:
        dialect = self.dialect()
        if len(raw.frame.columns) == 1 and (advice := separator_advice(path, dialect)):
            return advice
        if self.header is None and any(NUMBER.fullmatch(str(name)) for name in raw.frame.columns):
            return "; perhaps data.source.header=false, if the first line is a row"
        return ""


@dataclass(frozen=True)
class Parquet(_File):
    """A parquet file.

    See :class:`_File` for the arguments.
    """

    path: str
    target: str
    task: Task
    categorical: Categorical
    missing: Missing

    def _read(self, path: Path) -> RawTable:
        frame = pd.read_parquet(path).reset_index(drop=True)
        frame.columns = pd.Index([str(name).strip() for name in frame.columns])
        repeated: Sequence[str] = frame.columns[frame.columns.duplicated()].tolist()
        if len(repeated):
            raise TableError(
                f"path={self.path}: the name {repeated[0]!r} is that of several columns; names must differ"
            )
        return RawTable(frame, Rows(np.arange(1, len(frame) + 1), "row"), {}, NumberFormat())


def _unnamed(position: int) -> str:
    return "no name: the index that pandas writes" if position == 1 else "no name and no values"
