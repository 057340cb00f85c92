"""Probes: one number per layer and replicate, read after a backward pass. Reading changes nothing.

A probe is a callable ``probe(layer: Observed) -> array [E...]``, or None where it has no meaning (σ' of a softmax).
δ_b is one example's error, *not* divided by the batch size B; ⟨·⟩ is the mean over the batch.

Batch-averaged norms (:class:`GradientNorm`, :class:`BiasGradientNorm`) shrink where examples disagree; only
:class:`DeltaRms` follows mean-field theory. Look at both before you speak of vanishing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from engine.activations import Elementwise
from engine.arrays import Array, norm
from engine.network import Layer


class Observed:
    """One layer at one step, with the quantities that several probes share computed once.

    Attributes:
        layer: the layer after ``backward``.
        dW_update: the optimizer's ΔW about to be added, [E..., n, m].
        is_output: whether this is layer L.
    """

    def __init__(self, layer: Layer, dW_update: Array, is_output: bool) -> None:
        self.layer = layer
        self.dW_update = dW_update
        self.is_output = is_output

    @cached_property
    def delta_rms(self) -> Array:
        """√⟨‖δ_b‖²⟩, [E...]."""
        return norm(self.layer.delta) * self.layer.delta.shape[-1] ** -0.5

    @cached_property
    def bias_gradient_norm(self) -> Array:
        """‖∂C/∂b‖ = ‖⟨δ_b⟩‖, [E...]."""
        return norm(self.layer.db)

    @cached_property
    def slope(self) -> Array | None:
        """|σ'(z)| [E..., n, B], or None for an activation that is not element-wise."""
        sigma = self.layer.sigma
        if not isinstance(sigma, Elementwise):
            return None
        slope = sigma.derivative(self.layer.z, self.layer.a)
        return np.abs(slope, out=slope)

    @cached_property
    def activation_mean(self) -> Array:
        """Mean of a over units and examples, [E...]."""
        return _mean(self.layer.a)


def _mean(x: Array) -> Array:
    """Mean over the last two axes, accumulated in float64: [E...].

    The cast is made before the sum: a casting reduction works in chunks that run across members.
    """
    flat = x.reshape(*x.shape[:-2], -1).astype(np.float64, copy=False)
    return np.asarray(np.add.reduce(flat, axis=-1)) / flat.shape[-1]


def _share(x: Array) -> Array:
    """Share of True over the last two axes: [E...]."""
    return np.asarray(np.count_nonzero(x, axis=(-2, -1))) / math.prod(x.shape[-2:])


class Probe(ABC):
    """A measurement of a layer.

    Attributes:
        geometric: whether replicates are averaged as logarithms (magnitudes that span decades) or as they are.
    """

    geometric: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, layer: Observed) -> Array | None:
        """The value of every member of the stack, [E...], or None where the layer has no such quantity."""


@dataclass(frozen=True)
class GradientNorm(Probe):
    """‖∂C/∂W‖_F of the batch gradient: what SGD applies."""

    geometric: ClassVar[bool] = True

    def __call__(self, layer: Observed) -> Array:
        return norm(layer.layer.dW)


@dataclass(frozen=True)
class BiasGradientNorm(Probe):
    """‖∂C/∂b‖ = ‖⟨δ_b⟩‖: the "speed of learning" of Nielsen 2015, chapter 5."""

    geometric: ClassVar[bool] = True

    def __call__(self, layer: Observed) -> Array:
        return layer.bias_gradient_norm


@dataclass(frozen=True)
class DeltaRms(Probe):
    """√⟨‖δ_b‖²⟩: per-example errors. Mean-field theory: its square changes by χ from layer to layer."""

    geometric: ClassVar[bool] = True

    def __call__(self, layer: Observed) -> Array:
        return layer.delta_rms


@dataclass(frozen=True)
class Coherence(Probe):
    """‖⟨δ_b⟩‖² / ⟨‖δ_b‖²⟩ in [0, 1]: 1 where all examples agree, about 1/B where they are unrelated."""

    def __call__(self, layer: Observed) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.square(layer.bias_gradient_norm / layer.delta_rms)


@dataclass(frozen=True)
class ZMeanSquare(Probe):
    """Mean of z² over units and examples: the q of mean-field theory."""

    geometric: ClassVar[bool] = True

    def __call__(self, layer: Observed) -> Array:
        z = layer.layer.z
        with np.errstate(over="ignore"):
            return np.square(norm(z)) / math.prod(z.shape[-2:])


@dataclass(frozen=True)
class ActivationMean(Probe):
    """Mean of a over units and examples."""

    def __call__(self, layer: Observed) -> Array:
        return layer.activation_mean


@dataclass(frozen=True)
class ActivationStd(Probe):
    """Standard deviation of a over units and examples."""

    def __call__(self, layer: Observed) -> Array:
        a = layer.layer.a
        with np.errstate(invalid="ignore"):
            return norm(a - layer.activation_mean[..., None, None]) * math.prod(a.shape[-2:]) ** -0.5


@dataclass(frozen=True)
class SaturatedFraction(Probe):
    """Share of (unit, example) pairs with |σ'(z)| < threshold · sup|σ'|: hardly any error passes there.

    For rectifiers it is the share that is switched off, about ½ at initialisation.
    """

    threshold: float

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold}: must be in (0, 1)")

    def __call__(self, layer: Observed) -> Array | None:
        if layer.slope is None:
            return None
        return _share(layer.slope < self.threshold * layer.layer.sigma.steepest)


@dataclass(frozen=True)
class DeadFraction(Probe):
    """Share of units with σ'(z) = 0 on every example of the batch: they cannot learn from it."""

    def __call__(self, layer: Observed) -> Array | None:
        if layer.slope is None:
            return None
        return _share(layer.slope.max(axis=-1, keepdims=True) == 0)


@dataclass(frozen=True)
class UpdateToWeight(Probe):
    """‖ΔW‖/‖W‖: how far one step moves the weights. Around 1e-3 is healthy by a common rule of thumb."""

    geometric: ClassVar[bool] = True

    def __call__(self, layer: Observed) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return norm(layer.dW_update) / norm(layer.layer.W)
