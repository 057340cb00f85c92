"""Norms of gradients and errors, layer by layer.

δ_b is one example's error, *not* divided by the batch size B; ⟨·⟩ is the mean over the batch. Batch-averaged norms
(:class:`GradientNorm`, :class:`BiasGradientNorm`) shrink where examples disagree; only :class:`DeltaRms` follows
mean-field theory. Look at both before you speak of vanishing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engine.arrays import Array
from engine.moment import Moment
from engine.probes.base import Probe, Reading, SharedVitalProbe, VitalProbe
from engine.sums import Of, Wanted
from engine.vitals import Vitals


@dataclass(frozen=True)
class GradientNorm(SharedVitalProbe):
    """‖∂C/∂W‖_F of the batch gradient: what SGD applies."""

    geometric: ClassVar[bool] = True
    sums: ClassVar[frozenset[Of]] = frozenset({Of.GRADIENT})

    def read(self, layers: Vitals) -> Array:
        return layers.gradient_norm


@dataclass(frozen=True)
class BiasGradientNorm(SharedVitalProbe):
    """‖∂C/∂b‖ = ‖⟨δ_b⟩‖: the "speed of learning" of Nielsen 2015, chapter 5."""

    geometric: ClassVar[bool] = True
    sums: ClassVar[frozenset[Of]] = frozenset({Of.BIAS_GRADIENT})

    def read(self, layers: Vitals) -> Array:
        return layers.bias_gradient_norm


@dataclass(frozen=True)
class DeltaRms(SharedVitalProbe):
    """√⟨‖δ_b‖²⟩: per-example errors. Mean-field theory: its square changes by χ from layer to layer."""

    geometric: ClassVar[bool] = True
    sums: ClassVar[frozenset[Of]] = frozenset({Of.DELTA})

    def read(self, layers: Vitals) -> Array:
        return layers.delta_rms


@dataclass(frozen=True)
class Coherence(SharedVitalProbe):
    """‖⟨δ_b⟩‖² / ⟨‖δ_b‖²⟩ in [0, 1]: 1 where all examples agree, about 1/B where they are unrelated."""

    sums: ClassVar[frozenset[Of]] = frozenset({Of.BIAS_GRADIENT, Of.DELTA})

    def read(self, layers: Vitals) -> Array:
        return layers.coherence


@dataclass(frozen=True)
class DeltaRatio(VitalProbe):
    """⟨‖δ^l_b‖²⟩ / ⟨‖δ^{l+1}_b‖²⟩ for l < L, as measured: the χ of mean-field theory, of one layer."""

    geometric: ClassVar[bool] = True

    sums: ClassVar[frozenset[Of]] = frozenset({Of.DELTA})

    def found(self, vitals: Vitals) -> list[Reading]:
        delta, numbers = vitals.delta_rms, vitals.numbers
        return [Reading(numbers[:-1], np.square(delta[:-1] / delta[1:]))] if len(numbers) > 1 else []


@dataclass(frozen=True)
class DeltaRatioLocal(Probe):
    """n_l · Var(W^{l+1}) · ⟨σ'(z^l)²⟩ for l < L: what :class:`DeltaRatio` would be if δ knew nothing of W and σ'.

    Var is the mean square of the entries, about 0. Where the two differ, forward and backward pass are correlated.
    Source: Schoenholz et al., "Deep Information Propagation", 2017 (χ = σ_w² ∫ φ'(√q z)² Dz, here of one layer).
    """

    geometric: ClassVar[bool] = True

    @property
    def wanted(self) -> Wanted:
        """Σ W²."""
        return Wanted(frozenset({Of.WEIGHTS}))

    def readings(self, moment: Moment) -> list[Reading]:
        layers = moment.layers
        kept = [i for i in layers.sloped if i + 1 < len(layers.numbers)]
        if not kept:
            return []
        shape = (-1, *[1] * (layers.weight_norm.ndim - 1))
        units_above = np.array([layers.layers[i + 1].b.shape[-2] for i in kept]).reshape(shape)
        variance_times_units = np.square(layers.weight_norm[[i + 1 for i in kept]]) / units_above
        values: Array = variance_times_units * layers.slope_mean_square[kept]
        return [Reading(tuple([layers.numbers[i] for i in kept]), values)]
