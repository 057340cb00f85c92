"""The first record in which two runs differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.training.records import COLUMNS


@dataclass(frozen=True)
class Difference:
    """The first record at which two runs part, in order of step, then of the record in the run."""

    step: int
    probe: str
    layer: int | None
    replicate: int
    logged: float | None
    again: float | None

    def __str__(self) -> str:
        return self.told("logged", "now")

    def told(self, first: str, second: str) -> str:
        """In words, with what to call the two."""
        layer = "the network" if self.layer is None else f"layer {self.layer}"
        return (
            f"step {self.step}, {layer}, {self.probe}, replicate {self.replicate}: "
            f"{first} {_number(self.logged)}, {second} {_number(self.again)}{self._size()}"
        )

    def _size(self) -> str:
        if self.logged is None or self.again is None:
            return ""
        with np.errstate(all="ignore"):
            relative = np.abs(np.float64(self.again) - self.logged) / np.maximum(abs(self.logged), abs(self.again))
        return f" (by {relative:.2g} of it)" if np.isfinite(relative) and relative > 0 else ""


def _number(value: float | None) -> str:
    return "no such record" if value is None else repr(float(value))


def first_difference(logged: pd.DataFrame, again: pd.DataFrame) -> Difference | None:
    """The first row in which two tables of records differ; None if they are identical, NaN equal to NaN."""
    keys = [c for c in COLUMNS if c != "value"]
    count = min(len(logged), len(again))
    same_key = np.ones(count, dtype=bool)
    for key in keys:
        a, b = (t[key].iloc[:count].astype("object").where(t[key].iloc[:count].notna(), None) for t in (logged, again))
        same_key &= np.array([x == y for x, y in zip(a, b, strict=True)], dtype=bool)
    was, now = (t["value"].iloc[:count].to_numpy(dtype=np.float64) for t in (logged, again))
    same = same_key & ((was.view(np.int64) == now.view(np.int64)) | (np.isnan(was) & np.isnan(now)))
    if same.all() and len(logged) == len(again):
        return None
    at = int(np.argmin(same)) if not same.all() else count
    in_logged, in_again = at < len(logged), at < len(again)
    row = (logged if in_logged else again).iloc[at]
    matching = at < count and bool(same_key[at])
    layer = None if pd.isna(row["layer"]) else int(row["layer"])
    return Difference(
        int(row["step"]),
        str(row["probe"]),
        layer,
        int(row["replicate"]),
        float(logged["value"].iloc[at]) if in_logged else None,
        float(again["value"].iloc[at]) if in_again and (matching or not in_logged) else None,
    )
