"""Measurements of a network that was trained elsewhere: from a table of anybody's to records, or to one line of error.

The table is wide, one row for each step, layer and replicate, with a column for each quantity. Quantities of the whole
network stand in rows without a layer. The records of a run (a column ``probe`` and a column ``value``) are read, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from engine.arrays import Array
from pipeline.analysis.summary import PROFILED, Summary
from pipeline.errors import ConfigError, did_you_mean
from pipeline.training.divergence import Divergence, FirstNonFinite
from pipeline.training.records import Record


class Quantity(NamedTuple):
    """A column of the table.

    Attributes:
        probe: The name of its records.
        low: The smallest value.
        high: The largest value.
        has_layers: Whether each layer has a value.
    """

    probe: str
    low: float
    high: float
    has_layers: bool


PLACES = ("step", "layer", "replicate")
LAYERED = {
    "delta_rms": np.inf,  # the largest value of each
    "gradient_norm": np.inf,
    "bias_gradient_norm": np.inf,
    "update_to_weight": np.inf,
    "dead_fraction": 1.0,
    "saturated_fraction": 1.0,
}
SCORES = {"cost": (-np.inf, np.inf), "accuracy": (0.0, 1.0), "r2": (-np.inf, 1.0)}
QUANTITIES = {name: Quantity(name, 0.0, high, True) for name, high in LAYERED.items()} | {
    f"{name}_{part}": Quantity(f"{name}/{part}", *limits, False)
    for name, limits in SCORES.items()
    for part in ("train", "validation", "test")
}
UNKNOWN = {"saturated_fraction"}  # in the records of a run: without its config, rectifiers would look saturated
LARGEST = 1e18  # step, layer or replicate


@dataclass(frozen=True)
class Measurements:
    """What was measured of networks that were trained elsewhere.

    Attributes:
        records: The records, in order of step.
        layers: L, the number of the output layer.
        replicates: Number of networks.
        divergences: For each replicate whose δ is not finite at the end, where that was first seen.
    """

    records: list[Record]
    layers: int
    replicates: int
    divergences: list[Divergence]

    def summary(self) -> Summary:
        """Return the summary of the records."""
        summary = Summary(self.layers - 1)
        summary.has_diverged = len(self.divergences) == self.replicates
        for record in self.records:
            summary.add(record)
        return summary


def read_measurements(table: pd.DataFrame) -> Measurements:
    """Return the measurements in a table.

    Args:
        table: The table. Rows are counted from 0 in messages.

    Raises:
        ConfigError: The table cannot be judged; one line names the column, the row and what is allowed.
    """
    if not isinstance(table, pd.DataFrame):
        raise ConfigError(f"table: is a {type(table).__name__}; must be a DataFrame")
    if not len(table):
        raise ConfigError("table: has no rows")
    parts = _parts(table.reset_index(drop=True))
    blocks = {name: block for name, part in parts.items() if (block := _block(name, part)) is not None}
    if "delta_rms" not in blocks:
        raise ConfigError("delta_rms: has no value in a row with a layer")
    layers, replicates = _check_delta(blocks["delta_rms"])
    records = [
        Record(step, QUANTITIES[name].probe, block.layers, values, name in PROFILED)
        for name, block in blocks.items()
        for step, values in block.fitting(name, layers, replicates)
    ]
    records.sort(key=lambda record: record.step)
    return Measurements(records, layers, replicates, _divergences(records, blocks["delta_rms"]))


def _parts(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return a table of step, layer, replicate and value for each quantity. The indexes are row numbers."""
    names = [str(name) for name in table.columns]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name}: stands in {names.count(name)} columns; must be one")
    is_long = {"probe", "value"} <= set(names)
    known = [*PLACES, *(("probe", "bin", "value") if is_long else QUANTITIES)]
    for name in names:
        if name not in known:
            raise ConfigError(f"{name}: unknown column{did_you_mean(name, known)}")
    for name in ("step", "layer") if is_long else ("step", "layer", "delta_rms"):
        if name not in names:
            raise ConfigError(f"{name}: is missing; must be a column (allowed: {', '.join(known)})")
    places = pd.DataFrame({name: _places(table, name) for name in PLACES})
    if not is_long:
        return {name: places.assign(value=_floats(table[name], name)) for name in QUANTITIES if name in names}
    used = table["bin"].isna() if "bin" in names else pd.Series(True, index=table.index)
    found = {name: used & (table["probe"] == QUANTITIES[name].probe) for name in QUANTITIES if name not in UNKNOWN}
    values = {name: _floats(table["value"][rows], name) for name, rows in found.items() if rows.any()}
    return {name: places[found[name]].assign(value=column) for name, column in values.items()}


def _places(table: pd.DataFrame, name: str) -> Array:
    """Return steps, layers (0 for none) or replicates as whole numbers."""
    if name not in table:
        return np.zeros(len(table), dtype=np.int64)
    least = 1 if name == "layer" else 0
    values = _floats(table[name], name)
    is_none = np.isnan(values) & (name == "layer")
    wrong = ~is_none & ((values != np.floor(values)) | ~(values >= least) | ~(values < LARGEST))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ConfigError(f"{name}={values[row]:g} in row {row}: must be a whole number >= {least}")
    return np.where(is_none, 0, values).astype(np.int64)


