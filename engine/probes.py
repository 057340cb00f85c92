"""Probes: one number per layer and replicate, read after a backward pass. Reading changes nothing.

A probe is a callable ``probe(layer: Observed) -> array [E...]``, or None where it has no meaning (σ' of a softmax).
δ_b is one example's error, *not* divided by the batch size B; ⟨·⟩ is the mean over the batch.

Batch-averaged norms (:class:`GradientNorm`, :class:`BiasGradientNorm`) shrink where examples disagree; only
:class:`DeltaRms` follows mean-field theory. Look at both before you speak of vanishing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engine.arrays import Array
from engine.observed import Layers
from engine.observed import Observed as Observed  # so that one import serves who writes a probe
from engine.observed import observe as observe


class Probe(ABC):
    """A measurement of a layer.

    Attributes:
        geometric: whether replicates are averaged as logarithms (magnitudes that span decades) or as they are.
    """

    geometric: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, layer: Observed) -> Array | None:
        """The value of every member of the stack, [E...], or None where the layer has no such quantity."""

    def over(self, layers: Sequence[Observed]) -> tuple[tuple[int, ...], Array]:
        """The numbers of the layers that have a value, and the values, float64 [len(numbers), E...]."""
        return take(self, layers)


def take(probe: Callable[[Observed], Array | None], layers: Sequence[Observed]) -> tuple[tuple[int, ...], Array]:
    """As :meth:`Probe.over`, for any callable: layer by layer."""
    found = {o.layer.number: value for o in layers if (value := probe(o)) is not None}
    return tuple(found), np.array(list(found.values()), dtype=np.float64)


class SharedProbe(Probe):
    """A probe that reads what :class:`engine.observed.Layers` has, of all layers at once."""

    @abstractmethod
    def read(self, layers: Layers) -> Array:
        """The values of all layers, [L, E...]."""

    def __call__(self, layer: Observed) -> Array:
        return np.asarray(self.read(layer.layers)[layer.index])

    def over(self, layers: Sequence[Observed]) -> tuple[tuple[int, ...], Array]:
        together = layers[0].layers
        return together.numbers, self.read(together)


class SlopeProbe(Probe):
    """The same for what needs a σ'(z): layers whose σ is not element-wise have no value."""

    @abstractmethod
    def read(self, layers: Layers) -> Array:
        """The values of all layers, [L, E...]; anything where there is no slope."""

    def __call__(self, layer: Observed) -> Array | None:
        return np.asarray(self.read(layer.layers)[layer.index]) if layer.has_slope else None

    def over(self, layers: Sequence[Observed]) -> tuple[tuple[int, ...], Array]:
        kept = [o for o in layers if o.has_slope]
        values = self.read(layers[0].layers)[[o.index for o in kept]]
        return tuple([o.layer.number for o in kept]), np.asarray(values)


@dataclass(frozen=True)
class GradientNorm(SharedProbe):
    """‖∂C/∂W‖_F of the batch gradient: what SGD applies."""

    geometric: ClassVar[bool] = True

    def read(self, layers: Layers) -> Array:
        return layers.gradient_norm


@dataclass(frozen=True)
class BiasGradientNorm(SharedProbe):
    """‖∂C/∂b‖ = ‖⟨δ_b⟩‖: the "speed of learning" of Nielsen 2015, chapter 5."""

    geometric: ClassVar[bool] = True

    def read(self, layers: Layers) -> Array:
        return layers.bias_gradient_norm


@dataclass(frozen=True)
class DeltaRms(SharedProbe):
    """√⟨‖δ_b‖²⟩: per-example errors. Mean-field theory: its square changes by χ from layer to layer."""

    geometric: ClassVar[bool] = True

    def read(self, layers: Layers) -> Array:
        return layers.delta_rms


@dataclass(frozen=True)
class Coherence(SharedProbe):
    """‖⟨δ_b⟩‖² / ⟨‖δ_b‖²⟩ in [0, 1]: 1 where all examples agree, about 1/B where they are unrelated."""

    def read(self, layers: Layers) -> Array:
        return layers.coherence


@dataclass(frozen=True)
class ZMeanSquare(SharedProbe):
    """Mean of z² over units and examples: the q of mean-field theory."""

    geometric: ClassVar[bool] = True

    def read(self, layers: Layers) -> Array:
        return layers.z_mean_square


@dataclass(frozen=True)
class ActivationMean(SharedProbe):
    """Mean of a over units and examples."""

    def read(self, layers: Layers) -> Array:
        return layers.activation_mean


@dataclass(frozen=True)
class ActivationStd(SharedProbe):
    """Standard deviation of a over units and examples."""

    def read(self, layers: Layers) -> Array:
        return layers.activation_std


@dataclass(frozen=True)
class SaturatedFraction(SlopeProbe):
    """Share of (unit, example) pairs with |σ'(z)| < threshold · sup|σ'|: hardly any error passes there.

    For rectifiers it is the share that is switched off, about ½ at initialisation.
    """

    threshold: float

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold}: must be in (0, 1)")

    def read(self, layers: Layers) -> Array:
        return layers.saturated_fraction(self.threshold)


@dataclass(frozen=True)
class DeadFraction(SlopeProbe):
    """Share of units with σ'(z) = 0 on every example of the batch: they cannot learn from it."""

    def read(self, layers: Layers) -> Array:
        return layers.dead_fraction


@dataclass(frozen=True)
class UpdateToWeight(SharedProbe):
    """‖ΔW‖/‖W‖: how far one step moves the weights. Around 1e-3 is healthy by a common rule of thumb."""

    geometric: ClassVar[bool] = True

    def read(self, layers: Layers) -> Array:
        return layers.update_to_weight
