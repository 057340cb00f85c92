"""Forward and backward pass of the derivation, for one network or a stack of them. Read this file first.

    z = W a + b,  a = σ(z)                       forward
    δ^L = ∂C/∂a ⊙ σ'(z^L)                        (1)     in general Jᵀ ∂C/∂a with J = ∂a/∂z
    ∂C/∂b = δ                                    (2)(5)
    ∂C/∂W = δ aᵀ                                 (3)(6)
    δ^l = (W^{l+1})ᵀ δ^{l+1} ⊙ σ'(z^l)           (4)

Shapes: W [E..., n, m], b [E..., n, 1], a [E..., n, B]; E... are the ensemble axes (none for a single network), n the
units of the layer, m those of the layer below, B the examples, which are columns. δ is kept per example; gradients are
averages over the batch (section 1.6). Every member of a stack is bit-identical to the same network alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, chain, pairwise
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike

from engine.activations import Activation, Elementwise, fill, put
from engine.arrays import (
    CACHE_LINE,
    Array,
    Multiplier,
    Operation,
    Segments,
    aligned,
    constant,
    do,
    multiplier,
    multiplier_from_right,
    summation,
)
from engine.costs import Cost
from engine.once import once

FEW_EXAMPLES = 16  # up to so many, BLAS multiplies float64 faster by rows
GROUP_BYTES = 2**19  # layers whose δ together take no more are handled together: others would leave the caches
STRETCH_BYTES = 2**17  # likewise, of the a of layers that forward goes through before somebody looks
PIECE_BYTES = 2**20  # of θ that an update goes through at once


@dataclass
class Layer:
    """Layer l: views into the network's theta and grad, and what the last pass left behind.

    Attributes:
        W, b: weights [E..., n, m] and biases [E..., n, 1], views into theta.
        dW, db: ∂C/∂W and ∂C/∂b, batch averages, views into grad.
        a_in, z, a: input, weighted input and activation of the last forward pass, [E..., n, B] (a_in has m rows).
        delta: δ = ∂C/∂z of each example (not divided by B), from the last backward pass.
        dC_da, share: one place, for ∂C/∂a until δ is made of it and for δ/B then; layers use it in turn.
        diagonal: whether δ = ∂C/∂a ⊙ σ'(z), so that σ' of many layers can be taken at once.
    """

    number: int
    sigma: Activation
    W: Array
    b: Array
    dW: Array
    db: Array
    a_in: Array = field(init=False, repr=False)
    z: Array = field(init=False, repr=False)
    a: Array = field(init=False, repr=False)
    dC_da: Array = field(init=False, repr=False)
    delta: Array = field(init=False, repr=False)
    share: Array = field(init=False, repr=False)
    diagonal: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.diagonal = type(self.sigma).pull_back is Elementwise.pull_back


@dataclass(frozen=True)
class Rows:
    """What a pass leaves behind, all layers' units one below the other: [N, B], with N units in the whole stack.

    The layers' own z, a and delta [E..., n, B] are views into these, first layer first. Where an equation treats every
    unit alike, one call serves many layers; in small networks calls cost more than the numbers in them. mean_delta [N]
    is ⟨δ_b⟩. In ``slope`` there is only what :meth:`Network.slope` has been asked for or ``backward`` left. ``block``
    [4, N·B and some room] holds all but mean_delta, in the order of ``ORDER``: what is kept together lies together,
    and is copied at once (:class:`engine.notes.NotedRows`).
    """

    ORDER: ClassVar[tuple[str, ...]] = ("slope", "a", "z", "delta")

    slope: Array
    a: Array
    z: Array
    delta: Array
    mean_delta: Array
    block: Array

    @classmethod
    def of(cls, units: int, batch_size: int, dtype: DTypeLike) -> Rows:
        """Not filled."""
        size, line = units * batch_size, CACHE_LINE // np.dtype(dtype).itemsize
        block = aligned((len(cls.ORDER), (size // line + 2) * line), dtype)
        rows = [each[:size].reshape(units, batch_size) for each in block]
        return cls(**dict(zip(cls.ORDER, rows, strict=True)), mean_delta=np.empty(units, dtype), block=block)


class Slopes(NamedTuple):
    """Neighbouring layers of one σ: where their rows lie, what takes σ'(z), and where that is then, [N, B]."""

    sigma: Elementwise
    part: slice
    operations: Sequence[Operation]
    slope: Array

    @classmethod
    def of(cls, sigma: Elementwise, part: slice, z: Array, a: Array, slope: Array) -> Slopes:
        """From all layers' z, a and room for σ'(z), [N, B]."""
        return cls(sigma, part, sigma.prepare_derivative(z[part], a[part], slope[part]), slope[part])

    def take(self) -> None:
        """Take them."""
        do(self.operations)

    def steepness(self) -> Array:
        """|σ'(z)|, when it has been taken."""
        return self.slope if self.sigma.monotonic else np.abs(self.slope)


