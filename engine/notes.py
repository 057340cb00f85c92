"""Steps that are noted, to be looked at many at once.

In a small network it is not the numbers that make measuring dear but the calls. Most probes follow from a few sums
(:class:`engine.vitals.Vitals`), and what follows from them is worked out for many steps at once, as if these were
members of a stack. The values are those that each step would have given by itself, bit for bit (on CPUs whose sums do
not depend on where numbers lie; BLAS kernels from before SSE4.2 look at that).

Where even the numbers of a layer are few, they are kept, and most sums, too, are taken for many steps at once
(:class:`NotedRows`); else a step's sums are taken while it is in the cache, and only they are kept
(:class:`NotedSums`).
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple
from weakref import ref

import numpy as np

from engine.arrays import Array, Operation, aligned, all_safe, do
from engine.moment import Moment
from engine.network import Network, Rows, Sighting, neighbours, slopes_of
from engine.optimizers import factor_of
from engine.sums import ROWS_OF, Lap, NotThereError, Of, Places, Plan, Sums, Wanted, of_rows
from engine.vitals import Source, Vitals

MANY = 1024  # numbers: summing these takes longer than the call does
FEW_OUTPUTS = 2**12  # a of layer L: few enough to be kept at every step
_SPREAD = Wanted(frozenset({Of.A, Of.AA}))  # what ⟨a²⟩ − ⟨a⟩² is made of
FEWEST = 8  # steps that must have room together, if their rows are to be kept


class Notes(ABC):
    """Of up to K steps of one network with batches of one size.

    Args:
        moment: a step as the others will be.
        wanted: what will be asked for.
        capacity: K.
        of_update: whether the size of the update will be asked for.

    Attributes:
        steps: those that are noted.
        capacity: K.
        nbytes: of the rows that are kept.
    """

    nbytes = 0

    def __init__(self, moment: Moment, wanted: Wanted, capacity: int, of_update: bool) -> None:
        network = moment.network
        self._network, self._batch_size = ref(network), network.batch_size  # no circle: it is gone with its last user
        self.wanted, self.capacity = wanted, capacity
        self.factors = np.ones((capacity, *[1] * len(network.ensemble))) if of_update else None
        self.steps: list[int] = []

    @staticmethod
    def of(moment: Moment, wanted: Wanted, capacity: int, of_update: bool, room: int, lap: Lap | None = None) -> Notes:
        """The fitting kind, with the largest K that there is room for.

        Args:
            moment, wanted, of_update: as above.
            capacity: the largest K.
            room: bytes for rows that are kept.
            lap: told when an onlooker begins ("step" is over) and ends ("sums" are).
        """
        fitting = room // max(1, moment.network.rows.z.nbytes * len(_rows_for(wanted)))
        if fitting < min(FEWEST, capacity):
            return NotedSums(moment, wanted, capacity, of_update)
        return NotedRows(moment, wanted, capacity, of_update, lap, room)

    def sighting(self, network: Network) -> Sighting | None:
        """What looks on at a pass of this network, if it is not to be the sums that are wanted."""
        return None

    def note(self, moment: Moment, step: int) -> bool:
        """Note a step, if that is enough to know what is wanted; False, and nothing noted, if it has to be measured.

        It has where a number is not finite (whoever watches a run must hear of it at once), where the δ, the weights or
        the gradient of a layer are all 0 or a sum of their squares cannot be trusted, where the update is no multiple
        of the gradient, and where there is no room.
        """
        network, k, times = moment.network, len(self.steps), 1.0
        if k == self.capacity or network is not self._network() or network.batch_size != self._batch_size:
            return False
        if self.factors is not None:
            factor = factor_of(moment.proposed, network)
            if factor is None:
                return False
            self.factors[k], times = factor, factor * factor or 1.0  # no update at all has a size, too: 0
        if not self._keep(network, times):
            return False
        self.steps.append(step)  # now, and not before, it is there
        return True

    @abstractmethod
    def _keep(self, network: Network, times: float) -> bool:
        """Keep the next step, if all squares can be trusted, and so many times as much of each."""

    def vitals(self) -> Vitals:
        """Of the steps noted, in order, as an axis in front of the ensemble axes: [L, k or more, E...].

        To be read at once. What was not wanted raises NotThereError.
        """
        plan, source, axes = self._source()
        factors = None if self.factors is None else self.factors[: self.capacity if axes == 0 else len(self.steps)]
        return _Noted(plan, _Required(source, self.wanted), factors, axes)

    @abstractmethod
    def _source(self) -> tuple[Plan, Source, int]:
        """Of the sums: of which layers, from where, and how many axes lie between layers and the plan's ensemble."""

    def clear(self) -> None:
        """Begin anew."""
        self.steps.clear()


