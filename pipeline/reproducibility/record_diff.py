"""The first record in which two runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.arrays import Array
from pipeline.errors import ConfigError
from pipeline.tracking.tags import RECORDS_FILE
from pipeline.training.records import COLUMNS

KEYS = [column for column in COLUMNS if column != "value"]


@dataclass(frozen=True)
class RecordDifference:
    """The first record in which two tables differ.

    Attributes:
        layer: None for a quantity of the whole network.
        first_value, second_value: None where a table has no such record.
    """

    step: int
    probe: str
    layer: int | None
    replicate: int
    first_value: float | None
    second_value: float | None

    def describe(self, first: str, second: str) -> str:
        """Return one line; ``first`` and ``second`` name the two tables."""
        place = "the network" if self.layer is None else f"layer {self.layer}"
        return (
            f"step {self.step}, {place}, {self.probe}, replicate {self.replicate}: "
            f"{first} {_format(self.first_value)}, {second} {_format(self.second_value)}{self._size()}"
        )

    def _size(self) -> str:
        if self.first_value is None or self.second_value is None:
            return ""
        a, b = np.float64(self.first_value), np.float64(self.second_value)
        with np.errstate(all="ignore"):
            relative = np.abs(a - b) / np.maximum(np.abs(a), np.abs(b))
        return f" (relative difference {relative:.2g})" if np.isfinite(relative) and relative > 0 else ""


def _format(value: float | None) -> str:
    return "no such record" if value is None else repr(float(value))


def first_record_difference(first: pd.DataFrame, second: pd.DataFrame) -> RecordDifference | None:
    """Compare two tables of records row by row, bit for bit; NaN equals NaN.

    Args:
        first: Records (:mod:`pipeline.training.records`).
        second: Records in the same order.

    Returns:
        The first row that differs or that only one table has; None for identical tables.
    """
    count = min(len(first), len(second))
    heads = [table.iloc[:count].reset_index(drop=True) for table in (first, second)]
    same_keys = np.ones(count, dtype=bool)
    for key in KEYS:
        same_keys &= _equal(heads[0][key], heads[1][key])
    a, b = (head["value"].to_numpy(dtype=np.float64) for head in heads)
    same = same_keys & ((a.view(np.int64) == b.view(np.int64)) | (np.isnan(a) & np.isnan(b)))
    if same.all() and len(first) == len(second):
        return None
    at = int(np.argmin(same)) if not same.all() else count
    in_first = at < len(first)
    in_second = at < len(second) and (not in_first or bool(same_keys[at]))
    row = (first if in_first else second).iloc[at]
    return RecordDifference(
        int(row["step"]),
        str(row["probe"]),
        None if pd.isna(row["layer"]) else int(row["layer"]),
        int(row["replicate"]),
        float(first["value"].iloc[at]) if in_first else None,
        float(second["value"].iloc[at]) if in_second else None,
    )


def _equal(a: pd.Series, b: pd.Series) -> Array:
    """Compare two columns; a missing value equals a missing value."""
    missing = a.isna().to_numpy() & b.isna().to_numpy()
    return np.asarray(missing | a.eq(b).fillna(False).to_numpy(dtype=bool))


def common_records(
    a: pd.DataFrame, b: pd.DataFrame, pairs: Sequence[tuple[int, int]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Select the records that both tables have, in A's order and with A's replicate numbers.

    Args:
        a: Records of run A.
        b: Records of run B.
        pairs: Replicate of A, replicate of B.

    Returns:
        Two tables whose rows differ in ``value`` only.

    Raises:
        ConfigError: A column does not have the type that records have.
    """
    to_a = {replicate_b: replicate_a for replicate_a, replicate_b in pairs}
    b = b[b["replicate"].isin(list(to_a))].assign(replicate=lambda t: t["replicate"].map(to_a))
    a = a[a["replicate"].isin(list(to_a.values()))]
    types = {"layer": "Int64", "bin": "Int64", "value": "float64"}
    try:
        a, b = (table[list(COLUMNS)].astype(types) for table in (a, b))
        both = a.merge(b, on=KEYS, how="left", suffixes=("_a", "_b"), indicator=True).query("_merge == 'both'")
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{RECORDS_FILE}: has columns of the wrong type") from error
    return both[KEYS].assign(value=both["value_a"]), both[KEYS].assign(value=both["value_b"])