class Stretch(NamedTuple):
    """Layers that forward goes through before somebody looks: the first and the one behind them, counted from 0.

    Attributes:
        operations: z = W a + b and a = σ(z) of all of them, but for W a of layer 1.
    """

    first: int
    last: int
    operations: list[Operation]


class Group(NamedTuple):
    """Layers that backward takes together, top first.

    Attributes:
        layers, slopes: those, and their σ'(z): of several groups each where δ will take its place, which keeps more of
            all in the caches; of a single one in the rows.
        before: the first product of equation (4), before slopes are taken: a large one drives all else out of the
            caches.
        operations: the rest of equations (2) to (6) of all of them, but for ∂C/∂W of layer 1.
    """

    layers: list[Layer]
    slopes: list[Slopes]
    before: list[Operation]
    operations: list[Operation]


class Looks(NamedTuple):
    """What an onlooker does on the way. None of it may ask for :meth:`Network.slope`.

    Attributes:
        before: with W of each of :attr:`Network.stretches`, before it is multiplied (but of layer 1 right after).
        up: with z and a of each.
        slopes: with σ'(z) of each of :attr:`Network.groups`.
        down: with their δ, ∂C/∂W and ∂C/∂b.
    """

    before: Sequence[Sequence[Operation]]
    up: Sequence[Sequence[Operation]]
    slopes: Sequence[Sequence[Operation]]
    down: Sequence[Sequence[Operation]]

    def together(self) -> list[Operation]:
        """All of it in order, for when both passes are over."""
        return [*chain(*chain(*self))]


class Passes(NamedTuple):
    """Both passes, one operation after the other, but for the four that depend on the input or on the targets.

    Attributes:
        rise: after W x of layer 1, to a^L.
        fall: after the top layer's δ, to all gradients but ∂C/∂W of layer 1.
        rest: after that.
    """

    rise: list[Operation]
    fall: list[Operation]
    rest: list[Operation]

    @classmethod
    def of(cls, stretches: Sequence[Stretch], groups: Sequence[Group], looks: Looks | None = None) -> Passes:
        """Of a network's, with what an onlooker does on the way."""
        nothing = [()] * max(len(stretches), len(groups))
        before, up, slopes, down = looks or (nothing, nothing, nothing, nothing)
        rise, fall = list[Operation](), list[Operation]()
        for i, stretch in enumerate(stretches):
            rise += [*before[i], *stretch.operations, *up[i]]
        for i, group in enumerate(groups):
            fall += [*group.before, *(operation for alike in group.slopes for operation in alike.operations)]
            fall += [*slopes[i], *group.operations, *(down[i] if i < len(groups) - 1 else ())]
        return cls(rise, fall, list(down[len(groups) - 1]))


class Bound(NamedTuple):
    """All that belongs to one batch size B. Only the network's input is another with every pass.

    Attributes:
        rows, views: the rows, and the layers' views into them.
        times_input: makes W x of layer 1.
        times_share, dW: what makes ∂C/∂W of layer 1 of the transposed input, and where that is then.
        stretches: the rest of the forward pass.
        groups: the backward pass, below the top layer's δ.
        passes: the same, one operation after the other.
        slopes: all of them, in the rows.
        rest: those that backward does not leave there.
        apart: those that it does not need.
    """

    rows: Rows
    views: list[dict[str, Array]]
    times_input: Callable[[Array], Any]
    times_share: Multiplier
    dW: Array
    stretches: list[Stretch]
    groups: list[Group]
    passes: Passes
    slopes: list[Slopes]
    rest: list[Slopes]
    apart: list[Slopes]


