"""From moments to records: every probe that is due, at every step at which it is."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import NamedTuple

import numpy as np

from engine.moment import Moment
from engine.network import Network, Onlooker, Sighting
from engine.notes import FEWEST, Notes
from engine.probes import Probe, Reading, VitalProbe
from engine.sums import NotThereError, Wanted
from pipeline.records import Record
from pipeline.stopwatch import Stopwatch

KEPT_BYTES = 2**22  # of rows that are kept: more would leave the caches before they are summed
THIN = 8  # times in a row that fewer than half of FEWEST steps were worked out together, until no more are noted
SMALL = 2**19  # numbers in a network and its batch; in larger ones they, more than the calls, are what measuring costs
HUGE = 2**23  # such numbers, from where a step takes so long that its records should not have to wait for another


class Patience(NamedTuple):
    """How many steps may be noted, and how many pass since the first of them, before they are looked at together."""

    capacity: int
    span: int


OF_SMALL, OF_LARGE, NONE = Patience(128, 256), Patience(2 * FEWEST, 4 * FEWEST), Patience(0, 0)


@np.errstate(all="ignore")
def measure(moment: Moment, probes: Mapping[str, Probe], step: int, stopwatch: Stopwatch | None = None) -> list[Record]:
    """Every probe in every layer, after a backward pass and before the update is added."""
    records = []
    for name, probe in probes.items():
        for reading in probe.readings(moment):
            records += _records(name, probe.geometric, reading, (step,))
        if stopwatch is not None:
            stopwatch.lap(name)
    return records


def _records(name: str, geometric: bool, reading: Reading, steps: Sequence[int]) -> list[Record]:
    """One for each step; the reading's values are of all of them, [layers or 1, E...] for one step."""
    layers, found, part, bins, sparse = reading
    shape = len(layers) or 1, len(steps), -1, *(() if bins is None else (len(bins),))
    values = np.array(found.reshape(shape).swapaxes(0, 1), dtype=np.float64, order="C")  # its own, to be kept for long
    probe = f"{name}_{part}" if part else name
    alike = (repeat(x) for x in (geometric, bins, sparse))
    fields = zip(steps, repeat(probe), repeat(layers), values, *alike, strict=False)
    return [*map(tuple.__new__, repeat(Record), fields)]  # Record._make, in half the time: there are very many


@dataclass
class _Page:
    """The steps at which the same probes were due; an onlooker that takes what these will ask for.

    Attributes:
        probes: those.
        wanted: what they will ask for.
        lap: told when looking begins and ends, if somebody wants to know.
        noted: whether steps may be noted.
        tried: whether it is known that the probes ask for no more than is noted.
        capacity: of new notes; it grows with their use, for a page may be due but once.
        patience: of the network for which notes were made last.
        notes: of the steps, by batch size.
        thin: how many times in a row so few steps were worked out together that noting them did not pay.
    """

    probes: Mapping[str, Probe]
    wanted: Wanted
    lap: Callable[[str], None] | None
    noted: bool
    tried: bool = False
    capacity: int = FEWEST
    patience: Patience = NONE
    notes: dict[int, Notes] = field(default_factory=dict)
    thin: int = 0

    @property
    def vital(self) -> dict[str, VitalProbe]:
        """The probes that sums are enough for, which those of a page that is noted all are."""
        known = VitalProbe.readings
        return {n: p for n, p in self.probes.items() if isinstance(p, VitalProbe) and type(p).readings is known}

    def begin(self, network: Network) -> Sighting:
        notes = self.notes.get(network.batch_size) if self.noted else None
        sighting = notes.sighting(network) if notes is not None else None
        return self.wanted.begin(network, self.lap) if sighting is None else sighting


