"""Apply probes to a training step and return records."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine import probes as engine_probes
from engine.probes import Measurement, Probe, Step, traits_of
from pipeline.training.records import Record
from pipeline.training.timing import Timer


def measure(step: Step, probes: Mapping[str, Probe], number: int, timer: Timer | None = None) -> list[Record]:
    """Apply every probe to a step, after the backward pass and before the update is added.

    Args:
        step: The step that the probes read.
        probes: The probes by the name of their records.
        number: Number of the step.
        timer: Receives the time of each probe.
    """
    records = []
    for name, probe in probes.items():
        geometric = traits_of(probe).geometric
        records += [_record(name, geometric, measurement, number) for measurement in engine_probes.measure(step, probe)]
        if timer is not None:
            timer.mark(name)
    return records


def _record(name: str, geometric: bool, measurement: Measurement, number: int) -> Record:
    layers, measured, part, bins, sparse = measurement
    shape = len(layers) or 1, -1, *(() if bins is None else (len(bins),))
    values = np.array(measured, dtype=np.float64).reshape(shape)  # a copy: the probe may have returned a view
    return Record(number, f"{name}_{part}" if part else name, layers, values, geometric, bins, sparse)