class Onlooker(Protocol):
    """Looks at a gradient while it is taken, when the numbers still lie in the cache."""

    def begin(self, network: Network) -> Sighting:
        """Before the forward pass."""


class Sighting(Protocol):
    """What an onlooker makes of the two passes."""

    @property
    def passes(self) -> Passes | None:
        """Those of this network and batch size, with what it does on the way; None if that is nothing."""

    def over(self) -> None:
        """Both passes are over."""


def slices(lengths: Iterable[int]) -> list[slice]:
    """Where each of neighbouring stretches of these lengths lies."""
    return [slice(start, end) for start, end in pairwise(accumulate(lengths, initial=0))]


def neighbours(layers: Sequence[Layer], parts: Sequence[slice]) -> list[tuple[Activation, slice]]:
    """Layers of one σ whose rows touch: the σ and their rows."""
    found: list[tuple[Activation, slice]] = []
    for layer, part in zip(layers, parts, strict=True):
        sigma, start = layer.sigma, part.start
        if found and found[-1][0] is sigma and found[-1][1].stop == start:
            start = found.pop()[1].start
        found.append((sigma, slice(start, part.stop)))
    return found


def slopes_of(found: Sequence[tuple[Activation, slice]], z: Array, a: Array, slope: Array) -> list[Slopes]:
    """Of these :func:`neighbours`, with their rows of z, a and σ'(z) [N, B]; σ that are not element-wise have none."""
    return [Slopes.of(sigma, part, z, a, slope) for sigma, part in found if isinstance(sigma, Elementwise)]


@dataclass(frozen=True)
class Parameters:
    """Where each layer's parameters lie in a flat vector: all weights first, layer by layer, then all biases."""

    sizes: tuple[int, ...]

    @once
    def n_weights(self) -> int:
        """How many entries of the flat vector are weights."""
        return sum(n * m for m, n in zip(self.sizes, self.sizes[1:], strict=False))

    @property
    def count(self) -> int:
        """P, weights and biases."""
        return self.n_weights + sum(self.sizes[1:])

    @once
    def segments(self) -> Segments:
        """The weights of every layer, then the biases of every layer."""
        return Segments([*(n * m for m, n in zip(self.sizes, self.sizes[1:], strict=False)), *self.sizes[1:]])

    @once
    def weight_segments(self) -> Segments:
        """The weights of every layer."""
        return Segments([n * m for m, n in zip(self.sizes, self.sizes[1:], strict=False)])

    @once
    def bias_segments(self) -> Segments:
        """The biases of every layer, counted from the first of them."""
        return Segments(self.sizes[1:])

    def weights(self, flat: Array) -> list[Array]:
        """The weights [E..., n, m] of every layer, as views into flat [E..., P]."""
        lead, w, found = flat.shape[:-1], 0, []
        for m, n in zip(self.sizes, self.sizes[1:], strict=False):
            found.append(flat[..., w : w + n * m].reshape(*lead, n, m))
            w += n * m
        return found

    def views(self, flat: Array) -> list[tuple[Array, Array]]:
        """(weights [E..., n, m], biases [E..., n, 1]) of every layer, as views into flat [E..., P]."""
        lead, b, pairs = flat.shape[:-1], self.n_weights, []
        for weights, n in zip(self.weights(flat), self.sizes[1:], strict=True):
            pairs.append((weights, flat[..., b : b + n].reshape(*lead, n, 1)))
            b += n
        return pairs


