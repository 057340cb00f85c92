"""A user's own table: a CSV or parquet file, read with pandas."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from pipeline.data.table import Source, Table, file_versions
from pipeline.errors import did_you_mean

Task = Literal["classification", "regression"]
Categorical = Literal["refuse", "one_hot"]
Missing = Literal["refuse", "drop"]


class _File(Source):
    """One file with one target column.

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
    def _read(self, path: Path) -> pd.DataFrame:
        """Read the file."""

    def version(self) -> Hashable:
        return file_versions([Path(self.path).expanduser()])

    def load(self, rng: np.random.Generator) -> Table:
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise ValueError(f"path={self.path}: no such file")
        try:
            frame = self._read(path)
        except Exception as unreadable:  # pandas and pyarrow raise a dozen kinds
            raise ValueError(f"path={self.path}: cannot read it: {str(unreadable).splitlines()[0]}") from unreadable
        if self.target not in frame.columns:
            raise ValueError(
                f"target={self.target}: no such column{did_you_mean(self.target, map(str, frame.columns))}"
            )
        frame = self._complete(frame)
        return self._table(frame.drop(columns=self.target), frame[self.target])

    def _complete(self, frame: pd.DataFrame) -> pd.DataFrame:
        incomplete = frame.isna().any(axis=1)
        if incomplete.any() and self.missing == "refuse":
            column = frame.columns[frame.isna().any(axis=0)][0]
            row = int(np.flatnonzero(frame[column].isna())[0])
            raise ValueError(
                f"missing=refuse: {int(incomplete.sum())} rows lack values, the first in column {column!r}, row {row}; "
                "allowed: refuse, drop"
            )
        frame = frame[~incomplete]
        if len(frame) < 2:
            raise ValueError(f"path={self.path}: {len(frame)} complete rows; at least 2 are needed")
        return frame

    def _table(self, inputs: pd.DataFrame, target: pd.Series) -> Table:
        textual = [str(c) for c in inputs.columns if not pd.api.types.is_numeric_dtype(inputs[c])]
        if textual and self.categorical == "refuse":
            raise ValueError(f"categorical=refuse: column {textual[0]!r} is not numeric; allowed: refuse, one_hot")
        x = pd.get_dummies(inputs, columns=textual).to_numpy(dtype=np.float64)
        if x.shape[1] == 0:
            raise ValueError(f"path={self.path}: no column but the target {self.target!r}")
        if not np.isfinite(x).all():
            raise ValueError(f"path={self.path}: infinite values among the inputs")
        if self.task == "classification":
            labels, y = np.unique(target.to_numpy(), return_inverse=True)
            if len(labels) > max(20, len(y) // 2):
                raise ValueError(
                    f"target={self.target}: {len(labels)} different values in {len(y)} rows are no classes"
                )
            return Table(x, y.astype(np.int64), classes=len(labels))
        if not pd.api.types.is_numeric_dtype(target):
            raise ValueError(f"target={self.target}: not numeric, so task must be classification")
        return Table(x, target.to_numpy(dtype=np.float64)[:, None], classes=None)


@dataclass(frozen=True)
class Csv(_File):
    """A CSV file with a header line. See :class:`_File` for the arguments."""

    path: str
    target: str
    task: Task
    categorical: Categorical
    missing: Missing

    def _read(self, path: Path) -> pd.DataFrame:
        return pd.read_csv(path)


@dataclass(frozen=True)
class Parquet(_File):
    """A parquet file. See :class:`_File` for the arguments."""

    path: str
    target: str
    task: Task
    categorical: Categorical
    missing: Missing

    def _read(self, path: Path) -> pd.DataFrame:
        return pd.read_parquet(path)
