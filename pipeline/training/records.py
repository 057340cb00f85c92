"""Records: the results of a run. One record per step and probe; as a table, one tidy row per value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from engine.arrays import Array

COLUMNS = ("step", "probe", "layer", "replicate", "bin", "value")


class Record(NamedTuple):
    """One probe at one step.

    Attributes:
        step: Number of updates before the measurement.
        probe: The probe's name, or the name of a quantity of the whole network such as "accuracy/test".
        layers: The measured layers (1 ... L), or () for a quantity of the whole network.
        values: float64 [len(layers) or 1, R], or [len(layers) or 1, R, K] with ``bins``.
        geometric: Whether replicates are averaged as logarithms.
        bins: The meaning of the K values: exponents of a histogram or ranks of a spectrum.
        sparse: Whether values of 0 are empty bins.
    """

    step: int
    probe: str
    layers: tuple[int, ...]
    values: Array
    geometric: bool
    bins: tuple[int, ...] | None = None
    sparse: bool = False


def non_finite(records: Iterable[Record]) -> int:
    """Return the number of recorded values that are infinite or NaN."""
    return int(sum(np.count_nonzero(~np.isfinite(r.values)) for r in records))


def tidy(records: Iterable[Record]) -> pd.DataFrame:
    """Return one row per value: step, probe, layer, replicate, bin, value.

    Layer is missing for the whole network, bin for values without bins. Empty bins of histograms have no row.
    """
    frames = []
    for r in records:
        values = r.values if r.bins is not None else r.values[..., None]
        layer, replicate, place = (index.ravel() for index in np.indices(values.shape))
        kept = values.ravel() != 0 if r.sparse else slice(None)
        frames.append(
            {
                "step": np.full(values.size, r.step)[kept],
                "probe": np.full(values.size, r.probe, dtype=object)[kept],
                "layer": np.array(r.layers if r.layers else (-1,))[layer][kept],
                "replicate": replicate[kept],
                "bin": np.array(r.bins if r.bins is not None else (_NO_BIN,))[place][kept],
                "value": values.ravel()[kept],
            }
        )
    if not frames:
        return pd.DataFrame({c: [] for c in COLUMNS})
    table = pd.DataFrame({c: np.concatenate([f[c] for f in frames]) for c in COLUMNS})
    table["layer"] = table["layer"].astype("Int64").mask(table["layer"] == -1)
    table["bin"] = table["bin"].astype("Int64").mask(table["bin"] == _NO_BIN)
    table["probe"] = table["probe"].astype("str")
    return table


_NO_BIN = -1_000_000