class _Noted(Vitals):
    def __init__(self, plan: Plan, source: Source, factors: Array | None, axes: int) -> None:
        super().__init__(plan, source, axes)
        self._factors = factors

    def _update_norm(self) -> Array:
        if self._factors is None:
            raise NotThereError("the size of the update was not wanted when these steps were noted")
        return np.abs(self._factors) * self.gradient_norm


class _Required(Source):
    """A source of what was wanted, and of nothing else, whatever it may have."""

    def __init__(self, source: Source, wanted: Wanted) -> None:
        self._source, self._wanted = source, wanted

    def norm(self, of: Of) -> Array:
        self._require(of in self._wanted.sums, f"the sum {of.name}")
        return self._source.norm(of)

    def mean(self, of: Of) -> Array:
        self._require(of in self._wanted.sums, f"the sum {of.name}")
        return self._source.mean(of)

    def mean_square(self, of: Of) -> Array:
        self._require(of in self._wanted.sums, f"the sum {of.name}")
        return self._source.mean_square(of)

    def variance(self) -> Array:
        self._require({Of.A, Of.AA} <= self._wanted.sums, "the variance of a")
        return self._source.variance()

    def below(self, fraction: float) -> Array:
        self._require(fraction in self._wanted.below, f"the count below {fraction}")
        return self._source.below(fraction)

    def dead(self) -> Array:
        self._require(self._wanted.live, "which units are live")
        return self._source.dead()

    def _require(self, there: bool, what: str) -> None:
        if not there:
            raise NotThereError(f"{what} was not wanted when these steps were noted")


# Rows that are kept


def _rows_for(wanted: Wanted, at_once: frozenset[Of] = frozenset()) -> tuple[str, ...]:
    """Which rows what is wanted is made of, where these sums need none, and what lies between them."""
    names = {ROWS_OF[of] for of in wanted.sums - at_once if of in ROWS_OF}
    if wanted.counts:
        names.add("slope")
    if {Of.A, Of.AA} <= wanted.sums:
        names.add("a")  # where ⟨a²⟩ − ⟨a⟩² cancels
    places = [Rows.ORDER.index(name) for name in names]
    return Rows.ORDER[min(places) : max(places) + 1] if places else ()


def _at_once(wanted: Wanted, numbers: int, calls: int) -> frozenset[Of]:
    """Which sums are taken at every step, where one over units, of so many numbers, takes so many calls.

    Those over parameters; those over units where they do not cost more than keeping rows does.
    """
    over_units = frozenset(of for of in wanted.sums if of in ROWS_OF)
    found = set(wanted.sums - over_units)
    if Of.DELTA in over_units:
        found.add(Of.BIAS_GRADIENT)  # tells a layer whose δ is 0
    if len(over_units) == 1 or numbers >= MANY * calls:
        found |= over_units
    if Of.AA not in found:
        found.discard(Of.A)  # nobody would see what is not finite
    return frozenset(found)


class _Slot(NamedTuple):
    """A step's place.

    Attributes:
        products: what takes its sums.
        squares: those of squares, flat, and what lies between them.
        copies: where to put which rows: views [q, count, n·B] of neighbours of one size.
    """

    products: list[Operation]
    squares: Array
    copies: list[tuple[Array, Array]]


