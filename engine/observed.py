"""What probes look at: the layers of a network after a backward pass, and what several probes need of them.

:class:`Observed` is one layer; :class:`Layers` holds what is taken once for all. Reading changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from engine.activations import Elementwise
from engine.arrays import Array, norms, root
from engine.network import Layer, Network

# Infinities and NaNs are findings: they pass through silently.
_quiet = np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")


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
        self.layers = layers or Layers([layer], [dW_update], *(_rows(x) for x in (layer.z, layer.a, layer.delta)))
        self.index = index

    @property
    def has_slope(self) -> bool:
        """Whether σ is element-wise, so that there is a σ'(z)."""
        return isinstance(self.layer.sigma, Elementwise)


def observe(network: Network, update: Array) -> list[Observed]:
    """Every layer of a network after ``backward``, with the optimizer's Δθ [E..., P] about to be added.

    The values are those of each layer observed alone, bit for bit, at a fraction of the calls.
    """
    rows, updates = network.rows, network.parameters.weights(update)
    layers = Layers(network.layers, updates, rows.z, rows.a, rows.delta)
    depth = network.depth
    return [
        Observed(layer, dW, i == depth, layers, i - 1)
        for i, (layer, dW) in enumerate(zip(network.layers, updates, strict=True), start=1)
    ]


def _rows(x: Array) -> Array:
    """[E..., n, B] -> [N, B]."""
    return x.reshape(-1, x.shape[-1])


class Layout:
    """Where the units of L layers lie in [N, B], N units of all layers and members.

    Attributes:
        units, pairs: units of each layer, and pairs of a unit and an example: [L, 1...].
        parts, rows_each: the rows of each layer, and how many they are.
        repeats, starts: rows of each layer and member, and where they start: [L · members].
        ones: [B]; a product with it is the fastest sum there is, for use where the order of adding does not matter.
    """

    def __init__(
        self, units: tuple[int, ...], ensemble: tuple[int, ...], batch_size: int, dtype: np.dtype[Any]
    ) -> None:
        members = math.prod(ensemble)
        self.ensemble = ensemble
        self.units: Array = np.array(units).reshape(-1, *[1] * len(ensemble))
        self.pairs = self.units * batch_size
        self.parts = [slice(a, b) for a, b in pairwise(accumulate((n * members for n in units), initial=0))]
        self.repeats = np.repeat(units, members)
        self.starts = np.cumsum(self.repeats) - self.repeats
        self.rows_each = self.units.ravel() * members
        self.ones = np.ones(batch_size, dtype)


_layout = lru_cache(maxsize=64)(Layout)  # making one takes longer than measuring a small network