class Network:
    """A fully connected network, or a stack of them along leading ensemble axes.

    Args:
        sizes: units per layer, input first: (n_0, n_1, ..., n_L).
        activations: σ of layers 1 ... L.
        ensemble: shape E... of the stack; () for a single network.
        dtype: float64, float32 (or complex, for complex-step differentiation).
        theta: parameters [E..., P] to read and write in place of new ones; zeros of this dtype by default.

    Attributes:
        theta, grad: all parameters and their gradient, flat: [E..., P].
        activations: σ of layers 1 ... L.
        layers: the layers 1 ... L, whose W, b, dW, db are views into theta and grad.
        rows: the layers' z, a, σ'(z) and delta in one array each, from the last pass.
        stretches: the layers that forward goes through before somebody looks.
        groups: the layers that backward takes together, top first.
        slopes, rest, apart: all slopes, those that backward does not leave in the rows, those that it does not need.
        batch_size: B of the last forward pass.
        sighting: what the onlooker of the last pass made of it, if there was one and nothing was computed since.
        memo: what others derive from the network's shape and keep with it.

    Raises:
        ValueError: fewer than two sizes, a size below 1, or a number of activations other than L.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activations: Sequence[Activation],
        ensemble: tuple[int, ...] = (),
        dtype: DTypeLike = np.float64,
        theta: Array | None = None,
    ) -> None:
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes={list(sizes)}: at least an input and an output layer, each of 1 unit or more")
        if len(activations) != len(sizes) - 1:
            raise ValueError(f"{len(activations)} activations for {len(sizes) - 1} layers: one each")
        self.sizes = tuple(sizes)
        self.ensemble = tuple(ensemble)
        self._alone = (0,) * len(self.ensemble)
        self.parameters = Parameters(self.sizes)
        self.activations = tuple(activations)
        shape = (*self.ensemble, self.parameters.count)
        self.theta: Array = aligned(shape, dtype) if theta is None else theta
        self.grad: Array = aligned(self.theta.shape, self.theta.dtype)
        pairs = zip(activations, self.parameters.views(self.theta), self.parameters.views(self.grad), strict=True)
        self.layers = [Layer(i, sigma, W, b, dW, db) for i, (sigma, (W, b), (dW, db)) in enumerate(pairs, start=1)]
        self._bounds: dict[int, Bound] = {}
        self._shadows: dict[str, Network] = {}
        self.memo: dict[Hashable, Any] = {}
        self.rows: Rows
        self.stretches: list[Stretch]
        self.groups: list[Group]
        self.slopes: list[Slopes]
        self.rest: list[Slopes]
        self.apart: list[Slopes]
        self._bound: Bound
        self._untaken: list[Slopes]  # those that are not yet of the last forward pass
        self.batch_size = 0
        self.sighting: Sighting | None = None

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def forward(self, x: Array) -> Array:
        """Equations z = W a + b, a = σ(z), from the input x [E..., n_0, B] (or [n_0, B], shared) to a^L [E..., n_L, B].

        The result is a buffer that the next pass with the same B overwrites. Infinities pass through silently. An x of
        another type is rounded to the network's first.
        """
        self._rise(self._enter(x), self._bound.passes.rise)
        return self.layers[-1].a

    @np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")
    def backward(self, y: Array, cost: Cost) -> Array:
        """Equations (1) to (6) for the targets y [E..., n_L, B] of the last forward pass; returns (overwrites) grad."""
        self.sighting = None
        self._begin_backward(y, cost)
        return self._fall(self._core(self.layers[0].a_in), self._bound.passes)

    @np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")
    def gradient(self, x: Array, y: Array, cost: Cost, onlooker: Onlooker | None = None) -> Array:
        """Both passes: ∂C/∂θ on a batch; returns (overwrites) grad.

        Args:
            onlooker: looks on, and leaves what it makes of it in :attr:`sighting`.
        """
        return self.take_gradient(x, y, cost, onlooker)

    def take_gradient(self, x: Array, y: Array, cost: Cost, onlooker: Onlooker | None = None) -> Array:
        """The same, to be called under ``np.errstate(all="ignore")``: for who has more to do there than this."""
        x, passes, sighting = self._enter(x), self._bound.passes, None
        if onlooker is not None:
            sighting = onlooker.begin(self)
            passes = sighting.passes or passes
        self._rise(x, passes.rise)
        self._begin_backward(y, cost)
        self._fall(x, passes)
        if sighting is not None:
            sighting.over()
            self.sighting = sighting
        return self.grad

    def _enter(self, x: Array) -> Array:
        """Make ready for this input; returns what is multiplied."""
        dtype = self.theta.dtype
        if x.dtype is not dtype and x.dtype != dtype:
            x = x.astype(dtype, casting="same_kind")
        if x.shape[-1] != self.batch_size:
            self._bind(x.shape[-1])
        self._untaken = self.slopes
        self.sighting = None
        self.layers[0].a_in = x
        return self._core(x)

    def _rise(self, x: Array, rise: Sequence[Operation]) -> None:
        self._bound.times_input(x)
        for operation in rise:
            operation()

    def _begin_backward(self, y: Array, cost: Cost) -> None:
        top = self.layers[-1]
        if cost.collapses_with is type(top.sigma):
            np.subtract(top.a, y, out=top.delta)  # (1) where ∂C/∂a ⊙ σ'(z) = a − y
        else:
            fill(top.dC_da, cost.gradient(top.a, y, out=top.dC_da))
            fill(top.delta, top.sigma.pull_back(top.z, top.a, top.dC_da, out=top.delta))  # (1)

    @np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")
    def backward_from(self, delta: Array) -> Array:
        """Equations (2) to (6) from a given δ^L [E..., n_L, B] instead of a cost's; returns (overwrites) grad."""
        self.sighting = None
        self.layers[-1].delta[...] = delta
        return self._fall(self._core(self.layers[0].a_in), self._bound.passes)

    def shadow(self, purpose: str) -> Network:
        """A network that shares θ with this one and nothing else: what it computes leaves this one as it is.

        There is one for each purpose, made at first use.
        """
        if purpose not in self._shadows:
            made = Network(self.sizes, self.activations, self.ensemble, self.theta.dtype, self.theta)
            self._shadows[purpose] = made
        return self._shadows[purpose]

    def _fall(self, x: Array, passes: Passes) -> Array:
        for operation in passes.fall:
            operation()
        self._bound.times_share(x.mT, self._bound.dW)  # (3)(6) of layer 1
        for operation in passes.rest:
            operation()
        if self.rest is not self.slopes:  # else what is in the rows is left as it is
            self._untaken = self.rest
        return self.grad

    def slope(self) -> Array:
        """σ'(z) of every unit after a forward pass, first layer first: [N, B]; anything where σ is not element-wise."""
        for alike in self._untaken:
            alike.take()
        self._untaken = []
        return self.rows.slope

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def cost(self, y: Array, cost: Cost) -> Array:
        """C of every example [E..., B] after a forward pass; from z where the cost collapses with the output σ."""
        top = self.layers[-1]
        if cost.collapses_with is type(top.sigma):
            return cost.value_from_z(top.z, y)
        return cost.value(top.a, y)

    def _core(self, x: Array) -> Array:
        """[E..., k, l] as it is multiplied: a stack of one, which is a single matrix, without its axes."""
        if self.members > 1 or x.ndim == 2:
            return x
        return x[self._alone] if x.shape[:-2] == self.ensemble else x.reshape(x.shape[-2:])

    def _bind(self, batch_size: int) -> None:
        """Point every layer at its buffers for this batch size, made at first use."""
        self.batch_size = 0  # until all of it is there
        bound = self._bounds.get(batch_size)
        if bound is None:
            bound = self._bounds[batch_size] = self._new_bound(self._new_rows(batch_size))
        else:
            self._point(bound.views)
        self._bound, self.batch_size = bound, batch_size
        self.rows, self.stretches, self.groups = bound.rows, bound.stretches, bound.groups
        self.slopes, self.rest, self.apart = bound.slopes, bound.rest, bound.apart

    def _views(self, rows: Rows, room: Array, layer: Layer, part: slice) -> dict[str, Array]:
        """What of a layer's attributes lies in these rows, and in its room [n, B] for ∂C/∂a and δ/B."""
        shape = *layer.b.shape[:-1], rows.z.shape[-1]
        found = {name: getattr(rows, name)[part].reshape(shape) for name in ("z", "a", "delta")}
        return found | dict.fromkeys(("dC_da", "share"), room.reshape(shape))

    def _point(self, views: Sequence[dict[str, Array]]) -> None:
        for layer, of_layer in zip(self.layers, views, strict=True):
            vars(layer).update(of_layer)
        for below, layer in pairwise(self.layers):
            layer.a_in = below.a

    @once
    def _parts(self) -> list[slice]:
        """Where each layer's units, of all members, lie in [N, B]."""
        return slices(layer.b.size for layer in self.layers)

    def _new_bound(self, rows: Rows) -> Bound:
        """All that belongs to these rows; the layers point at them."""
        B, top = rows.z.shape[-1], self.depth - 1
        together = self._together(range(top, -1, -1), rows, GROUP_BYTES)
        starts = {i: self._parts[which[-1]].start for which in together for i in which}
        within = [slice(part.start - starts[i], part.stop - starts[i]) for i, part in enumerate(self._parts)]
        room = aligned((max(part.stop for part in within), B), self.theta.dtype)  # for any of the groups
        parts = zip(self.layers, self._parts, within, strict=True)
        views = [self._views(rows, room[inner], layer, part) for layer, part, inner in parts]
        self._point(views)
        times_input, Wx = self._times_input(B)
        stretches = [self._stretch(which, B, Wx) for which in self._together(range(self.depth), rows, STRETCH_BYTES)]
        home = rows.slope if len(together) == 1 else rows.delta
        groups = [self._group(rows, room, home, which) for which in together]
        apart = self._alike(rows, rows.slope, [i for i in range(self.depth) if not self._needs_slope(i)])
        if home is rows.slope:
            slopes, rest = [*groups[0].slopes, *apart], apart
        else:
            slopes = rest = self._alike(rows, rows.slope, range(self.depth))
        dW = self._core(self.layers[0].dW)
        times_share = multiplier(self._core(self.layers[0].share), dW.shape[-1])
        passes = Passes.of(stretches, groups)
        return Bound(rows, views, times_input, times_share, dW, stretches, groups, passes, slopes, rest, apart)

    def _times_input(self, B: int) -> tuple[Callable[[Array], Any], Array]:
        """What makes W x of layer 1, and where that is then."""
        W, z = (self._core(x) for x in (self.layers[0].W, self.layers[0].z))
        if B > FEW_EXAMPLES or W.dtype.char != "d":
            times = multiplier(W, B)
            return lambda x: times(x, z), z
        times, by_rows = multiplier_from_right(W.mT, B), aligned(z.mT.shape, z.dtype)
        return lambda x: times(x.mT, by_rows), by_rows.mT  # (xᵀ Wᵀ)ᵀ

    def _up(self, layer: Layer, B: int, Wx: Array) -> Iterator[Operation]:
        """z = W a + b, a = σ(z)."""
        W, b, z, a = (self._core(x) for x in (layer.W, layer.b, layer.z, layer.a))
        Wa = Wx
        if layer is not self.layers[0]:
            yield partial(multiplier(W, B), self._core(layer.a_in), z)  # W a
            Wa = z
        yield partial(np.add, Wa, b, z)  # + b
        yield from layer.sigma.prepare(z, a)  # a = σ(z)

    def _down(self, above: Layer, layer: Layer, slope: Array, B: int) -> Iterator[Operation]:
        """Equation (4), with σ'(z)."""
        W, delta_above, dC_da = (self._core(x) for x in (above.W, above.delta, layer.dC_da))
        yield partial(multiplier(W.mT, B), delta_above, dC_da)  # (W^{l+1})ᵀ δ^{l+1}
        if layer.diagonal:
            slope = self._core(slope.reshape(layer.delta.shape))
            yield partial(np.multiply, dC_da, slope, self._core(layer.delta))  # ⊙ σ'(z^l)
        else:
            yield put(layer.sigma.pull_back, layer.z, layer.a, layer.dC_da, out=layer.delta)  # in its general form

    def _together(self, order: Iterable[int], rows: Rows, most: int) -> list[list[int]]:
        """Which layers, counted from 0 and in this order, are handled together: their a are so many bytes at most."""
        together: list[list[int]] = []
        room = 0
        for i in order:
            size = self.layers[i].b.size * rows.a[:1].nbytes
            if size > room:
                together.append([])
                room = most
            together[-1].append(i)
            room -= size
        return together

    def _stretch(self, which: Sequence[int], B: int, Wx: Array) -> Stretch:
        """These layers, counted from 0."""
        operations = [operation for i in which for operation in self._up(self.layers[i], B, Wx)]
        return Stretch(which[0], which[-1] + 1, operations)

    def _needs_slope(self, i: int) -> bool:
        """Whether equation (4) does, for the layer counted from 0."""
        return i < self.depth - 1 and self.layers[i].diagonal

    def _group(self, rows: Rows, room: Array, home: Array, which: Sequence[int]) -> Group:
        """These layers, counted from 0 and top first; with room for their ∂C/∂a and δ/B and a home [N, B] for σ'(z)."""
        top, B = self.depth - 1, rows.z.shape[-1]
        part = slice(self._parts[which[-1]].start, self._parts[which[0]].stop)
        layers = [self.layers[i] for i in which]
        slopes = self._alike(rows, home, [i for i in reversed(which) if self._needs_slope(i)])
        share, mean_delta = room[: part.stop - part.start], rows.mean_delta[part]
        down = list[Operation]()
        for i in which:
            if i != top:
                down += self._down(self.layers[i + 1], self.layers[i], home[self._parts[i]], B)
        before, operations = down[:1], down[1:]
        operations += [
            partial(np.multiply, rows.delta[part], constant(1 / B, self.theta.dtype), share),  # δ/B
            summation(share, mean_delta),  # ⟨δ_b⟩
        ]
        if self.members > 1:  # else the two lie in the same place
            operations += [
                partial(np.copyto, layer.db, rows.mean_delta[self._parts[i]].reshape(layer.b.shape))  # (2)(5)
                for i, layer in zip(which, layers, strict=True)
            ]
        for layer in layers:
            if layer is not self.layers[0]:
                times_share = multiplier(self._core(layer.share), layer.dW.shape[-1])
                operations.append(partial(times_share, self._core(layer.a_in).mT, self._core(layer.dW)))  # (3)(6)
        return Group(layers, slopes, before, operations)

    def _alike(self, rows: Rows, home: Array, which: Sequence[int]) -> list[Slopes]:
        """The slopes of these layers, in ascending order, neighbours of one σ at once, in their home [N, B]."""
        found = neighbours([self.layers[i] for i in which], [self._parts[i] for i in which])
        return slopes_of(found, rows.z, rows.a, home)

    def _new_rows(self, batch_size: int) -> Rows:
        rows = Rows.of(self.members * sum(self.sizes[1:]), batch_size, self.theta.dtype)
        if self.members == 1:  # then the biases' gradients lie as the layers' rows do, and need no copy
            return replace(rows, mean_delta=self.grad.reshape(-1)[self.parameters.n_weights :])
        return rows

    @once
    def pieces(self) -> list[tuple[Array, Array]]:
        """Pieces of θ and grad, flat and last first: so who goes through them ends where the next pass begins.

        What has been changed last is then still in the cache, and a piece of the one is when the other's turn comes.
        """
        if not (self.theta.flags.c_contiguous and self.grad.flags.c_contiguous):
            return [(self.theta, self.grad)]
        theta, grad = self.theta.reshape(-1), self.grad.reshape(-1)
        step = PIECE_BYTES // theta.itemsize
        return [(theta[i : i + step], grad[i : i + step]) for i in reversed(range(0, theta.size, step))]

    @property
    def depth(self) -> int:
        """L, the number of layers with weights."""
        return len(self.layers)

    @once
    def members(self) -> int:
        """Networks in the stack (1 for a single network)."""
        return math.prod(self.ensemble)
