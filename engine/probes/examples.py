"""How the examples of a batch agree or disagree: noise of the gradient, and cosines between examples.

A single example's gradient is g_b = δ_b a_bᵀ, so ‖g_b‖ = ‖δ_b‖‖a_b‖: norms of all of them for the price of two norms of
rows. Write ρ = ⟨‖g_b‖²⟩ / ‖⟨g_b⟩‖², between 1 (all agree) and beyond B (they cancel).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engine.arrays import Array
from engine.moment import Moment
from engine.observed import Layers
from engine.probes.base import Probe, Reading, SharedProbe


@dataclass(frozen=True)
class ExampleGradientRms(SharedProbe):
    """√⟨‖δ_b a_bᵀ‖²⟩: the size of a single example's gradient of W."""

    geometric: ClassVar[bool] = True

    def read(self, layers: Layers) -> Array:
        return layers.example_gradient_rms


@dataclass(frozen=True)
class GradientNoiseScale(Probe):
    """tr(Σ)/|G|², the batch size at which noise and signal of ∂C/∂W are equal, from unbiased estimates of both.

    tr(Σ) = B/(B−1) (⟨‖g_b‖²⟩ − ‖⟨g_b⟩‖²) and |G|² = (B ‖⟨g_b⟩‖² − ⟨‖g_b‖²⟩)/(B−1), so it is B (ρ − 1)/(B − ρ); ∞ where
    the batch is too small to see any signal (ρ >= B). No reading for B = 1. Source: McCandlish, Kaplan & Amodei, "An
    Empirical Model of Large-Batch Training", 2018, appendix A.1 ("simple" noise scale).
    """

    def readings(self, moment: Moment) -> list[Reading]:
        size, rho = moment.layers.batch_size, moment.layers.disagreement
        if size < 2:
            return []
        scale = np.where(rho >= size, np.inf, size * np.maximum(rho - 1, 0) / (size - rho))
        return [Reading(moment.layers.numbers, scale)]


@dataclass(frozen=True)
class GradientSignalToNoise(Probe):
    """‖⟨g_b⟩‖ / √(tr(Σ)/B): how many standard errors the batch's gradient of W is away from 0, √((B − 1)/(ρ − 1)).

    About 1 where there is nothing but noise. A ratio over examples, never over coordinates. No reading for B = 1.
    """

    geometric: ClassVar[bool] = True

    def readings(self, moment: Moment) -> list[Reading]:
        size, rho = moment.layers.batch_size, moment.layers.disagreement
        if size < 2:
            return []
        return [Reading(moment.layers.numbers, np.sqrt((size - 1) / np.maximum(rho - 1, 0)))]


@dataclass(frozen=True)
class ZCosine(Probe):
    """Mean cosine between the z of two examples: 1 where the layer no longer tells inputs apart.

    Mean-field theory's c (for σ_b = 0 and centred z). No reading for B = 1.
    """

    def readings(self, moment: Moment) -> list[Reading]:
        layers = moment.layers
        return [Reading(layers.numbers, layers.mean_cosine(layers.z))] if layers.batch_size > 1 else []


@dataclass(frozen=True)
class DeltaCosine(Probe):
    """Mean cosine between the δ of two examples: why batch-averaged gradients shrink. No reading for B = 1."""

    def readings(self, moment: Moment) -> list[Reading]:
        layers = moment.layers
        return [Reading(layers.numbers, layers.mean_cosine(layers.delta))] if layers.batch_size > 1 else []
