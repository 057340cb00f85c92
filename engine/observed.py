"""What probes look at: the layers of a network after a backward pass, and what several probes need of them.

:class:`Observed` is one layer; :class:`Layers` holds what is taken once for all of them;
:class:`engine.moment.Moment` is the whole step. Reading changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from engine.activations import Elementwise
from engine.arrays import Array, norm, root, safe
from engine.network import Layer, Network, Parameters, Slopes
from engine.once import once
from engine.optimizers import Proposal, made
from engine.sums import Of, Places, Plan, SlopePiece, Sums, of_parameters, of_rows
from engine.vitals import Vitals


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


class Layers(Vitals):
    """What several probes share, for L layers at once and only when asked for: every result is [L, E...].

    Infinities and NaNs are findings: read under ``np.errstate(all="ignore")``, as every probe and pipeline does.

    What is summed over all the numbers of a layer is :class:`engine.sums.Sums`'s.

    Args:
        layers: after ``backward``.
        z, a, delta: theirs together, as in :class:`engine.network.Rows`: [N, B].
        theta, grad: their parameters and gradients, flat [E..., P].
        proposed: the optimizer's Δθ, flat [E..., P] (or of the weights alone), or what makes it.
        parameters: where each layer's lie in the flat vectors.
        slopes: gives σ'(z) [N, B], anything where σ is not element-wise.
        sums: of this pass.
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
        slopes: Callable[[], Array],
        sums: Sums,
    ) -> None:
        self.layers = layers
        self.z, self.a, self.delta = z, a, delta
        self.theta, self.grad, self._proposed = theta, grad, proposed
        self.parameters = parameters
        super().__init__(sums.places.plan, sums)
        self._slopes, self.sums, self.sloped = slopes, sums, self.plan.sloped
        self._factor_of: Proposal | None = None  # whose factor times ∂C/∂W is ΔW

    @classmethod
    def of(cls, network: Network, proposed: Array | Proposal) -> Layers:
        """All layers of a network after ``backward``."""
        rows = network.rows
        parts = (rows.z, rows.a, rows.delta, network.theta, network.grad)
        sums = Sums.of(network)
        layers = cls(network.layers, *parts, proposed, network.parameters, network.slope, sums)
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
        slope, plan = np.empty_like(z), Plan([layer], lead, z.shape[-1])
        slopes = [Slopes.of(layer.sigma, slice(0, len(z)), z, a, slope)] if isinstance(layer.sigma, Elementwise) else []

        def take() -> Array:
            for each in slopes:
                each.take()
            return slope

        parameters = Parameters((m, n))
        flat = of_parameters(theta, grad, parameters)
        rows = of_rows({"z": z, "a": a, "delta": delta})
        places = Places(plan, theta.dtype, rows, flat, [(0, 1)], [(0, 1, slopes)], [], take)
        return cls([layer], z, a, delta, theta, grad, dW_update.reshape(*lead, -1), parameters, take, Sums(places))

    @property
    def update(self) -> Array:
        """The optimizer's Δθ, [E..., P] (or of the weights alone)."""
        return made(self._proposed)

    @property
    def factor(self) -> float | None:
        """c, where Δθ = c ∇C; None where that is not known."""
        return self._factor_of.factor if self._factor_of is not None else None

    def _knows(self, of: Of, times: float) -> bool:
        """Whether these sums are known to be safe, and would be if they were so many times as large."""
        return of in self.sums.wanted.sums and self.sums.safe_times(times)

    def _update_norm(self) -> Array:
        """|c| ‖∂C/∂W‖_F where Δθ = c ∇C and neither square leaves what its type can hold."""
        factor = self.factor
        if factor is None:
            return self._made_update_norm()
        norm = abs(factor) * self.gradient_norm
        if self._knows(Of.GRADIENT, factor * factor):
            return norm
        trusted = safe(np.square(norm), self.grad.dtype)
        return norm if trusted.all() else np.where(trusted, norm, self._made_update_norm())

    def _made_update_norm(self) -> Array:
        return self.parameters.weight_segments.norms(self.update[..., : self.parameters.n_weights])

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
    def slope(self) -> Array:
        """|σ'(z)| of every unit and example [N, B]; anything where σ is not element-wise. Like z, a and δ it is the
        network's own and lasts until its next pass.
        """
        slopes = self._slopes()
        monotonic = all(isinstance(y.sigma, Elementwise) and y.sigma.monotonic for y in self.layers if y.diagonal)
        return slopes if monotonic else np.abs(slopes)

    def _sloped_pieces(self) -> list[SlopePiece]:
        """Neighbours of the same element-wise σ, whose slopes are there."""
        self._slopes()
        return self.sums.places.all_pieces

    def share_near_linear(self, tolerance: float) -> Array:
        """Share of (unit, example) pairs with | |σ'(z)| − s | <= tolerance · s, s the slope where σ is linear."""
        counts = np.zeros(len(self.plan.starts))
        for piece in self._sloped_pieces():
            slope = piece.slopes.steepness()
            linear = slope.dtype.type(piece.slopes.sigma.linear)
            away = np.subtract(slope, linear)
            np.abs(away, out=away)
            near = np.less_equal(away, slope.dtype.type(tolerance) * linear)
            counts[piece.which] = self.sums.places.counted(piece, near)
        return np.asarray(counts.reshape(-1, *self.plan.ensemble) / self.pairs)

    def share_of_units(self, flags: Array) -> Array:
        """Mean over the units of each layer of flags [N]."""
        return self.plan.summed(flags) / self.plan.units

    @once
    def slope_mean_square(self) -> Array:
        """Mean of σ'(z)² over units and examples."""
        squares = np.ones(len(self.z), self.z.dtype)
        for piece in self._sloped_pieces():
            np.vecdot(piece.slopes.slope, piece.slopes.slope, out=squares[piece.slopes.part])
        return self.plan.mean_square(self.slope, squares)

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
        return (self.plan.summed(together) - count) / np.where(count < 2, np.nan, count * (count - 1))
