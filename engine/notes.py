"""Steps that are noted, to be looked at many at once.

In a small network it is not the numbers that make measuring dear but the calls. Most probes follow from a few sums
(:class:`engine.vitals.Vitals`), and what follows from them is worked out for many steps at once, as if these were
members of a stack. The values are those that each step would have given by itself, bit for bit.

Where even the numbers of a layer are few, they are kept, and the sums, too, are taken for many steps at once
(:class:`NotedRows`); else a step's sums are taken while it is in the cache, and only they are kept
(:class:`NotedSums`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from itertools import groupby
from typing import NamedTuple
from weakref import ref

import numpy as np

from engine.arrays import Array, Product, aligned, bounds, multiply
from engine.moment import Moment
from engine.network import Network, Rows, neighbours, slopes_of
from engine.optimizers import factor_of
from engine.sums import NotThereError, Of, Places, Plan, Sums, Wanted, of_parameters
from engine.vitals import Vitals

Lap = Callable[[str], None]
KEPT_BYTES = 2**20  # of rows that are kept: more would leave the caches before they are summed
FEWEST = 8  # steps that have to fit in there


class Notes(ABC):
    """Of up to K steps of one network with batches of one size.

    Attributes:
        steps: those that are noted.
        capacity: K.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.steps: list[int] = []

    @staticmethod
    def of(moment: Moment, wanted: Wanted, capacity: int, of_update: bool, lap: Lap | None = None) -> Notes:
        """The fitting kind.

        Args:
            moment: a step as the others will be.
            wanted: what will be asked for.
            capacity: the largest K.
            of_update: whether the size of the update will be asked for.
            lap: told when looking begins ("step" is over) and ends ("sums" are).
        """
        if rows := kept_steps(moment.network, wanted, capacity):
            return NotedRows(moment.network, wanted, rows, of_update, lap)
        return NotedSums(moment, wanted, capacity, of_update)

    @property
    def full(self) -> bool:
        """Whether there is no room for another step."""
        return len(self.steps) == self.capacity

    @abstractmethod
    def note(self, moment: Moment, step: int) -> bool:
        """Note a step, if that is enough to know what is wanted; False, and nothing noted, if it has to be measured.

        It has where a number is not finite (whoever watches a run must hear of it), where a sum over parameters cannot
        be trusted, or if the update is no multiple of the gradient.
        """

    @abstractmethod
    def vitals(self) -> Vitals:
        """Of the steps noted, in order, as an axis in front of the ensemble axes: [L, k or more, E...].

        To be read at once. What was not wanted raises NotThereError.
        """

    def clear(self) -> None:
        """Begin anew."""
        self.steps.clear()


def kept_steps(network: Network, wanted: Wanted, capacity: int) -> int:
    """Of how many steps the rows can be kept, a power of 2 or at most so many; 0 if that does not pay.

    Args:
        network: after a forward pass.
    """
    rows = network.rows
    room = KEPT_BYTES // max(1, rows.z.nbytes * len(_kept(wanted)))
    return 0 if room < FEWEST else min(1 << room.bit_length() - 1, capacity)


_ROWS_OF = {Of.A: "a", Of.ZZ: "z", Of.AA: "a", Of.DELTA: "delta"}


def _kept(wanted: Wanted) -> tuple[str, ...]:
    """Which rows what is wanted is made of, and what lies between them."""
    names = [_ROWS_OF[of] for of in wanted.sums if of in _ROWS_OF] + (["slope", "a"] if wanted.counts else [])
    places = [Rows.ORDER.index(name) for name in names]
    return Rows.ORDER[min(places) : max(places) + 1] if places else ()


class _Slot(NamedTuple):
    """A step's place: what takes its sums over parameters, where these are then, and where to put which rows."""

    products: list[Product]
    squares: Array
    copies: list[tuple[Array, Array]]


