"""What probes look at: the layers of a network after a backward pass, and what several probes need of them.

:class:`Observed` is one layer; :class:`Layers` holds what is taken once for all of them;
:class:`engine.moment.Moment` is the whole step. Reading changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from engine.activations import Activation, Elementwise
from engine.arrays import Array, all_safe, norm, root, safe
from engine.network import NOTHING, Layer, Network, Parameters, Taken, neighbours, rows_of
from engine.once import once
from engine.optimizers import Proposal, made


class Observed:
    """One layer at one step, as a probe sees it.

    Attributes:
        layer: the layer after ``backward``.
        dW_update: the optimizer's ΔW about to be added, [E..., n, m].
        is_output: whether this is layer L.
        layers: this layer and those observed with it (itself alone by default), measured together.
        index: its place among them.
    """

    def __init__(
        self, layer: Layer, dW_update: Array, is_output: bool, layers: Layers | None = None, index: int = 0
    ) -> None:
        self.layer = layer
        self.dW_update = dW_update
        self.is_output = is_output
        self.layers = layers or Layers.of_one(layer, dW_update)
        self.index = index

    @property
    def has_slope(self) -> bool:
        """Whether σ is element-wise, so that there is a σ'(z)."""
        return isinstance(self.layer.sigma, Elementwise)


def _rows(x: Array) -> Array:
    """[E..., n, B] -> [N, B]."""
    return x.reshape(-1, x.shape[-1])


BLOCK_BYTES = 2**17
_CANCELS = {"f": 0.03, "d": 1e-3}  # ⟨a²⟩ − ⟨a⟩² below this share of ⟨a²⟩ has lost digits that matter
_EXACT = np.dtype(np.float64)
_LARGE = {"f": 1e37, "d": 1e300}


