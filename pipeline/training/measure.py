"""Apply probes to a training step of a stack and return the records of each cell."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from engine import probes as engine_probes
from engine.arrays import Array
from engine.probes import Measurement, Probe, Step, traits_of
from pipeline.training.records import Record
from pipeline.training.timing import Timer


def measure(step: Step, probes: Mapping[str, Probe], number: int, timer: Timer | None = None) -> list[list[Record]]:
    """Apply every probe to a step, after the backward pass and before the update is added.

    Args:
        step: The step of a stack [C, R] that the probes read.
        probes: The probes by the name of their records.
        number: Number of the step.
        timer: Receives the time of each probe.

    Returns:
        The records of each cell.
    """
    records: list[list[Record]] = [[] for _ in range(step.network.ensemble[0])]
    for name, probe in probes.items():
        geometric = traits_of(probe).geometric
        for measurement in engine_probes.measure(step, probe):
            for cell, record in enumerate(_records(name, geometric, measurement, step.network.ensemble, number)):
                records[cell].append(record)
        if timer is not None:
            timer.mark(name)
    return records


def _records(
    name: str, geometric: bool, measurement: Measurement, ensemble: tuple[int, ...], number: int
) -> list[Record]:
    """Return the record of each cell."""
    layers, measured, part, bins, sparse = measurement
    measured = np.asarray(measured, dtype=np.float64)
    shape = len(layers) or 1, *ensemble, *(() if bins is None else (len(bins),))
    if measured.size != math.prod(shape):
        raise ValueError(
            f"probes.{name}: {measured.size} values for {math.prod(shape[1:])} in each of {shape[0]} layers; a probe "
            "returns one value for each network of the ensemble [E...]"
        )
    values = np.moveaxis(measured.reshape(shape), 1, 0)
    label = f"{name}_{part}" if part else name
    # Copies: the probe may have returned a view, and a cell must not keep the values of all others.
    return [Record(number, label, layers, *_own_bins(of_cell.copy(), bins, sparse, geometric)) for of_cell in values]


def _own_bins(
    values: Array, bins: tuple[int, ...] | None, sparse: bool, geometric: bool
) -> tuple[Array, bool, tuple[int, ...] | None, bool]:
    """Return the last four fields of a cell's record, without the bins that only other cells of the stack use."""
    if sparse and bins is not None:
        used = np.flatnonzero(values.any(axis=(0, 1)))
        values, bins = values[..., used], tuple(bins[i] for i in used)
    return values, geometric, bins, sparse