class NotedRows(Notes):
    """The rows of K steps, those of each layer together, as those of a stack are; and sums over the parameters.

    Args:
        network: after a pass.
        wanted, capacity, of_update, lap: as in :meth:`Notes.of`.
    """

    def __init__(self, network: Network, wanted: Wanted, capacity: int, of_update: bool, lap: Lap | None) -> None:
        super().__init__(capacity)
        self._network = ref(network)  # no circle: a network without users is gone at once
        self._take_slopes = Places.of(network).take_slopes
        self._batch_size, self.wanted, self._lap = network.batch_size, wanted, lap
        plan = Plan(network.layers, (capacity, *network.ensemble), self._batch_size)
        names, units = _kept(wanted), plan.parts[-1].stop
        kept = aligned((len(names), units, self._batch_size), network.theta.dtype)
        kept[...] = 1  # as the sums are
        named = dict(zip(names, kept, strict=True))
        slopes = []
        if wanted.counts:
            slopes = slopes_of(neighbours(network.layers, plan.parts), named["z"], named["a"], named["slope"])
        given = frozenset(of for of in wanted.sums if of not in _ROWS_OF)
        self.places = Places(
            plan,
            kept.dtype,
            rows={of: named[_ROWS_OF[of]] for of in wanted.sums - given},
            flat={},
            groups=[(0, network.depth, slopes)],
            others=[],
            take_slopes=_nothing if wanted.counts else _no_slopes,
            given=given,
        )
        self.factors = np.ones((capacity, *[1] * len(network.ensemble))) if of_update else None

        first = Rows.ORDER.index(names[0]) if names else 0
        block = network.rows.block[first : first + len(names)]
        # an infinite δ makes its mean infinite, and that is looked at
        self._looked_at = () if set(names) <= {"delta"} and Of.BIAS_GRADIENT in given else (block,)
        self._bounds = bounds(kept.dtype)
        self._squares = _between(given)
        parameters = np.ones((capacity, len(Of), network.depth, *network.ensemble), kept.dtype)
        self._sums = parameters[:, self._squares]
        self._slots = [
            _Slot(_products(network, given, sums), sums[self._squares].reshape(-1), copies)
            for sums, copies in zip(parameters, _copies(network, block, kept, capacity), strict=True)
        ]
        self._last, self._seen, self._sound = len(network.groups) - 1, False, False

    def is_of(self, network: Network) -> bool:
        """Whether they are of this network."""
        return network is self._network()

    def see(self, group: int) -> None:
        """All is done when the last group of layers has been there: these are small networks."""
        if group < self._last:
            return
        if self._lap is not None:
            self._lap("step")
        self._see()
        if self._lap is not None:
            self._lap("sums")

    def _see(self) -> None:
        self._seen, self._sound = True, True
        products, _, copies = self._slots[len(self.steps)]
        multiply(products)
        if self.wanted.counts:
            self._take_slopes()
        for block in self._looked_at:
            self._sound = sum(np.vecdot(block, block).tolist()) < math.inf
        for to, come in copies:
            to[...] = come

    @np.errstate(all="ignore")
    def _see_late(self) -> None:
        self._see()

    def note(self, moment: Moment, step: int) -> bool:
        """A sum over units that cannot be trusted is mended later: its numbers are there."""
        network, k = moment.network, len(self.steps)
        factor = 1.0 if self.factors is None else factor_of(moment.proposed, network)
        if factor is None or not self.is_of(network) or network.batch_size != self._batch_size:
            return False
        if not self._seen or network.sighting is not self:
            self._see_late()
        self._seen = False
        squares = self._slots[k].squares
        if not (self._sound and _all_within(self._bounds, squares.tolist(), factor * factor)):
            squares[...] = 1  # what is of no step leaves nothing to mend
            return False
        if self.factors is not None:
            self.factors[k] = factor
        self.steps.append(step)  # now, and not before, it is there
        return True

    def vitals(self) -> Vitals:
        """Of K steps; those beyond the noted ones are of no step."""
        self.places.sums[self._squares] = np.moveaxis(self._sums, 0, 2)
        sums = Sums(self.places, self.wanted)
        sums.see(0)
        return _Members(self.places.plan, sums, self.factors)


def _all_within(bounds: tuple[float, float], squares: list[float], times: float) -> bool:
    """Whether all of these squares, and so many times as much of each, are within the bounds of their type."""
    if not squares:
        return True
    if not sum(squares) < math.inf:  # NaN, of which min and max may know nothing, or beyond the upper bound
        return False
    smallest, largest = bounds
    least = min(squares)
    return least * times >= smallest if times <= 1 else least >= smallest and max(squares) * times <= largest


def _products(network: Network, given: Collection[Of], sums: Array) -> list[Product]:
    """What takes these sums over parameters, [7, L, E...]."""
    flat, of_layer = of_parameters(network.theta, network.grad, network.parameters), np.moveaxis(sums, 1, -1)
    found: list[Product] = []
    for of in sorted(given):
        x, segments = flat[of]
        found += segments.products(x, x, of_layer[of])
    return found


def _between(sums: Iterable[Of]) -> slice:
    """These of all sums, and what lies between them."""
    some = sorted(sums)
    return slice(some[0], some[-1] + 1) if some else slice(0)


def _copies(network: Network, block: Array, kept: Array, capacity: int) -> list[list[tuple[Array, Array]]]:
    """For each of K steps, where to put rows and where to take them from: neighbouring layers of one size at once."""
    found: list[list[tuple[Array, Array]]] = [[] for _ in range(capacity)]
    B, start = network.batch_size, 0
    for size, alike in groupby(layer.b.size for layer in network.layers):
        count = len(list(alike)) if len(block) else 0
        end = start + count * size
        come = block[:, start * B : end * B].reshape(len(block), count, size * B)
        to = kept[:, capacity * start : capacity * end].reshape(len(block), count, capacity, size * B)
        for k in range(capacity if count else 0):
            found[k].append((to[:, :, k], come))
        start = end
    return found


