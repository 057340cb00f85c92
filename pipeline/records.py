"""Records: what a run yields. One block per (step, probe); as a table, one tidy row per value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.arrays import Array

COLUMNS = ("step", "probe", "layer", "replicate", "value")


@dataclass(frozen=True)
class Record:
    """One probe at one step.

    Attributes:
        step: updates made before the measurement.
        probe: the probe's name, or the name of a quantity of the whole network such as "accuracy/test".
        layers: the layers it was taken in (1 ... L), or () for a quantity of the whole network.
        values: float64 [len(layers) or 1, R].
        geometric: whether replicates average as logarithms.
    """

    step: int
    probe: str
    layers: tuple[int, ...]
    values: Array
    geometric: bool


def tidy(records: Iterable[Record]) -> pd.DataFrame:
    """One row a value: step, probe, layer (missing for the whole network), replicate, value."""
    frames = []
    for r in records:
        count, replicates = r.values.shape
        layers = np.array(r.layers if r.layers else (-1,))
        frames.append(
            {
                "step": np.full(r.values.size, r.step),
                "probe": np.full(r.values.size, r.probe, dtype=object),
                "layer": np.repeat(layers, replicates),
                "replicate": np.tile(np.arange(replicates), count),
                "value": r.values.ravel(),
            }
        )
    if not frames:
        return pd.DataFrame({c: [] for c in COLUMNS})
    table = pd.DataFrame({c: np.concatenate([f[c] for f in frames]) for c in COLUMNS})
    table["layer"] = table["layer"].astype("Int64").mask(table["layer"] == -1)
    table["probe"] = table["probe"].astype("str")
    return table
