"""What follows from the sums of a pass (:mod:`engine.sums`) alone, for all layers at once and only when asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np

from engine.arrays import Array
from engine.once import once
from engine.sums import Of, Plan


class Source(Protocol):
    """Where sums come from; every result is float64 [L, E...]."""

    def norm(self, of: Of) -> Array:
        """√ of a sum of squares."""

    def mean(self, of: Of) -> Array:
        """Over units and examples, without scaling."""

    def mean_square(self, of: Of) -> Array:
        """Of what there is one of for each unit and example."""

    def variance(self) -> Array:
        """Of a, over units and examples."""

    def below(self, fraction: float) -> Array:
        """Pairs of a unit and an example with |σ'(z)| < fraction · sup|σ'|."""

    def dead(self) -> Array:
        """Units with σ'(z) = 0 on every example."""


class Vitals(ABC):
    """Of L layers: every result is [L, E...]. To be read under ``np.errstate(all="ignore")``.

    Args:
        plan: of the layers and the batch, at one step.
        source: of their sums.
        axes: how many axes there are between layers and ensemble.

    Attributes:
        plan: the same.
        numbers: of the layers.
        batch_size: B.
        units, pairs: units of each layer, and pairs of a unit and an example: [L, 1...].
    """

    def __init__(self, plan: Plan, source: Source, axes: int = 0) -> None:
        self.plan, self._source = plan, source
        self.numbers, self.batch_size = plan.numbers, plan.batch_size
        self.units, self.pairs = plan.units, plan.pairs
        if axes:
            self.units, self.pairs = (x.reshape(len(x), *[1] * axes, *x.shape[1:]) for x in (plan.units, plan.pairs))

    def of_sloped(self, values: Array) -> tuple[tuple[int, ...], Array]:
        """The numbers of the layers that have a σ'(z), and their part of values [L, ...]."""
        numbers, where = self.plan.with_slope
        return numbers, values[where]

    @once
    def gradient_norm(self) -> Array:
        """‖∂C/∂W‖_F."""
        return self._source.norm(Of.GRADIENT)

    @once
    def bias_gradient_norm(self) -> Array:
        """‖∂C/∂b‖ = ‖⟨δ_b⟩‖."""
        return self._source.norm(Of.BIAS_GRADIENT)

    @once
    def weight_norm(self) -> Array:
        """‖W‖_F."""
        return self._source.norm(Of.WEIGHTS)

    @once
    def update_norm(self) -> Array:
        """‖ΔW‖_F."""
        return self._update_norm()

    @abstractmethod
    def _update_norm(self) -> Array: ...

    @once
    def update_to_weight(self) -> Array:
        """‖ΔW‖/‖W‖."""
        return self.update_norm / self.weight_norm

    @once
    def delta_rms(self) -> Array:
        """√⟨‖δ_b‖²⟩."""
        return self._source.norm(Of.DELTA) * self.batch_size**-0.5

    @once
    def coherence(self) -> Array:
        """‖⟨δ_b⟩‖² / ⟨‖δ_b‖²⟩."""
        return np.square(self.bias_gradient_norm / self.delta_rms)

    @once
    def z_mean_square(self) -> Array:
        """Mean of z² over units and examples."""
        return self._source.mean_square(Of.ZZ)

    @once
    def activation_mean(self) -> Array:
        """Mean of a over units and examples."""
        return self._source.mean(Of.A)

    @once
    def activation_variance(self) -> Array:
        """⟨(a − ⟨a⟩)²⟩ over units and examples."""
        return self._source.variance()

    @once
    def activation_std(self) -> Array:
        """Standard deviation of a over units and examples."""
        return np.sqrt(self.activation_variance)

    def share_below(self, fraction: float) -> Array:
        """Share of (unit, example) pairs with |σ'(z)| < fraction · sup|σ'|."""
        return self._source.below(fraction) / self.pairs

    @once
    def dead_fraction(self) -> Array:
        """Share of units with σ'(z) = 0 on every example."""
        return self._source.dead() / self.units
