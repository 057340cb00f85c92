"""From moments to records: every probe that is due, at every step at which it is."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.arrays import Array
from engine.moment import Moment
from engine.network import Network, Onlooker, Sighting
from engine.notes import Notes
from engine.probes import Probe, Reading, VitalProbe
from engine.sums import Places, Sums, Wanted
from pipeline.records import Record
from pipeline.stopwatch import Stopwatch

CAPACITY, SPAN = 32, 256  # steps noted, and steps since the first of them, before they are looked at together
SMALL = 2**19  # numbers in a network and its batch; in larger ones they, and not the calls, are what measuring costs


@np.errstate(all="ignore")
def measure(moment: Moment, probes: Mapping[str, Probe], step: int, stopwatch: Stopwatch | None = None) -> list[Record]:
    """Every probe in every layer, after a backward pass and before the update is added."""
    records = []
    for name, probe in probes.items():
        geometric = probe.geometric
        for layers, found, part, bins, sparse in probe.readings(moment):
            if bins is None and found.ndim == 2 and found.dtype.char == "d":
                values = found if found.base is None else found.copy()  # kept for long: not with what lies around it
            else:
                values = found.astype(np.float64)
                values = values.reshape(len(layers) or 1, -1, *() if bins is None else (len(bins),))
            records.append(Record(step, f"{name}_{part}" if part else name, layers, values, geometric, bins, sparse))
        if stopwatch is not None:
            stopwatch.lap(name)
    return records


@dataclass
class _Page:
    """The steps at which the same probes were due.

    Attributes:
        probes: those.
        onlooker: takes what they will ask for.
        vital: the same probes, if sums are enough for them all.
        notes: of the steps, by batch size, and which steps these are.
    """

    probes: Mapping[str, Probe]
    onlooker: Onlooker
    vital: Mapping[str, VitalProbe] | None
    notes: dict[int, tuple[Notes, list[int]]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Timed:
    """An onlooker that says when it begins and ends to look."""

    wanted: Wanted
    stopwatch: Stopwatch

    def begin(self, network: Network) -> Sighting:
        return Sums(Places.of(network), self.wanted, self.stopwatch.lap)


class Ledger:
    """Measures the steps of a run; those for which sums are enough many at once (:mod:`engine.notes`).

    So records come late, by ``CAPACITY`` measured steps or ``SPAN`` steps or until they are asked for; but all of them
    come, in order, with the values that they would have had at once.

    Args:
        probes: of the run.
        prompt: whether every record is wanted at its step.
        stopwatch: told what time was spent on: a probe's name, "sums" or "records".
    """

    def __init__(self, probes: Mapping[str, Probe], prompt: bool, stopwatch: Stopwatch) -> None:
        self._probes, self._prompt, self._stopwatch = probes, prompt, stopwatch
        self._pages: dict[tuple[str, ...], _Page] = {}
        self._first, self._due = sys.maxsize, False  # the first step noted; whether it is time to settle

    def onlooker(self, names: Sequence[str]) -> Onlooker | None:
        """What is to look on when the gradient is taken of which these probes will be read."""
        return self._page(names).onlooker if names else None

    def _page(self, names: Sequence[str]) -> _Page:
        key = tuple(names)
        if key not in self._pages:
            probes = {name: self._probes[name] for name in names}
            wanted = Wanted.together(probe.wanted for probe in probes.values())
            onlooker = wanted if self._stopwatch.idle else _Timed(wanted, self._stopwatch)
            vital = {name: probe for name, probe in probes.items() if isinstance(probe, VitalProbe)}
            self._pages[key] = _Page(probes, onlooker, vital if len(vital) == len(probes) else None)
        return self._pages[key]

    def notes(self, network: Network, names: Sequence[str]) -> bool:
        """Whether steps of this network, after a forward pass, are noted where these probes are due."""
        small = network.theta.size + network.rows.z.size <= SMALL
        return small and not self._prompt and self._page(names).vital is not None

    def take(self, moment: Moment, names: Sequence[str], step: int) -> list[Record]:
        """Measure a step; the records that are ready, this step's last."""
        if not names:
            return []
        page = self._page(names)
        if not (self.notes(moment.network, names) and self._note(moment, page, step)):
            return [*self.settle(), *measure(moment, page.probes, step, self._stopwatch)]
        return self.settle() if self._due else []

    @np.errstate(all="ignore")
    def _note(self, moment: Moment, page: _Page, step: int) -> bool:
        size = moment.network.batch_size
        if size not in page.notes:
            of_update = any(probe.of_update for probe in (page.vital or {}).values())
            page.notes[size] = Notes(moment.layers, CAPACITY, of_update), []
        notes, steps = page.notes[size]
        if not notes.note(moment.layers):
            return False
        self._first = min(self._first, step)
        self._due = notes.full or step - self._first >= SPAN
        steps.append(step)
        self._stopwatch.lap("sums")
        return True

    @np.errstate(all="ignore")
    def settle(self) -> list[Record]:
        """The records of all steps that were noted, in order."""
        found: list[Record] = []
        for page in self._pages.values():
            for notes, steps in page.notes.values():
                if steps and page.vital is not None:
                    several = bool(found)
                    found += self._worked_out(page.vital, notes, steps)
                    if several:
                        found.sort(key=lambda record: record.step)
        for page in self._pages.values():
            for notes, steps in page.notes.values():
                notes.clear()
                steps.clear()
        self._first, self._due = sys.maxsize, False
        return found

    def _worked_out(self, probes: Mapping[str, VitalProbe], notes: Notes, steps: Sequence[int]) -> list[Record]:
        vitals, found = notes.vitals(), []
        for name, probe in probes.items():
            found += [(name, probe.geometric, *_by_step(reading, len(steps))) for reading in probe.found(vitals)]
            self._stopwatch.lap(name)
        records = [
            Record(step, name, layers, values[k], geometric)
            for k, step in enumerate(steps)
            for name, geometric, layers, values in found
        ]
        self._stopwatch.lap("records")
        return records


def _by_step(reading: Reading, steps: int) -> tuple[tuple[int, ...], Array]:
    """The layers, and the values of each step [k, layers, R]."""
    values = reading.values.reshape(len(reading.layers), steps, -1)
    return reading.layers, np.ascontiguousarray(values.swapaxes(0, 1))