class Ledger:
    """Measures the steps of a run; those for which sums are enough many at once (:mod:`engine.notes`).

    So records come late, as far as the network's :class:`Patience` goes or until they are asked for; but all of them
    come, in order, with the values that they would have had at once.

    Args:
        probes: of the run.
        prompt: whether every record is wanted at its step.
        stopwatch: told what time was spent on: a probe's name, "sums" or "records".
    """

    def __init__(self, probes: Mapping[str, Probe], prompt: bool, stopwatch: Stopwatch) -> None:
        self._probes, self._prompt, self._stopwatch = probes, prompt, stopwatch
        self._pages: dict[tuple[str, ...], _Page] = {}
        self._first = sys.maxsize  # the first step noted and not settled
        self._ready: deque[Record] = deque()
        self._asked: tuple[Sequence[str], _Page] = (), _Page({}, Wanted(), None, noted=False)

    def onlooker(self, names: Sequence[str]) -> Onlooker | None:
        """What is to look on when the gradient is taken of which these probes will be read."""
        if not names:
            return None
        asked, page = self._asked
        return page if names is asked else self._page(names)

    def _page(self, names: Sequence[str]) -> _Page:
        key = tuple(names)
        if key not in self._pages:
            probes = {name: self._probes[name] for name in names}
            wanted = Wanted.together(probe.wanted for probe in probes.values())
            page = _Page(probes, wanted, None if self._stopwatch.idle else self._stopwatch.lap, noted=False)
            page.noted = not self._prompt and len(page.vital) == len(probes)
            self._pages[key] = page
        self._asked = names, self._pages[key]
        return self._asked[1]

    def together(self, network: Network, names: Sequence[str]) -> int:
        """How many steps of this network, after a forward pass, are looked at together where these probes are due."""
        return max(1, _patience(network).capacity) if self._page(names).noted else 1

    def take(self, moment: Moment, names: Sequence[str], step: int) -> list[Record]:
        """Measure a step; its records, if they are there at once. They are told in turn with the others."""
        if not names:
            if step > self._first and step - self._first >= _patience(moment.network).span:
                self.settle()
            return []
        asked, page = self._asked  # for the pass, and now once more for its measurement
        if names is not asked:
            page = self._page(names)
        if page.noted and self._note(moment, page, step):
            return []
        self.settle()
        found = measure(moment, page.probes, step, self._stopwatch)
        self.add(found)
        return found

    def add(self, records: Iterable[Record]) -> None:
        """Records of this step from elsewhere, to be told after all before them."""
        self._ready.extend(records)

    def tell(self, before: int | None = None) -> Iterator[Record]:
        """The records that are ready, of steps before this one; whatever happens meanwhile, each is told once."""
        ready = self._ready
        while ready and (before is None or ready[0].step < before):
            yield ready.popleft()

    def _note(self, moment: Moment, page: _Page, step: int) -> bool:
        size = moment.network.batch_size
        notes = page.notes.get(size)
        if notes is None:
            patience = _patience(moment.network)
            if not patience.capacity:
                return False
            notes = page.notes[size] = self._new_notes(moment, page, patience.capacity)
            page.patience = patience
        if not notes.note(moment, step):
            return False
        if not page.tried:
            page.tried, page.noted = True, _enough(page.vital, notes)
            if not page.noted:
                notes.clear()
                return False
        if step < self._first:
            self._first = step
        if page.lap is not None:
            page.lap("sums")
        full = len(notes.steps) == notes.capacity
        if full or step - self._first >= page.patience.span:
            self.settle()
            if full and notes.capacity == page.capacity < page.patience.capacity:  # they are worth more room
                page.capacity *= 2
                page.notes.pop(size, None)
        return True

    def _new_notes(self, moment: Moment, page: _Page, most: int) -> Notes:
        of_update = any(probe.of_update for probe in page.vital.values())
        kept = sum(notes.nbytes for page in self._pages.values() for notes in page.notes.values())
        return Notes.of(moment, page.wanted, min(page.capacity, most), of_update, KEPT_BYTES - kept, page.lap)

    @np.errstate(all="ignore")
    def settle(self) -> None:
        """Work out all steps that were noted; their records are ready then."""
        self._first = sys.maxsize
        pages = [page for page in self._pages.values() if any(notes.steps for notes in page.notes.values())]
        several = len(self._pages) > 1 or any(len(page.notes) > 1 for page in pages)
        found: list[Record] = []
        try:
            for page in pages:
                for notes in page.notes.values():
                    if notes.steps:
                        page.thin = page.thin + 1 if len(notes.steps) < FEWEST // 2 else 0
                        self._work_out(page.vital, notes, found)
                if page.thin >= THIN:
                    page.noted = False
                    page.notes.clear()
        finally:  # if a probe fails, too
            self.add(found)
            if several:
                in_order = sorted(self._ready, key=lambda record: record.step)
                self._ready.clear()
                self._ready.extend(in_order)

    def _work_out(self, probes: Mapping[str, VitalProbe], notes: Notes, found: list[Record]) -> None:
        vitals, by_reading = notes.vitals(), list[list[Record]]()
        try:
            for name, probe in probes.items():
                for reading in probe.found(vitals):
                    of_steps = reading._replace(values=reading.values[:, : len(notes.steps)])
                    by_reading.append(_records(name, probe.geometric, of_steps, notes.steps))
                self._stopwatch.lap(name)
        finally:
            found.extend(chain.from_iterable(zip(*by_reading, strict=True)))
            notes.clear()
            self._stopwatch.lap("records")


def _patience(network: Network) -> Patience:
    size = network.theta.size + network.rows.z.size
    return OF_SMALL if size <= SMALL else OF_LARGE if size <= HUGE else NONE


@np.errstate(all="ignore")
def _enough(probes: Mapping[str, VitalProbe], notes: Notes) -> bool:
    """Whether these probes ask for no more than was noted."""
    try:
        for probe in probes.values():
            probe.found(notes.vitals())
    except (NotThereError, AttributeError):
        return False
    return True