class Layers:
    """What several probes share, for L layers at once and only when asked for: every result is [L, E...].

    In a small network the calls cost more than the numbers in them. So what every unit has is taken in one call for
    all units of all layers and members, which stand one below the other, and then summed layer by layer.

    Args:
        layers, updates: the layers after ``backward`` and the ΔW of each.
        z, a, delta: theirs together, as in :class:`engine.network.Rows`: [N, B].
    """

    def __init__(self, layers: Sequence[Layer], updates: Sequence[Array], z: Array, a: Array, delta: Array) -> None:
        self.layers, self.updates = layers, updates
        self.z, self.a, self.delta = z, a, delta
        self.batch_size = z.shape[-1]
        units = tuple([layer.b.shape[-2] for layer in layers])
        self.layout = _layout(units, layers[0].b.shape[:-2], self.batch_size, z.dtype)
        self.pairs = self.layout.pairs
        self.numbers = tuple([layer.number for layer in layers])
        self._saturated: dict[float, Array] = {}

    def _summed(self, per_row: Array) -> Array:
        """Sums over the units of each layer and member, in float64: [N] -> [L, E...].

        The cast is made before the sum: a casting reduction works in chunks that run across members.
        """
        sums = np.add.reduceat(per_row.astype(np.float64, copy=False), self.layout.starts)
        return sums.reshape(-1, *self.layout.ensemble)

    def _norms(self, x: Array) -> Array:
        """The norm of each layer's part of x [N, B]."""
        squares, layout = self._summed(np.vecdot(x, x)), self.layout
        return root(squares, x.dtype, lambda i: x[layout.parts[i]].reshape(*layout.ensemble, -1))

    @cached_property
    def gradient_norms(self) -> Array:
        """‖∂C/∂W‖_F and ‖∂C/∂b‖ = ‖⟨δ_b⟩‖: [2, L, E...]."""
        both = norms([*(layer.dW for layer in self.layers), *(layer.db for layer in self.layers)])
        return both.reshape(2, len(self.layers), *both.shape[1:])

    @property
    def gradient_norm(self) -> Array:
        """‖∂C/∂W‖_F."""
        return np.asarray(self.gradient_norms[0])

    @property
    def bias_gradient_norm(self) -> Array:
        """‖∂C/∂b‖ = ‖⟨δ_b⟩‖."""
        return np.asarray(self.gradient_norms[1])

    @cached_property
    @_quiet
    def delta_rms(self) -> Array:
        """√⟨‖δ_b‖²⟩."""
        return self._norms(self.delta) * self.batch_size**-0.5

    @cached_property
    @_quiet
    def coherence(self) -> Array:
        """‖⟨δ_b⟩‖² / ⟨‖δ_b‖²⟩."""
        return np.square(self.bias_gradient_norm / self.delta_rms)

    @cached_property
    @_quiet
    def z_mean_square(self) -> Array:
        """Mean of z² over units and examples."""
        return np.square(self._norms(self.z)) / self.pairs

    @cached_property
    @_quiet
    def activation_mean(self) -> Array:
        """Mean of a over units and examples."""
        return self._summed(np.add.reduce(self.a.astype(np.float64, copy=False), axis=-1)) / self.pairs

    @cached_property
    @_quiet
    def activation_std(self) -> Array:
        """Standard deviation of a over units and examples."""
        mean = np.repeat(self.activation_mean.astype(self.a.dtype, copy=False).ravel(), self.layout.repeats)
        return self._norms(self.a - mean[:, None]) * self.pairs**-0.5

    @cached_property
    @_quiet
    def update_to_weight(self) -> Array:
        """‖ΔW‖/‖W‖."""
        both = norms([*self.updates, *(layer.W for layer in self.layers)])
        return both[: len(self.layers)] / both[len(self.layers) :]

    @cached_property
    @_quiet
    def slope(self) -> Array:
        """|σ'(z)| of every unit and example [N, B]; NaN where σ is not element-wise."""
        slope = np.empty_like(self.z)
        for layer, part in zip(self.layers, self.layout.parts, strict=True):
            if isinstance(layer.sigma, Elementwise):
                layer.sigma.derivative(layer.z, layer.a, out=slope[part].reshape(layer.z.shape))
            else:
                slope[part] = np.nan
        return np.abs(slope, out=slope)

    def saturated_fraction(self, threshold: float) -> Array:
        """Share of (unit, example) pairs with |σ'(z)| < threshold · sup|σ'|."""
        if threshold not in self._saturated:
            limits = np.array([threshold * layer.sigma.steepest for layer in self.layers], self.z.dtype)
            rows = np.repeat(limits, self.layout.rows_each)[:, None]
            flat = np.less(self.slope, rows, out=np.empty_like(self.slope))  # 1 or 0: their sums are exact
            self._saturated[threshold] = self._summed(flat @ self.layout.ones) / self.pairs
        return self._saturated[threshold]

    @cached_property
    def dead_fraction(self) -> Array:
        """Share of units with σ'(z) = 0 on every example: there, and only there, do the |σ'| sum to 0."""
        return self._summed(self.slope @ self.layout.ones == 0) / self.layout.units