class NotedRows(Notes):
    """The rows of K steps, those of each layer together, as those of a stack are; and sums that are taken at once.

    A sum over kept rows that cannot be trusted is mended later: its numbers are there. Those of the others are not, so
    these are looked at; and, with δ, the sums over ⟨δ⟩, which tell a layer whose δ is 0.

    Args:
        moment, wanted, of_update: as in :class:`Notes`.
        capacity: the largest K.
        lap: as in :meth:`Notes.of`.
        room: bytes for rows.
    """

    def __init__(
        self, moment: Moment, wanted: Wanted, capacity: int, of_update: bool, lap: Lap | None, room: int = sys.maxsize
    ) -> None:
        network = moment.network
        self._of_step = Places.of(network)  # where its numbers lie
        at_once = _at_once(wanted, network.rows.z.size, self._of_step.calls)
        names = _rows_for(wanted, at_once)
        fitting = room // max(1, network.rows.z.nbytes * len(names))
        super().__init__(moment, wanted, min(capacity, _power_of_two(fitting)), of_update)
        self._lap, capacity = lap, self.capacity
        line = slice(0)
        if names:
            line = slice(Rows.ORDER.index(names[0]), Rows.ORDER.index(names[-1]) + 1)
        self._block, self._rest = network.rows.block[line], network.rest if wanted.counts else []
        self._given = Wanted(at_once)
        self._looks_at_rows = not set(names) <= _seen_in(at_once)
        self._sums = np.ones((capacity, len(Of), network.depth, *network.ensemble), network.theta.dtype)

        plan = Plan(network.layers, (capacity, *network.ensemble), self._batch_size)
        self._rows = aligned((len(names), plan.parts[-1].stop, self._batch_size), network.theta.dtype)
        self._rows[...] = 1  # a step that is not there leaves nothing to mend
        self.nbytes = self._rows.nbytes
        named = dict(zip(names, self._rows, strict=True))
        slopes = []
        if wanted.counts:
            slope = named["slope"]
            slopes = slopes_of(neighbours(network.layers, plan.parts), slope, slope, slope)  # they have been taken
        self.places = Places(
            plan,
            self._rows.dtype,
            rows={of: rows for of, rows in of_rows(named).items() if of in wanted.sums},
            flat={},
            stretches=[(0, network.depth)],
            groups=[(0, network.depth, slopes)],
            others=[],
            take_slopes=lambda: None,
            given=at_once,
        )
        self._all = Wanted(wanted.sums | at_once, wanted.below, wanted.live)
        self._sum_up = self.places.looks(self._all).together()
        self._runs = [(size, len(list(alike))) for size, alike in groupby(layer.b.size for layer in network.layers)]
        self._slots: list[_Slot] = []  # made when first used: a page may be due but once
        self.passes = None
        self._seen: tuple[int, bool] | None = None  # into which slot a pass was put, and whether its rows are finite

    def sighting(self, network: Network) -> Sighting | None:
        """Itself."""
        return self if network is self._network() else None

    def over(self) -> None:
        """All is done when the passes are over: these are small networks."""
        if len(self.steps) == self.capacity:
            return
        if self._lap is None:
            self._see()
            return
        self._lap("step")
        self._see()
        self._lap("sums")

    def _see(self) -> tuple[int, bool]:
        self._seen, k, finite, slots = None, len(self.steps), True, self._slots
        while k >= len(slots):
            slots.append(self._slot(len(slots)))
        products, _, copies = slots[k]
        for product in products:
            product()
        for alike in self._rest:
            alike.take()
        if self._looks_at_rows:
            finite = sum(np.vecdot(self._block, self._block).tolist()) < math.inf
        for to, come in copies:
            to[...] = come
        self._seen = seen = k, finite  # now, and not before, all of it is there
        return seen

    def _slot(self, k: int) -> _Slot:
        sums, depth = self._sums[k], len(self._of_step.plan.numbers)
        products = [p for of in sorted(self._given.sums) for p in self._of_step.products_into(sums, of, 0, depth)]
        q, K, B = len(self._rows), self.capacity, self._batch_size
        copies, start = list[tuple[Array, Array]](), 0
        for size, count in self._runs if q else ():
            end = start + size * count
            to = self._rows[:, K * start : K * end].reshape(q, count, K, size * B)
            copies.append((to[:, :, k], self._block[:, start * B : end * B].reshape(q, count, size * B)))
            start = end
        return _Slot(products, sums[self._given.squares].reshape(-1), copies)

    def _keep(self, network: Network, times: float) -> bool:
        seen, self._seen = self._seen, None
        if seen is None or seen[0] != len(self.steps) or network.sighting is not self:
            with np.errstate(all="ignore"):
                seen = self._see()
            self._seen = None
        slot, finite = seen
        return finite and all_safe(self._slots[slot].squares, self.places.dtype, times)

    def _source(self) -> tuple[Plan, Source, int]:
        given, k = sorted(self._given.sums), len(self.steps)
        self.places.sums[given] = 1
        self.places.sums[given, :, :k] = np.moveaxis(self._sums[:k, given], 0, 2)
        do(self._sum_up)
        return self.places.plan, Sums(self.places, self._all), 0

    def clear(self) -> None:
        """Begin anew."""
        super().clear()
        self._seen = None


def _power_of_two(most: int) -> int:
    """The largest that is no more than this, and 1 at least."""
    return 1 << max(1, most).bit_length() - 1


def _seen_in(sums: frozenset[Of]) -> set[str]:
    """Of which rows these sums tell whether they are finite."""
    found = {ROWS_OF[of] for of in sums if of in ROWS_OF and of is not Of.A}
    if Of.BIAS_GRADIENT in sums:
        found.add("delta")  # an infinite δ makes its mean infinite
    if found >= {"z", "delta"}:
        found.add("slope")
    return found


# Sums that are kept