def _floats(column: pd.Series, name: str) -> Array:
    """Return a column as float64, NaN where it is empty."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_complex_dtype(column):
        for row, value in column.items():
            if not (value is None or value is pd.NA or isinstance(value, (int, float, np.number))):
                raise ConfigError(f"{name}={_shown(value)} in row {row}: must be a number")
        column = pd.to_numeric(column)
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


@dataclass(frozen=True)
class _Block:
    """The values of a quantity.

    Attributes:
        steps: The steps, ascending [S].
        layers: The layers, ascending; () for the whole network.
        replicates: The replicates, ascending [R].
        values: [S, layers or 1, R].
    """

    steps: Array
    layers: tuple[int, ...]
    replicates: Array
    values: Array

    def fitting(self, name: str, layers: int, replicates: int) -> list[tuple[int, Array]]:
        """Return step and values of each record. Layers and replicates must fit delta_rms."""
        allowed = [tuple(range(1, last + 1)) for last in (layers - 1, layers)]
        if self.layers and self.layers not in allowed:
            problem = f"has layers {_listed(self.layers)}; must be 1 ... {layers}, as of delta_rms, or the hidden"
            raise ConfigError(f"{name}: {problem}")
        if len(self.replicates) != replicates:
            raise ConfigError(f"{name}: has {len(self.replicates)} replicates; must have the {replicates} of delta_rms")
        return [(int(step), values) for step, values in zip(self.steps, self.values, strict=True)]


def _block(name: str, part: pd.DataFrame) -> _Block | None:
    """Return the values of a quantity by step, layer and replicate; None if it has none.

    Where a step has no value at all, the quantity was not measured. Other empty cells are values that are not finite.
    """
    quantity, values = QUANTITIES[name], part["value"]
    wrong = values[(values < quantity.low) | ((values > quantity.high) & np.isfinite(values))]
    if len(wrong):
        limits = f">= {quantity.low:g}" if quantity.high == np.inf else f"in [{quantity.low:g}, {quantity.high:g}]"
        raise ConfigError(f"{name}={wrong.iloc[0]:g} in row {wrong.index[0]}: must be {limits}")
    has_place = (part["layer"] > 0) == quantity.has_layers
    misplaced = values[values.notna() & ~has_place]
    if len(misplaced):
        where = "a row with a layer" if quantity.has_layers else "a row without a layer"
        raise ConfigError(f"{name}={misplaced.iloc[0]:g} in row {misplaced.index[0]}: must stand in {where}")
    is_measured = values.notna().groupby(part["step"]).transform("any") | (name == "delta_rms")
    used = part[has_place & is_measured]
    places = used[list(PLACES)]
    if places.empty:
        return None
    repeated = places[places.duplicated()]
    if len(repeated):
        first = places.index[(places == repeated.iloc[0]).all(axis=1)][0]
        raise ConfigError(f"{name}: rows {first} and {repeated.index[0]} are both for {_place(*repeated.iloc[0])}")
    axes = [np.unique(places[name], return_inverse=True) for name in PLACES]
    (steps, _), (layers, _), (replicates, _) = axes
    shape, index = (len(steps), len(layers), len(replicates)), tuple(inverse for _, inverse in axes)
    present = np.sort(np.ravel_multi_index(index, shape))
    if len(present) < math.prod(shape):
        absent = np.append(np.flatnonzero(present != np.arange(len(present))), len(present))[0]
        step, layer, replicate = (int(n) for n in np.unravel_index(absent, shape))
        place = _place(steps[step], layers[layer], replicates[replicate])
        raise ConfigError(f"{name}: has no value at {place}; must have one for each layer and replicate of a step")
    block = np.empty(shape)
    block[index] = used["value"]
    return _Block(steps, tuple(int(n) for n in layers) if quantity.has_layers else (), replicates, block)


def _place(step: int, layer: int, replicate: int) -> str:
    return f"step {step}" + (f", layer {layer}" if layer else "") + f", replicate {replicate}"


def _check_delta(block: _Block) -> tuple[int, int]:
    """Return L and the number of replicates, after checks of what the verdict rests on."""
    layers, replicates = len(block.layers), len(block.replicates)
    if block.layers != tuple(range(1, layers + 1)) or layers < 2:
        raise ConfigError(
            f"layer: has {_listed(block.layers)}; must be 1, 2, ... L, hidden layers and then the output layer"
        )
    if (block.replicates != np.arange(replicates)).any():
        raise ConfigError(f"replicate: has {_listed(block.replicates.tolist())}; must be 0, 1, ...")
    is_finite = np.asarray(np.isfinite(block.values).all(axis=1))  # [S, R]
    again = is_finite & ~np.minimum.accumulate(is_finite)
    if again.any():
        later, replicate = (int(n) for n in np.argwhere(again)[0])
        first = int(np.flatnonzero(~is_finite[:, replicate])[0])
        place = f"step {block.steps[first]}, replicate {replicate}"
        raise ConfigError(
            f"delta_rms: is empty or not finite at {place}, but finite at step {block.steps[later]}; must be finite "
            "until a network diverges"
        )
    return layers, replicates


def _divergences(records: list[Record], delta: _Block) -> list[Divergence]:
    """Return where δ of each replicate was first not finite: in the highest such layer, which δ passes first."""
    divergences = []
    is_bad = ~np.isfinite(delta.values)  # [S, L, R]
    for replicate in np.flatnonzero(is_bad[-1].any(axis=0)):
        first = int(np.flatnonzero(is_bad[:, :, replicate].any(axis=1))[0])
        bad = np.flatnonzero(is_bad[first, :, replicate])
        step, layer = int(delta.steps[first]), int(bad[-1]) + 1
        finding = FirstNonFinite(int(replicate), step, layer, "δ", "", {}, len(bad))
        divergences.append(Divergence(finding, [record for record in records if record.step == step]))
    return divergences


def _listed(numbers: Any) -> str:
    shown = ", ".join(map(str, list(numbers)[:10]))
    return shown if len(numbers) <= 10 else f"{shown}, ..."