def _nothing() -> None:
    """There is nothing to do."""


def _no_slopes() -> None:
    raise NotThereError("no slopes were kept of these steps")


class _Members(Vitals):
    """Of steps that are members of a stack."""

    def __init__(self, plan: Plan, sums: Sums, factors: Array | None) -> None:
        super().__init__(plan, sums)
        self._factors = factors

    def _update_norm(self) -> Array:
        return _times(self._factors, self.gradient_norm)


def _times(factors: Array | None, gradient_norm: Array) -> Array:
    if factors is None:
        raise NotThereError("the size of the update was not wanted when these steps were noted")
    return np.abs(factors) * gradient_norm


class NotedSums(Notes):
    """The sums of up to K steps.

    Args:
        moment, wanted, capacity, of_update: as in :meth:`Notes.of`.
    """

    def __init__(self, moment: Moment, wanted: Wanted, capacity: int, of_update: bool) -> None:
        super().__init__(capacity)
        places = Places.of(moment.network)
        plan = places.plan
        self.plan, self.wanted = plan, wanted
        shape = capacity, len(plan.numbers), *plan.ensemble
        self.sums = np.ones((capacity, len(Of), *shape[1:]), places.dtype)
        self.lost, self.around = np.zeros(shape, bool), np.empty(shape)
        self.dead = np.empty((capacity, len(places.live)), bool)
        self.below = {fraction: np.empty(shape) for fraction in wanted.below}
        self.factors = np.ones((capacity, *[1] * len(plan.ensemble))) if of_update else None
        self.has_variance = {Of.A, Of.AA} <= wanted.sums

    @np.errstate(all="ignore")
    def note(self, moment: Moment, step: int) -> bool:
        """False, too, if nobody had these sums taken or one over units cannot be trusted."""
        sums, wanted, k = Sums.of(moment.network), self.wanted, len(self.steps)
        factor = 1.0 if self.factors is None else factor_of(moment.proposed, moment.network)
        if factor is None or sums.wanted is not wanted or not (sums.safe and sums.safe_times(factor * factor)):
            return False
        if self.has_variance:
            self.lost[k] = lost = sums.cancelled()
            if some := sums.layers_with(lost):
                self.around[k, some] = sums.variance_around(some)
        elif Of.A in wanted.sums and not np.isfinite(sums.places.sums[Of.A]).all():
            return False
        if self.factors is not None:
            self.factors[k] = factor
        self.sums[k] = sums.places.sums
        for fraction, counts in self.below.items():
            counts[k] = sums.below(fraction)
        if wanted.live:
            np.equal(sums.live(), 0, self.dead[k])
        self.steps.append(step)
        return True

    def vitals(self) -> Vitals:
        """Of the steps noted."""
        return _Noted(self)


class _Noted(Vitals):
    """Its own source of sums, all of which can be trusted."""

    def __init__(self, notes: NotedSums) -> None:
        super().__init__(notes.plan, self, axes=1)
        self._notes, self._steps = notes, slice(0, len(notes.steps))

    def norm(self, of: Of) -> Array:
        return np.sqrt(self._sum(of))

    def mean(self, of: Of) -> Array:
        return np.asarray(self._sum(of) / self.pairs)

    mean_square = mean

    def below(self, fraction: float) -> Array:
        self._require(fraction in self._notes.below, f"the count below {fraction}")
        return self._notes.below[fraction][self._steps].swapaxes(0, 1)

    def dead(self) -> Array:
        self._require(self._notes.wanted.live, "which units are live")
        dead, plan = self._notes.dead[self._steps], self.plan
        counts = np.zeros((len(dead), len(plan.starts)))
        if dead.any():
            counts = np.add.reduceat(dead.astype(np.float64), plan.starts, axis=1)
        return counts.reshape(len(dead), *plan.shape).swapaxes(0, 1)

    def _sum(self, of: Of) -> Array:
        self._require(of in self._notes.wanted.sums, f"the sum {of.name}")
        return self._notes.sums[self._steps, of].swapaxes(0, 1).astype(np.float64)

    def _update_norm(self) -> Array:
        factors = self._notes.factors
        return _times(None if factors is None else factors[self._steps], self.gradient_norm)

    def variance(self) -> Array:
        self._require(self._notes.has_variance, "the variance of a")
        lost, around = (x[self._steps].swapaxes(0, 1) for x in (self._notes.lost, self._notes.around))
        return np.where(lost, around, self.mean(Of.AA) - np.square(self.mean(Of.A)))

    def _require(self, there: bool, what: str) -> None:
        if not there:
            raise NotThereError(f"{what} was not wanted when these steps were noted")