class Plan:
    """What follows from the shape of L layers alone: where their units, N with all members, lie in [N, B].

    Attributes:
        numbers: of the layers.
        sloped: which of them, counted from 0, have an element-wise σ, so that there is a σ'(z).
        units, pairs: units of each layer, and pairs of a unit and an example: [L, 1...].
        parts: the rows of each layer.
        repeats, starts: rows of each layer and member, and where they start: [L · members].
        ones: [B]; a product with it is the fastest sum there is: ``vecdot`` adds each row alone, ``@`` is faster still
            where the order of adding does not matter.
        small: whether a layer of a member has so few numbers that a call of its own would cost more than they do.
        pieces: neighbours of the same σ, and their rows: at most ``BLOCK_BYTES`` of them at a time, for more would
            leave the L2 cache, unless a layer has more.
        rows: of the largest piece.
        monotonic: whether σ' >= 0 in all layers that have one.
    """

    def __init__(
        self, layers: Sequence[Layer], ensemble: tuple[int, ...], batch_size: int, dtype: np.dtype[Any]
    ) -> None:
        members, units = math.prod(ensemble), [layer.b.shape[-2] for layer in layers]
        self.ensemble = ensemble
        self.batch_size = batch_size
        self.numbers = tuple([layer.number for layer in layers])
        self.sloped = [i for i, layer in enumerate(layers) if layer.sigma.elementwise]
        self.units: Array = np.array(units).reshape(-1, *[1] * len(ensemble))
        self.pairs = self.units * batch_size
        self.parts = rows_of(layers)
        self.repeats = np.repeat(units, members)
        self.starts = np.cumsum(self.repeats) - self.repeats
        self.ones = np.ones(batch_size, dtype)
        self.small = self.parts[-1].stop * batch_size < 2048 * len(self.starts)
        self.pieces = neighbours(layers, self.parts, BLOCK_BYTES // (batch_size * dtype.itemsize))
        self.rows = max((part.stop - part.start for _, part in self.pieces), default=0)
        sigmas = [sigma for sigma, _ in self.pieces if isinstance(sigma, Elementwise)]
        self.monotonic = all(sigma.monotonic for sigma in sigmas)

    @classmethod
    def of(cls, network: Network) -> Plan:
        """Of a network after ``forward``, made once for each batch size: it takes longer than measuring a small one."""
        key = cls, network.batch_size
        if key not in network.memo:
            network.memo[key] = cls(network.layers, network.ensemble, network.batch_size, network.theta.dtype)
        return cast("Plan", network.memo[key])


class Layers:
    """What several probes share, for L layers at once and only when asked for: every result is [L, E...].

    Infinities and NaNs are findings: read under ``np.errstate(all="ignore")``, as every probe and pipeline does.

    In a small network the calls cost more than the numbers in them. So what every unit has is taken in one call for
    all units of all layers and members, which stand one below the other, and then summed layer by layer.

    Args:
        layers: after ``backward``.
        z, a, delta: theirs together, as in :class:`engine.network.Rows`: [N, B].
        theta, grad: their parameters and gradients, flat [E..., P].
        proposed: the optimizer's Δθ, flat [E..., P] (or of the weights alone), or what makes it.
        parameters: where each layer's lie in the flat vectors.
        plan: of these layers and this batch.
        slopes: gives σ'(z) [N, B], anything where σ is not element-wise.
        taken: sums that the backward pass has taken already.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        z: Array,
        a: Array,
        delta: Array,
        theta: Array,
        grad: Array,
        proposed: Array | Proposal,
        parameters: Parameters,
        plan: Plan,
        slopes: Callable[[], Array],
        taken: Taken = NOTHING,
    ) -> None:
        self.layers = layers
        self.z, self.a, self.delta = z, a, delta
        self.theta, self.grad, self._proposed = theta, grad, proposed
        self.parameters = parameters
        self.plan, self._slopes, self._taken = plan, slopes, taken
        self.batch_size, self.pairs, self.numbers, self.sloped = plan.batch_size, plan.pairs, plan.numbers, plan.sloped
        self._below: dict[float, Array] = {}
        self._factor_of: Proposal | None = None  # whose factor times ∂C/∂W is ΔW

    @classmethod
    def of(cls, network: Network, proposed: Array | Proposal) -> Layers:
        """All layers of a network after ``backward``."""
        rows = network.rows
        parts = (rows.z, rows.a, rows.delta, network.theta, network.grad)
        plan, taken = Plan.of(network), network.taken
        layers = cls(network.layers, *parts, proposed, network.parameters, plan, network.slope, taken)
        if isinstance(proposed, Proposal) and proposed.is_for(network):
            layers._factor_of = proposed
        return layers

    @classmethod
    def of_one(cls, layer: Layer, dW_update: Array) -> Layers:
        """A layer by itself, from copies."""
        lead, (n, m) = layer.W.shape[:-2], layer.W.shape[-2:]
        theta, grad = (
            np.concatenate([w.reshape(*lead, -1), b.reshape(*lead, -1)], axis=-1)
            for w, b in ((layer.W, layer.b), (layer.dW, layer.db))
        )
        z, a, delta = (_rows(x) for x in (layer.z, layer.a, layer.delta))
        plan = Plan([layer], lead, z.shape[-1], z.dtype)

        def slopes() -> Array:
            return layer.sigma.derivative(z, a) if isinstance(layer.sigma, Elementwise) else np.empty_like(z)

        return cls([layer], z, a, delta, theta, grad, dW_update.reshape(*lead, -1), Parameters((m, n)), plan, slopes)

    @property
    def update(self) -> Array:
        """The optimizer's Δθ, [E..., P] (or of the weights alone)."""
        return made(self._proposed)

    def _summed(self, per_row: Array) -> Array:
        """Sums over the units of each layer and member, in float64: [N] -> [L, E...].

        The cast is made before the sum: a casting reduction works in chunks that run across members.
        """
        sums = np.add.reduceat(per_row.astype(np.float64, copy=False), self.plan.starts)
        return sums.reshape(-1, *self.plan.ensemble)

    def _norms(self, x: Array, squares_of_rows: Array | None = None) -> Array:
        """The norm of each layer's part of x [N, B]."""
        rows, plan = np.vecdot(x, x) if squares_of_rows is None else squares_of_rows, self.plan
        squares = self._summed(rows)
        return root(squares, x.dtype, lambda i: x[plan.parts[i]].reshape(*plan.ensemble, -1))

    def _mean_square(self, summed: Array, x: Array) -> Array:
        """Mean of x² over units and examples, from Σ x² [L, E...] where that can be trusted (a NaN can)."""
        if not all_safe(summed, x.dtype):
            trusted = safe(summed, x.dtype) | np.isnan(summed)
            summed = np.where(trusted, summed, np.square(self._norms(x)))
        return summed / self.pairs

    def of_sloped(self, values: Array) -> tuple[tuple[int, ...], Array]:
        """The numbers of the layers that have a σ'(z), and their part of values [L, ...]."""
        sloped = self.sloped
        first, count = (sloped[0], len(sloped)) if sloped else (0, 0)
        if not count or sloped[-1] == first + count - 1:
            return self.numbers[first : first + count], values[first : first + count]
        return tuple([self.numbers[i] for i in sloped]), values[sloped]

    # Gradients, weights, updates

    @once
    def gradient_norms(self) -> Array:
        """‖∂C/∂W‖_F and ‖∂C/∂b‖ = ‖⟨δ_b⟩‖: [2, L, E...]."""
        both = self.parameters.segments.norms(self.grad, self._taken.weights)
        return both.reshape(2, len(self.layers), *both.shape[1:])

    @property
    def gradient_norm(self) -> Array:
        """‖∂C/∂W‖_F."""
        return np.asarray(self.gradient_norms[0])

    @property
    def bias_gradient_norm(self) -> Array:
        """‖∂C/∂b‖ = ‖⟨δ_b⟩‖."""
        return np.asarray(self.gradient_norms[1])

    @once
    def weight_norm(self) -> Array:
        """‖W‖_F."""
        return self.parameters.weight_segments.norms(self.theta[..., : self.parameters.n_weights])

    @once
    def update_norm(self) -> Array:
        """‖ΔW‖_F; |c| ‖∂C/∂W‖_F where Δθ = c ∇C and neither square leaves what its type can hold."""
        factor = self._factor_of.factor if self._factor_of is not None else None
        if factor is None:
            return self._made_update_norm()
        norm = abs(factor) * self.gradient_norm
        squares = np.square(norm)
        if all_safe(squares, self.grad.dtype):
            return norm
        return np.where(safe(squares, self.grad.dtype), norm, self._made_update_norm())

    def _made_update_norm(self) -> Array:
        return self.parameters.weight_segments.norms(self.update[..., : self.parameters.n_weights])

    @once
    def update_to_weight(self) -> Array:
        """‖ΔW‖/‖W‖."""
        return self.update_norm / self.weight_norm

    # δ

    @once
    def delta_rms(self) -> Array:
        """√⟨‖δ_b‖²⟩."""
        return self._norms(self.delta, self._taken.delta) * self.batch_size**-0.5

    @once
    def coherence(self) -> Array:
        """‖⟨δ_b⟩‖² / ⟨‖δ_b‖²⟩."""
        return np.square(self.bias_gradient_norm / self.delta_rms)

    # Single examples

    def _example_norms(self, x: Array) -> Array:
        """‖x_b‖ of every example, over the units of each layer: [N, B] -> float64 [L, E..., B]."""
        plan = self.plan
        squares = np.add.reduceat(np.square(x), plan.starts, axis=0).reshape(-1, *plan.ensemble, self.batch_size)
        return root(squares, x.dtype, lambda i: x[plan.parts[i]].reshape(*plan.ensemble, -1, self.batch_size).mT)

    @once
    def delta_norms(self) -> Array:
        """‖δ_b‖ of every example: [L, E..., B]."""
        return self._example_norms(self.delta)

    @once
    def input_norms(self) -> Array:
        """‖a_b‖ of the layer's input, every example: [L, E..., B]."""
        found = np.empty((len(self.layers), *self.plan.ensemble, self.batch_size))
        found[0] = norm(self.layers[0].a_in.mT, axes=1)
        if len(found) > 1:
            found[1:] = self._example_norms(self.a)[:-1]
        return found

    @once
    def example_gradient_rms(self) -> Array:
        """√⟨‖δ_b‖²‖a_b‖²⟩, a_b the layer's input: ‖δ aᵀ‖ = ‖δ‖‖a‖."""
        return norm(self.delta_norms * self.input_norms, axes=1) * self.batch_size**-0.5

    @once
    def disagreement(self) -> Array:
        """ρ = ⟨‖g_b‖²⟩ / ‖⟨g_b⟩‖² of the weights' gradients: 1 where all examples agree, B if they are orthogonal."""
        return np.square(self.example_gradient_rms / self.gradient_norm)

    # z, a and the slope

    @once
    def unit_sums(self) -> Array:
        """Σ z², Σ a and Σ a² over units and examples, without scaling: [3, L, E...]."""
        plan, rows = self.plan, np.empty((3, len(self.z)), self.z.dtype)
        np.vecdot(self.z, self.z, out=rows[0])
        np.vecdot(self.a, plan.ones, out=rows[1])
        np.vecdot(self.a, self.a, out=rows[2])
        sums = np.add.reduceat(rows.astype(np.float64, copy=False), plan.starts, axis=1)
        return sums.reshape(3, -1, *plan.ensemble)

    @once
    def z_mean_square(self) -> Array:
        """Mean of z² over units and examples."""
        return self._mean_square(self.unit_sums[0], self.z)

    @once
    def activation_mean(self) -> Array:
        """Mean of a over units and examples."""
        return np.asarray(self.unit_sums[1] / self.pairs)

    @once
    def activation_std(self) -> Array:
        """Standard deviation of a over units and examples: √(⟨a²⟩ − ⟨a⟩²), or √⟨(a − ⟨a⟩)²⟩ where that would cancel."""
        squares, mean = self.unit_sums[2] / self.pairs, self.activation_mean
        variance = squares - np.square(mean)
        sound = (variance > _CANCELS[self.a.dtype.char] * squares) & (squares < _LARGE[self.a.dtype.char])
        if np.count_nonzero(sound) < sound.size:
            variance = np.where(sound, variance, self._mean_square_around(mean))
        return np.sqrt(variance)

    def _mean_square_around(self, mean: Array) -> Array:
        """⟨(a − mean)²⟩, without cancelling."""
        plan = self.plan
        rows = np.repeat(mean.astype(self.a.dtype, copy=False).ravel(), plan.repeats)[:, None]
        away = self.a - rows
        return self._mean_square(self._summed(np.vecdot(away, away)), away)

    @once
    def slope(self) -> Array:
        """|σ'(z)| of every unit and example [N, B]; anything where σ is not element-wise. Like z, a and δ it is the
        network's own and lasts until its next pass.
        """
        slopes = self._slopes()
        return slopes if self.plan.monotonic else np.abs(slopes)

    def _sloped_pieces(self) -> Iterator[tuple[Activation, int, int, Array]]:
        """Neighbours of the same element-wise σ: the σ, their first and last row, |σ'(z)|."""
        slope = self.slope
        for sigma, part in self.plan.pieces:
            if sigma.elementwise:
                yield sigma, part.start, part.stop, slope[part]

    def _per_row(self, dtype: np.dtype[Any]) -> Array:
        """[N], to be filled where there is a slope; elsewhere numbers that harm nobody."""
        return np.empty(len(self.z), dtype) if len(self.sloped) == len(self.layers) else np.ones(len(self.z), dtype)

    def share_below(self, fraction: float) -> Array:
        """Share of (unit, example) pairs with |σ'(z)| < fraction · sup|σ'|."""
        if fraction not in self._below:
            counts, sums = self._per_row(_EXACT), self._per_row(self.z.dtype)
            for sigma, start, stop, slope in self._sloped_pieces():
                on = np.matmul(slope, self.plan.ones, out=sums[start:stop])
                if sigma.switches and 0 < fraction <= 1:
                    np.subtract(self.batch_size, on, out=counts[start:stop])
                else:
                    self._count(np.less(slope, slope.dtype.type(fraction * sigma.steepest)), start, stop, counts)
            self.slope_sums = sums
            self._below[fraction] = self._summed(counts) / self.pairs
        return self._below[fraction]

    def share_near_linear(self, tolerance: float) -> Array:
        """Share of (unit, example) pairs with | |σ'(z)| − s | <= tolerance · s, s the slope where σ is linear."""
        counts, scratch = self._per_row(_EXACT), np.empty((self.plan.rows, self.batch_size), self.z.dtype)
        for sigma, start, stop, slope in self._sloped_pieces():
            linear = slope.dtype.type(sigma.linear)
            away = np.subtract(slope, linear, out=scratch[: stop - start])
            np.abs(away, out=away)
            self._count(np.less_equal(away, slope.dtype.type(tolerance) * linear), start, stop, counts)
        return self._summed(counts) / self.pairs

    def _count(self, flags: Array, start: int, stop: int, counts: Array) -> None:
        """How many flags [stop − start, B] are set: of each row, or of a member's layer in its first row, if faster."""
        plan = self.plan
        if plan.small:
            counts[start:stop] = flags.view(np.int8).astype(self.z.dtype) @ plan.ones  # 1 and 0: exact in any order
            return
        counts[start:stop] = 0
        first, last = np.searchsorted(plan.starts, (start, stop)).tolist()
        for begin, size in zip(plan.starts[first:last].tolist(), plan.repeats[first:last].tolist(), strict=True):
            counts[begin] = np.count_nonzero(flags[begin - start : begin - start + size])

    @once
    def slope_sums(self) -> Array:
        """Σ |σ'(z)| over the examples, [N], added in no particular order: 0 only where each is."""
        sums = self._per_row(self.z.dtype)
        for _, start, stop, slope in self._sloped_pieces():
            np.matmul(slope, self.plan.ones, out=sums[start:stop])
        return sums

    @once
    def dead_fraction(self) -> Array:
        """Share of units with σ'(z) = 0 on every example: there, and only there, do the |σ'| sum to 0."""
        return self.share_of_units(self.slope_sums == 0)

    def share_of_units(self, flags: Array) -> Array:
        """Mean over the units of each layer of flags [N]."""
        return self._summed(flags) / self.plan.units

    @once
    def slope_mean_square(self) -> Array:
        """Mean of σ'(z)² over units and examples."""
        squares = self._per_row(self.z.dtype)
        for _, start, stop, slope in self._sloped_pieces():
            np.vecdot(slope, slope, out=squares[start:stop])
        return self._mean_square(self._summed(squares), self.slope)

    @once
    def passing(self) -> Array:
        """Whether any unit of the layer has σ'(z) ≠ 0, for every example: [L, E..., B], 1 or 0."""
        sums = np.add.reduceat(self.slope, self.plan.starts, axis=0)
        return (sums != 0).astype(np.float64).reshape(-1, *self.plan.ensemble, self.batch_size)

    def mean_cosine(self, x: Array) -> Array:
        """Mean over pairs b ≠ b' of cos(x_b, x_b') in each layer, [N, B] -> [L, E...]; examples with x_b = 0 left out.

        With u_b = x_b/‖x_b‖ and k such examples it is (‖Σ u_b‖² − k) / (k(k − 1)); NaN for k < 2.
        """
        sizes, plan = self._example_norms(x), self.plan
        count = np.add.reduce((sizes != 0).astype(np.float64), axis=-1)
        divisors = np.where(sizes == 0, 1.0, sizes).reshape(-1, self.batch_size)
        together = np.square(np.add.reduce(x / np.repeat(divisors, plan.repeats, axis=0), axis=-1))
        return (self._summed(together) - count) / np.where(count < 2, np.nan, count * (count - 1))
