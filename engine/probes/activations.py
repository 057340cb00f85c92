"""What the units of a layer do: size of z and a, slopes, saturation, death."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engine.arrays import Array
from engine.moment import Moment
from engine.observed import Layers
from engine.probes.base import Probe, Reading, SharedVitalProbe, SlopeProbe, SlopeVitalProbe
from engine.sums import Of, Wanted
from engine.vitals import Vitals


@dataclass(frozen=True)
class ZMeanSquare(SharedVitalProbe):
    """Mean of z² over units and examples: the q of mean-field theory."""

    geometric: ClassVar[bool] = True
    sums: ClassVar[frozenset[Of]] = frozenset({Of.ZZ})

    def read(self, layers: Vitals) -> Array:
        return layers.z_mean_square


@dataclass(frozen=True)
class ActivationMean(SharedVitalProbe):
    """Mean of a over units and examples."""

    sums: ClassVar[frozenset[Of]] = frozenset({Of.A})

    def read(self, layers: Vitals) -> Array:
        return layers.activation_mean


@dataclass(frozen=True)
class ActivationStd(SharedVitalProbe):
    """Standard deviation of a over units and examples."""

    sums: ClassVar[frozenset[Of]] = frozenset({Of.A, Of.AA})

    def read(self, layers: Vitals) -> Array:
        return layers.activation_std


@dataclass(frozen=True)
class SaturatedFraction(SlopeVitalProbe):
    """Share of (unit, example) pairs with |σ'(z)| < threshold · sup|σ'|: hardly any error passes there.

    For rectifiers it is the share that is switched off, about ½ at initialisation.
    """

    threshold: float

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold}: must be in (0, 1)")

    @property
    def wanted(self) -> Wanted:
        """The count below its threshold."""
        return Wanted(below=frozenset({self.threshold}))

    def read(self, layers: Vitals) -> Array:
        return layers.share_below(self.threshold)


@dataclass(frozen=True)
class DeadFraction(SlopeVitalProbe):
    """Share of units with σ'(z) = 0 on every example of the batch: they cannot learn from it."""

    @property
    def wanted(self) -> Wanted:
        """Which units are live."""
        return Wanted(live=True)

    def read(self, layers: Vitals) -> Array:
        return layers.dead_fraction


@dataclass(frozen=True)
class NearLinearFraction(SlopeProbe):
    """Share of (unit, example) pairs with σ'(z) within ``tolerance`` of the slope where σ is a straight line.

    That slope is σ'(0) for sigmoids and the slope far above 0 for rectifiers (``Activation.linear``). A layer whose
    units are all near-linear adds nothing to what the layers around it can do.
    """

    tolerance: float

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance={self.tolerance}: must be in (0, 1)")

    def read(self, layers: Layers) -> Array:
        return layers.share_near_linear(self.tolerance)


@dataclass(frozen=True)
class SlopeMeanSquare(SlopeProbe):
    """Mean of σ'(z)² over units and examples: what a layer's σ does to ⟨‖δ‖²⟩."""

    geometric: ClassVar[bool] = True

    def read(self, layers: Layers) -> Array:
        return layers.slope_mean_square


@dataclass(frozen=True)
class DeadExamples(SlopeProbe):
    """Share of the batch's examples for which every unit of the layer has σ'(z) = 0: nothing passes further down."""

    def read(self, layers: Layers) -> Array:
        return np.asarray(1 - layers.passing.mean(axis=-1))


@dataclass(frozen=True)
class DeadUnits(Probe):
    """Share of units with σ'(z) = 0 on every example of a whole pass over the training set.

    ``DeadFraction`` says the same of one batch, which may have missed the examples that wake a unit. In float
    arithmetic σ' of a tanh unit is 0 from |z| of about 19 (float64): it passes nothing, so it counts.
    """

    costly: ClassVar[bool] = True

    def readings(self, moment: Moment) -> list[Reading]:
        layers = moment.layers
        if not layers.sloped:
            return []
        sums = moment.over_whole_pass(lambda seen: seen.slope.sum(axis=-1, dtype=seen.slope.dtype))
        dead = layers.share_of_units(sums == 0)
        return [Reading(*layers.of_sloped(dead))]