class NotedSums(Notes):
    """The sums of up to K steps; those over units have to be trusted, too.

    And, where they are few, the a of layer L: there ⟨a²⟩ − ⟨a⟩² cancels at many a step, for its outputs begin alike.

    Args:
        moment, wanted, capacity, of_update: as in :meth:`Notes.of`.
    """

    def __init__(self, moment: Moment, wanted: Wanted, capacity: int, of_update: bool) -> None:
        super().__init__(moment, wanted, capacity, of_update)
        network, places = moment.network, Places.of(moment.network)
        self._places, shape = places, (capacity, *places.plan.shape)
        self._sums = np.ones((capacity, *places.sums.shape), places.dtype)
        self._spread = {Of.A, Of.AA} <= wanted.sums
        self._lost, self._around = np.zeros(shape, bool), np.empty(shape)
        self._live = np.empty((capacity, len(places.live)), places.dtype)
        self._below = {fraction: np.zeros((capacity, len(places.plan.starts))) for fraction in wanted.below}
        self._a = network.rows.a[places.plan.parts[-1]]
        keeps = self._spread and self._a.size <= FEW_OUTPUTS
        self._many_a = aligned((capacity if keeps else 0, *self._a.shape), places.dtype)
        self._many_a[...] = 1  # a step that is not there leaves nothing to mend
        self.nbytes = self._many_a.nbytes
        self._many = _of_many_a(network, self._many_a) if keeps else None
        self._sum_up = self._many.looks(_SPREAD).together() if self._many is not None else []

    @np.errstate(all="ignore")
    def _keep(self, network: Network, times: float) -> bool:
        sums, wanted, k = Sums.of(network), self.wanted, len(self.steps)
        if (sums.wanted is not wanted and sums.wanted != wanted) or not sums.safe_times(times):
            return False  # or nobody had these sums taken
        if self._spread:
            self._lost[k] = lost = sums.cancelled()
            if self._many is not None:
                self._many_a[k] = self._a
                lost = lost[:-1]
            if some := sums.layers_with(lost):
                self._around[k, some] = sums.variance_around(some)
        elif Of.A in wanted.sums and not np.isfinite(sums.places.sums[Of.A]).all():
            return False
        self._sums[k] = sums.places.sums
        if wanted.counts:
            counted = sums.counted()
            self._live[k] = counted.live
            for fraction, counts in self._below.items():
                counts[k] = counted.counts(fraction)
        return True

    def _source(self) -> tuple[Plan, Source, int]:
        k = len(self.steps)
        if self._many is not None and self._lost[:k, -1].any():
            do(self._sum_up)
            sums = Sums(self._many, _SPREAD)
            self._around[:k, -1] = sums.variance()[0, :k]
        below = {fraction: counts[:k] for fraction, counts in self._below.items()}
        trusted = _Trusted(self._places, self._sums[:k], self._lost[:k], self._around[:k], below, self._live[:k])
        return self._places.plan, trusted, 1


def _of_many_a(network: Network, a: Array) -> Places:
    """For sums over the a of layer L at K steps: [K, n, B] with n units in the whole stack."""
    plan = Plan(network.layers[-1:], (len(a), *network.ensemble), a.shape[-1])
    rows = a.reshape(-1, a.shape[-1])
    return Places(
        plan,
        a.dtype,
        rows={Of.A: rows, Of.AA: rows},
        flat={},
        stretches=[(0, 1)],
        groups=[],
        others=[],
        take_slopes=lambda: None,
    )


@dataclass(frozen=True)
class _Trusted(Source):
    """Of sums of k steps, all of which can be trusted.

    Attributes:
        places: of one step.
        sums: [k, 7, L, E...].
        lost, around: where ⟨a²⟩ − ⟨a⟩² is lost, and ⟨(a − ⟨a⟩)²⟩ there: [k, L, E...].
        counts: by fraction, pairs below it, but for σ that switch: [k, L · members].
        live: 0 for units with σ'(z) = 0 on every example: [k, N].
    """

    places: Places
    sums: Array
    lost: Array
    around: Array
    counts: dict[float, Array]
    live: Array

    def _sum(self, of: Of) -> Array:
        return self.sums[:, of].swapaxes(0, 1).astype(np.float64)

    def norm(self, of: Of) -> Array:
        return np.sqrt(self._sum(of))

    def mean(self, of: Of) -> Array:
        return np.asarray(self._sum(of) / self.places.plan.pairs[:, None])

    def mean_square(self, of: Of) -> Array:
        return self.mean(of)

    def variance(self) -> Array:
        lost, around = self.lost.swapaxes(0, 1), self.around.swapaxes(0, 1)
        return np.where(lost, around, self.mean(Of.AA) - np.square(self.mean(Of.A)))

    def below(self, fraction: float) -> Array:
        below = self.places.and_switched(fraction, self.counts[fraction], self.live)
        return below.reshape(-1, *self.places.plan.shape).swapaxes(0, 1)

    def dead(self) -> Array:
        dead, plan = self.live == 0, self.places.plan
        counts = np.zeros((len(dead), len(plan.starts)))
        if dead.any():
            counts = np.add.reduceat(dead.astype(np.float64), plan.starts, axis=1)
        return counts.reshape(len(dead), *plan.shape).swapaxes(0, 1)
