"""Sums over the numbers of every layer, most of them of squares, from which probes make norms and means.

Sums cost little where the numbers lie in the cache, and much where they have to be fetched again. So who wants sums
says which (:class:`Wanted`) before a gradient is taken; they are then taken a few layers at a time, when the
passes are there (:class:`Sums`, an onlooker's sighting). Any other can be had later, with the same
bits. In small networks calls cost more than the numbers in them: neighbouring layers of one size share a call, and
what is done to the sums (roots, whether squares can be trusted) is done to all of them at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakMethod

import numpy as np

from engine.arrays import FEW, Array, Operation, Segments, do, extent, mended, ones, root, within
from engine.network import Layer, Looks, Network, Parameters, Passes, Rows, Slopes, slices
from engine.once import once


class Of(IntEnum):
    """What is summed over units and examples of a layer, or over its weights or biases, in the order in which it is."""

    A = 0  # a
    AA = 1  # a²: of the same numbers, which are still in the cache
    ZZ = 2  # z²
    DELTA = 3  # δ²
    GRADIENT = 4  # (∂C/∂W)²
    BIAS_GRADIENT = 5  # (∂C/∂b)²
    WEIGHTS = 6  # W²

    __hash__ = int.__hash__  # that of enumerations is a function in Python, called with every look into a set


@dataclass(frozen=True)
class Wanted:
    """What somebody will ask for; an onlooker (:class:`engine.network.Onlooker`) that takes it on the way.

    Attributes:
        sums: which sums.
        below: of which fractions the pairs with |σ'(z)| < fraction · sup|σ'| are to be counted.
        live: whether it is to be found which units pass anything on.
    """

    sums: frozenset[Of] = frozenset()
    below: frozenset[float] = frozenset()
    live: bool = False

    @classmethod
    def together(cls, many: Iterable[Wanted]) -> Wanted:
        """All that any of them wants."""
        wants = list(many)
        return cls(
            frozenset().union(*(w.sums for w in wants)),
            frozenset().union(*(w.below for w in wants)),
            any(w.live for w in wants),
        )

    def begin(self, network: Network, lap: Lap | None = None) -> Sums:
        """The sums of this pass; who gives a ``lap`` is told what they cost.

        Args:
            lap: told when looking begins ("step" is over) and ends ("sums" are).
        """
        key = Sums, network.batch_size, self, lap
        sums: Sums | None = network.memo.get(key)
        if sums is None:
            sums = network.memo[key] = Sums.along(network, self, lap)
        return sums.begin(network)

    @once
    def counts(self) -> bool:
        """Whether slopes are wanted."""
        return self.live or bool(self.below)

    @once
    def squares(self) -> slice:
        """The squares among the wanted sums, and what lies between them."""
        wanted = [of for of in self.sums if of is not Of.A]
        return slice(min(wanted), max(wanted) + 1) if wanted else slice(0)


NOTHING = Wanted()


def _together(ascending: list[int]) -> slice | list[int]:
    """The same places, as a slice if they are neighbours."""
    first, count = (ascending[0], len(ascending)) if ascending else (0, 0)
    return slice(first, first + count) if ascending == [*range(first, first + count)] else ascending


class Plan:
    """What follows from the shape of L layers alone: where their units, N with all members, lie in [N, B].

    Attributes:
        ensemble, members: E..., and how many they are.
        batch_size: B.
        numbers: of the layers.
        sloped: which of them, counted from 0, have an element-wise σ, so that there is a σ'(z).
        with_slope: their numbers, and where they are found among all.
        shape: (L, E...).
        units, pairs: units of each layer, and pairs of a unit and an example: [L, 1...].
        parts: the rows of each layer.
        repeats, starts: rows of each layer and member, and where they start: [L · members].
        small: whether a layer of a member has so few numbers that a call of its own would cost more than they do.
    """

    def __init__(self, layers: Sequence[Layer], ensemble: tuple[int, ...], batch_size: int) -> None:
        self.members, units = math.prod(ensemble), [layer.b.shape[-2] for layer in layers]
        self.ensemble = ensemble
        self.shape = len(layers), *ensemble
        self.batch_size = batch_size
        self.numbers = tuple([layer.number for layer in layers])
        self.sloped = [i for i, layer in enumerate(layers) if layer.sigma.elementwise]
        self.with_slope = tuple([self.numbers[i] for i in self.sloped]), _together(self.sloped)
        self.units: Array = np.array(units, dtype=np.float64).reshape(-1, *[1] * len(ensemble))
        self.pairs = self.units * batch_size
        self.parts = slices([n * self.members for n in units])
        self.repeats = np.repeat(units, self.members)
        self.starts = np.cumsum(self.repeats) - self.repeats
        self.small = self.parts[-1].stop * batch_size < 2048 * len(self.starts)

    def summed(self, per_row: Array, first: int = 0, last: int | None = None) -> Array:
        """Sums over the units of each layer and member, from layer first to before last, float64: [n] -> [l, E...].

        The cast is made before the sum: a casting reduction works in chunks that run across members.
        """
        starts = self.starts[first * self.members : None if last is None else last * self.members]
        return np.add.reduceat(per_row.astype(np.float64, copy=False), starts - starts[0]).reshape(-1, *self.ensemble)

    def mean_square(self, x: Array, of_rows: Array, first: int = 0, last: int | None = None) -> Array:
        """Mean of x² over units and examples, safe at any magnitude, from x [n, B] and sums of squares by row [n]."""
        summed, parts = self.summed(of_rows, first, last), self.parts[first:last]

        def rows(i: int) -> Array:
            part, begin = parts[i], parts[0].start
            return x[part.start - begin : part.stop - begin].reshape(*self.ensemble, -1)

        return np.asarray(mended(summed, x.dtype, rows) / self.pairs[first:last])


ROWS_OF = {Of.A: "a", Of.ZZ: "z", Of.AA: "a", Of.DELTA: "delta"}


def of_rows(rows: Mapping[str, Array]) -> dict[Of, Array]:
    """What is summed over units and examples, from those of z, a and delta [N, B] that there are."""
    return {of: rows[name] for of, name in ROWS_OF.items() if name in rows}


def of_parameters(theta: Array, grad: Array, parameters: Parameters) -> dict[Of, Flat]:
    """What is summed over parameters, from flat vectors [E..., P]."""
    weights, n = parameters.weight_segments, parameters.n_weights
    biases = grad[..., n:], parameters.bias_segments
    return {Of.GRADIENT: (grad[..., :n], weights), Of.BIAS_GRADIENT: biases, Of.WEIGHTS: (theta[..., :n], weights)}


class SlopePiece(NamedTuple):
    """Neighbouring layers of one σ, while their slopes are counted.

    Attributes:
        slopes: theirs.
        which: their numbers among all layers and members.
        starts, ends: the rows of each layer and member, counted from the first of these.
        firsts: the first number of each.
    """

    slopes: Slopes
    which: slice
    starts: Array
    ends: Array
    firsts: Array

    @classmethod
    def of(cls, slopes: Slopes, plan: Plan) -> SlopePiece:
        """Of these neighbours."""
        which = slice(*np.searchsorted(plan.starts, (slopes.part.start, slopes.part.stop)).tolist())
        starts, units = plan.starts[which] - slopes.part.start, plan.repeats[which]
        return cls(slopes, which, starts, starts + units, starts * plan.batch_size)


_CANCELS = {"f": 0.03, "d": 1e-3}  # ⟨a²⟩ − ⟨a⟩² below this share of ⟨a²⟩ has lost digits that matter
_NEAR_LARGEST = 1e9  # times a square that is not large, and there is still room
_LARGE = {"f": 1e37, "d": 1e300}

Lap = Callable[[str], None]  # told what time was spent on since it was last called
Flat = tuple[Array, Segments]  # a vector [..., P'] and where each layer's part of it lies


# What is at hand before the products of the forward pass (which are faster, too, when W has just been gone through),
# after them, and in the backward pass.
_BEFORE, _UP = frozenset({Of.WEIGHTS}), frozenset({Of.A, Of.AA, Of.ZZ})
_DOWN = frozenset(Of) - _BEFORE - _UP


class NotThereError(LookupError):
    """A sum of numbers that nobody has kept."""


class Places:
    """Where the numbers of L layers lie and where their sums go: all that can be made ready before a step.

    Args:
        plan: of these layers and this batch.
        dtype: of the numbers.
        rows: what is summed over units and examples, [N, B] (:func:`of_rows`).
        flat: what is summed over parameters (:func:`of_parameters`).
        stretches: layers, counted from 0, from first to before last, whose W, z and a are to be looked at together.
        groups: such whose slopes and gradients are, and these slopes while they are there.
        others: slopes that belong to no group.
        take_slopes: sees to it that all slopes are there.
        slopes: all of them, then; by default those of groups and the others.
        given: sums that somebody else fills in.

    Attributes:
        sums: [7, L, E...], in the order of :class:`Of`.
        live: [N], 0 for units with σ'(z) = 0 on every example and only for them; where σ switches, the number of
            examples that the unit is on at.
        pieces: slopes of neighbours of one σ, by group, while they are there.
        rest: such that belong to no group.
        all_pieces: all of them, when they have been taken.
        calls: how many one sum over the units of all layers takes.
        most_cancelled: largest (Σa)²/Σa² of a layer and member of which ⟨a²⟩ − ⟨a⟩² is to be trusted, [L, 1...].
        most: the same for each member, flat, where these are few.
    """

    def __init__(
        self,
        plan: Plan,
        dtype: np.dtype[Any],
        rows: Mapping[Of, Array],
        flat: Mapping[Of, Flat],
        stretches: Sequence[tuple[int, int]],
        groups: Sequence[tuple[int, int, Sequence[Slopes]]],
        others: Sequence[Slopes],
        take_slopes: Callable[[], Any],
        given: frozenset[Of] = frozenset(),
        slopes: Sequence[Slopes] | None = None,
    ) -> None:
        self.plan, self.dtype, self.take_slopes = plan, dtype, take_slopes
        self.sums = np.ones((len(Of), *plan.shape), dtype)
        self.live = np.ones(plan.parts[-1].stop, dtype)
        self._below: dict[float, Array] = {}
        self._room: Array | None = None
        self.pieces = [[SlopePiece.of(each, plan) for each in slopes] for _, _, slopes in groups]
        self.rest = [SlopePiece.of(each, plan) for each in others]
        if slopes is None:
            self.all_pieces = [*(piece for pieces in self.pieces for piece in pieces), *self.rest]
        else:
            self.all_pieces = [SlopePiece.of(each, plan) for each in slopes]
        switching = [piece.which for piece in self.all_pieces if piece.slopes.sigma.switches]
        which = sorted(i for each in switching for i in range(each.start, each.stop))
        self._switches = _together(which) if which else None
        self.most_cancelled = (1 - _CANCELS[dtype.char]) * plan.pairs
        few = math.prod(plan.shape) <= FEW
        self.most = np.broadcast_to(self.most_cancelled, plan.shape).ravel().tolist() if few else []
        self._ones = ones(plan.batch_size, dtype)
        self._units = Segments((plan.repeats * plan.batch_size).tolist())
        self.calls = self._units.calls
        self._rows, self._flat, self._given = rows, flat, given
        self._stretches, self._groups = stretches, [(first, last) for first, last, _ in groups]
        self._alone: dict[Of, list[Operation]] = {}

    def _products(self, of: Of, first: int, last: int) -> list[Operation]:
        return [] if of in self._given else self.products_into(self.sums, of, first, last)

    def products_into(self, sums: Array, of: Of, first: int, last: int) -> list[Operation]:
        """What puts one of the sums over the layers from first to before last into sums [7, L, E...]."""
        if of in self._rows:
            x, members = self._rows[of].reshape(-1), self.plan.members
            of_units = None if of is Of.A else x
            return self._units.products(x, of_units, sums[of].reshape(-1), first * members, last * members)
        x, segments = self._flat[of]
        if of is Of.BIAS_GRADIENT:  # so few numbers that they can wait until all are there
            first, last = (0, 0) if first else (0, len(self.plan.numbers))
        return segments.products(x, x, np.moveaxis(sums[of], 0, -1), first, last)

    @classmethod
    def of(cls, network: Network) -> Places:
        """Of a network and its batch size, made once for each: it takes longer than measuring a small one."""
        key = cls, network.batch_size
        made: Places | None = network.memo.get(key)
        if made is None:
            rows, slope = network.rows, WeakMethod(network.slope)  # no circle: a network without users is gone at once

            def take_slopes() -> None:
                take = slope()
                if take is None:
                    raise ReferenceError("the network is gone")
                take()

            groups = [(g.layers[-1].number - 1, g.layers[0].number, g.slopes) for g in network.groups]
            made = network.memo[key] = cls(
                Plan(network.layers, network.ensemble, network.batch_size),
                network.theta.dtype,
                of_rows({"z": rows.z, "a": rows.a, "delta": rows.delta}),
                of_parameters(network.theta, network.grad, network.parameters),
                [(stretch.first, stretch.last) for stretch in network.stretches],
                groups,
                network.apart,
                take_slopes,
                slopes=network.slopes,
            )
        return made

    def looks(self, wanted: Wanted) -> Looks:
        """What gives what is wanted of the passes, stretch by stretch and group by group.

        Raises:
            NotThereError: the numbers for a sum are not there.
        """
        if missing := wanted.sums - self._rows.keys() - self._flat.keys() - self._given:
            raise NotThereError(f"no numbers for the sums {sorted(of.name for of in missing)}")

        def products(sums: frozenset[Of], places: Sequence[tuple[int, int]]) -> list[list[Operation]]:
            these = sorted(wanted.sums & sums)
            return [[p for of in these for p in self._products(of, *where)] for where in places]

        pieces = self.pieces if wanted.counts else [[] for _ in self._groups]
        return Looks(
            products(_BEFORE, self._stretches),
            products(_UP, self._stretches),
            [[self._counting(piece, wanted) for piece in each] for each in pieces],
            products(_DOWN, self._groups),
        )

    def take(self, of: Of) -> None:
        """One of the sums, of all layers."""
        if of not in self._alone:
            self._alone[of] = self.looks(Wanted(frozenset((of,)))).together()
        do(self._alone[of])

    def rows(self, of: Of, first: int, last: int) -> Array:
        """What is summed over units and examples, of layers from first to before last: [n, B]."""
        parts = self.plan.parts
        return self._rows[of][parts[first].start : parts[last - 1].stop]

    def vectors(self, of: Of, i: int) -> Array:
        """The numbers whose squares are summed in layer i, counted from 0: [E..., n]."""
        if of in self._flat:
            x, segments = self._flat[of]
            return x[..., segments.slices[i]]
        return self.rows(of, i, i + 1).reshape(*self.plan.ensemble, -1)

    def _counting(self, piece: SlopePiece, wanted: Wanted) -> Operation:
        """Puts what is wanted of these slopes where it belongs."""
        if piece.slopes.sigma.switches and all(map(_tells_off, wanted.below)):
            return self._counting_on(piece)
        return partial(self.count, piece, wanted.below, wanted.live)

    def _counting_on(self, piece: SlopePiece) -> Operation:
        return partial(np.matmul, piece.slopes.slope, self._ones, self.live[piece.slopes.part])  # exact in any order

    def count(self, piece: SlopePiece, fractions: Iterable[float], live: bool) -> None:
        """Fill in the counts below these fractions and, if asked to, ``live``."""
        which, part, sigma, slope = piece.which, piece.slopes.part, piece.slopes.sigma, piece.slopes.steepness()
        if sigma.switches:
            self._counting_on(piece)()
            fractions, live = [fraction for fraction in fractions if not _tells_off(fraction)], False
            if not fractions:
                return
        least = np.minimum.reduceat(slope.reshape(-1), piece.firsts)  # of each layer and member; NaN if any is
        for fraction in fractions:
            self.counts(fraction)[which] = self._counted_below(piece, slope, least, fraction * sigma.steepest)
        if live and np.minimum.reduce(least) > 0:
            self.live[part] = 1
        elif live:
            np.matmul(slope, self._ones, out=self.live[part])  # in no particular order: 0 only where each is

    def below(self, fraction: float) -> Array:
        """Pairs of a unit and an example with |σ'(z)| < fraction · sup|σ'|, where counted; else 0: [L · members]."""
        return self.and_switched(fraction, self.counts(fraction), self.live)

    def and_switched(self, fraction: float, counts: Array, live: Array) -> Array:
        """:meth:`below`, from counts [..., L · members] but for σ that switch: of these ``live`` [..., N] tells.

        The counts are completed in place; a leading axis is one of steps.
        """
        plan, which = self.plan, self._switches
        if which is not None and _tells_off(fraction):
            on = np.add.reduceat(live.astype(np.float64, copy=False), plan.starts, axis=-1)  # exact in any order
            counts[..., which] = (plan.repeats * plan.batch_size - on)[..., which]
        return counts

    def counts(self, fraction: float) -> Array:
        """:meth:`below`, but for σ that switch."""
        if fraction not in self._below:
            self._below[fraction] = np.zeros(len(self.plan.starts))
        return self._below[fraction]

    def _counted_below(self, piece: SlopePiece, slope: Array, least: Array, bound: float) -> Array | int:
        """How many slopes are below a bound in each layer and member, given the least of each."""
        bound = slope.dtype.type(bound)
        which = (~(least >= bound)).nonzero()[0].tolist()
        if not which:
            return 0
        if self.plan.small:
            return self.counted(piece, np.less(slope, bound))
        counts, starts, ends = np.zeros(len(least)), piece.starts.tolist(), piece.ends.tolist()
        rows = slice(starts[which[0]], ends[which[-1]])
        flags = np.less(slope[rows], bound, self._flags(rows.stop - rows.start))
        for i in which:
            counts[i] = np.count_nonzero(flags[starts[i] - rows.start : ends[i] - rows.start])
        return counts

    def _flags(self, rows: int) -> Array:
        """Room for one of each number in so many rows, made at first use: new room of that size would cost more."""
        if self._room is None:
            self._room = np.empty((self.plan.parts[-1].stop, self.plan.batch_size), bool)
        return self._room[:rows]

    def counted(self, piece: SlopePiece, flags: Array) -> Array:
        """How many flags [rows of the piece, B] are set in each of its layers and members."""
        if self.plan.small:
            of_rows = (flags.view(np.int8).astype(self.dtype) @ self._ones).astype(np.float64)  # exact in any order
            return np.asarray(np.add.reduceat(of_rows, piece.starts))
        ends = zip(piece.starts.tolist(), piece.ends.tolist(), strict=True)
        return np.array([np.count_nonzero(flags[start:end]) for start, end in ends])


def _tells_off(fraction: float) -> bool:
    """Whether, of slopes that are 0 or 1, those below this fraction are the ones that are 0."""
    return 0 < fraction <= 1


def _timed(operations: Sequence[Operation], lap: Lap) -> list[Operation]:
    return [partial(lap, "step"), *operations, partial(lap, "sums")] if operations else []


class Sums:
    """The sums of one pass. To be read under ``np.errstate(all="ignore")``, before the network's next pass.

    As an onlooker (:meth:`along`) it begins anew with every pass: for who looks at many passes of one network.

    Args:
        places: where the numbers lie.
        wanted: what has been taken when it is first asked.

    Attributes:
        passes: of the network, with what takes what is wanted.
    """

    __slots__ = "_lap", "_reach", "_rest_left", "_rows", "_some_rest", "passes", "places", "wanted"

    def __init__(self, places: Places, wanted: Wanted = NOTHING) -> None:
        self.places, self.wanted = places, wanted
        self.passes: Passes | None = None
        self._lap: Lap | None = None
        self._rows: Rows | None = None
        self._rest_left = self._some_rest = bool(wanted.counts and places.rest)
        self._reach: tuple[float, float] | None = None

    @classmethod
    def along(cls, network: Network, wanted: Wanted, lap: Lap | None = None) -> Sums:
        """For passes of a network, after a forward pass with batches of this size (see :meth:`Wanted.begin`)."""
        sums = cls(Places.of(network), wanted)
        looks = sums.places.looks(wanted)
        if lap is not None:
            looks = Looks(*([_timed(operations, lap) for operations in each] for each in looks))
        sums.passes, sums._lap, sums._rows = Passes.of(network.stretches, network.groups, looks), lap, network.rows
        return sums

    @classmethod
    def of(cls, network: Network) -> Sums:
        """Of the last pass: what an onlooker has taken, if there was one."""
        sighting = network.sighting
        return sighting if isinstance(sighting, Sums) else cls(Places.of(network))

    def begin(self, network: Network) -> Sums:
        """Anew."""
        if network.rows is not self._rows:
            return self.wanted.begin(network, self._lap)
        self._rest_left, self._reach = self._some_rest, None
        return self

    def over(self) -> None:
        """All has been taken on the way."""

    def safe_times(self, factor: float) -> bool:
        """Whether all sums of squares that were wanted can be trusted, and so many times as much of each."""
        if self._reach is None:
            self._reach = extent(self.places.sums[self.wanted.squares])
        return within(*self._reach, self.places.dtype, factor)

    def _squares(self, of: Of) -> Array:
        if of not in self.wanted.sums:
            self.places.take(of)
        squares: Array = self.places.sums[of]
        return squares

    def sum(self, of: Of) -> Array:
        """Without scaling, in float64: [L, E...]."""
        return self._squares(of).astype(np.float64)

    def mean(self, of: Of) -> Array:
        """Over units and examples, without scaling, in float64: [L, E...]."""
        return np.asarray(self._squares(of) / self.places.plan.pairs)

    def norm(self, of: Of) -> Array:
        """√ of a sum of squares, safe at any magnitude: float64 [L, E...]."""
        return root(self._squares(of), self.places.dtype, partial(self.places.vectors, of))

    def mean_square(self, of: Of) -> Array:
        """Of what there is one of for each unit and example, safe at any magnitude: float64 [L, E...]."""
        squares = mended(self.sum(of), self.places.dtype, lambda i: self.places.vectors(of, i))
        return np.asarray(squares / self.places.plan.pairs)

    def variance(self) -> Array:
        """⟨(a − ⟨a⟩)²⟩ over units and examples: ⟨a²⟩ − ⟨a⟩² where that does not cancel; float64 [L, E...]."""
        variance: Array = self.mean(Of.AA) - np.square(self.mean(Of.A))
        lost = self.cancelled()
        if some := self.layers_with(lost):
            variance[some] = np.where(lost[some], self.variance_around(some), variance[some])
        return variance

    def cancelled(self) -> Array:
        """Where ⟨a²⟩ − ⟨a⟩² has lost digits that matter, or ⟨a²⟩ cannot be trusted: [L, E...]."""
        places = self.places
        safe = Of.AA in self.wanted.sums and self.safe_times(_NEAR_LARGEST)
        if safe and Of.A in self.wanted.sums and places.most:
            both = zip(*places.sums[Of.A : Of.ZZ].reshape(2, -1).tolist(), places.most, strict=True)
            return np.array([not a * a < most * aa for a, aa, most in both]).reshape(places.plan.shape)
        sound: Array = np.square(self.sum(Of.A)) < places.most_cancelled * self._squares(Of.AA)
        if not safe:
            sound &= self.mean(Of.AA) < _LARGE[places.dtype.char]
        return np.logical_not(sound, sound)

    @staticmethod
    def layers_with(flags: Array) -> slice | None:
        """From the first to the last layer with a flag [L, E...]: often the output layer alone."""
        layers = flags.nonzero()[0]
        return slice(int(layers[0]), int(layers[-1]) + 1) if len(layers) else None

    def variance_around(self, some: slice) -> Array:
        """⟨(a − ⟨a⟩)²⟩ of these layers, without cancelling."""
        plan, places, first, last = self.places.plan, self.places, some.start, some.stop
        repeats = plan.repeats[first * plan.members : last * plan.members]
        means = np.repeat(self.mean(Of.A)[some].astype(places.dtype, copy=False).ravel(), repeats)
        away = places.rows(Of.AA, first, last) - means[:, None]
        left = plan.summed(np.add.reduce(away, axis=-1), first, last) / plan.pairs[some]  # the mean had been rounded
        away -= np.repeat(left.astype(places.dtype, copy=False).ravel(), repeats)[:, None]
        return plan.mean_square(away, np.vecdot(away, away), first, last)

    def counted(self) -> Places:
        """Where all counts are that were wanted."""
        self._count_rest()
        return self.places

    def below(self, fraction: float) -> Array:
        """Pairs of a unit and an example with |σ'(z)| < fraction · sup|σ'|: float64 [L, E...]."""
        self._count_rest()
        if fraction not in self.wanted.below:
            self._count_all((fraction,), live=False)
        return self.places.below(fraction).reshape(self.places.plan.shape)

    def dead(self) -> Array:
        """Units with σ'(z) = 0 on every example: float64 [L, E...]."""
        live, plan = self.live(), self.places.plan
        if np.count_nonzero(live) == len(live):
            return np.zeros(plan.shape)
        return np.asarray(np.add.reduceat((live == 0).astype(np.float64), plan.starts).reshape(plan.shape))

    def live(self) -> Array:
        """0 for units with σ'(z) = 0 on every example and only for them: [N], to be read at once."""
        self._count_rest()
        if not self.wanted.live:
            self._count_all((), live=True)
        return self.places.live

    def _count_rest(self) -> None:
        if self._rest_left:
            self._rest_left = False
            for piece in self.places.rest:
                piece.slopes.take()
                self.places.count(piece, self.wanted.below, self.wanted.live)

    def _count_all(self, fractions: Iterable[float], live: bool) -> None:
        self.places.take_slopes()
        for piece in self.places.all_pieces:
            self.places.count(piece, fractions, live)
