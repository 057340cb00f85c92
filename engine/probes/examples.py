"""How the examples of a batch agree or disagree: noise of the gradient, and cosines between examples.

A single example's gradient is g_b = δ_b a_bᵀ, so ‖g_b‖ = ‖δ_b‖‖a_b‖ follows from norms of columns. Write
ρ = ⟨‖g_b‖²⟩ / ‖⟨g_b⟩‖², between 1 (all agree) and beyond B (they cancel).
"""

from __future__ import annotations

import numpy as np

from engine.arrays import Array, norm
from engine.probes.base import Layer, layer_probe
from engine.probes.gradients import gradient_norm


def _column_norms(x: Array) -> Array:
    """‖x_b‖ of every example: [..., n, B] -> float64 [..., B]."""
    return norm(x.mT, axes=1)


@layer_probe(geometric=True)
def example_gradient_rms(layer: Layer) -> Array:
    """√⟨‖δ_b a_bᵀ‖²⟩: the size of a single example's gradient of W."""
    return norm(_column_norms(layer.delta) * _column_norms(layer.a_in), axes=1) * layer.batch_size**-0.5


def _disagreement(layer: Layer) -> Array:
    """ρ."""
    return np.square(example_gradient_rms(layer) / gradient_norm(layer))


@layer_probe()
def gradient_noise_scale(layer: Layer) -> Array | None:
    """tr(Σ)/|G|², the batch size at which noise and signal of ∂C/∂W are equal, from unbiased estimates of both.

    tr(Σ) = B/(B−1) (⟨‖g_b‖²⟩ − ‖⟨g_b⟩‖²) and |G|² = (B ‖⟨g_b⟩‖² − ⟨‖g_b‖²⟩)/(B−1), so it is B (ρ − 1)/(B − ρ); ∞ where
    the batch is too small to see any signal (ρ >= B). No value for B = 1. Source: McCandlish, Kaplan & Amodei, "An
    Empirical Model of Large-Batch Training", 2018, appendix A.1 ("simple" noise scale).
    """
    size = layer.batch_size
    if size < 2:
        return None
    rho = _disagreement(layer)
    return np.where(rho >= size, np.inf, size * np.maximum(rho - 1, 0) / (size - rho))


@layer_probe(geometric=True)
def gradient_signal_to_noise(layer: Layer) -> Array | None:
    """‖⟨g_b⟩‖ / √(tr(Σ)/B): how many standard errors the batch's gradient of W is away from 0, √((B − 1)/(ρ − 1)).

    About 1 where there is nothing but noise. A ratio over examples, never over coordinates. No value for B = 1.
    """
    size = layer.batch_size
    return np.sqrt((size - 1) / np.maximum(_disagreement(layer) - 1, 0)) if size > 1 else None


def _mean_cosine(x: Array) -> Array | None:
    """Mean over pairs b ≠ b' of cos(x_b, x_b'), [..., n, B] -> [...]; examples with x_b = 0 left out.

    With u_b = x_b/‖x_b‖ and k such examples it is (‖Σ u_b‖² − k)/(k(k − 1)); NaN for k < 2, None for B = 1.
    """
    if x.shape[-1] == 1:
        return None
    sizes = _column_norms(x)
    count = np.count_nonzero(sizes, axis=-1)
    units = x / np.where(sizes == 0, 1.0, sizes)[..., None, :]
    together = np.square(norm(np.add.reduce(units, axis=-1), axes=1))
    return np.asarray((together - count) / np.where(count < 2, np.nan, count * (count - 1)))


@layer_probe()
def z_cosine(layer: Layer) -> Array | None:
    """Mean cosine between the z of two examples: 1 where the layer no longer tells inputs apart.

    Mean-field theory's c (for σ_b = 0 and centred z). No value for B = 1.
    """
    return _mean_cosine(layer.z)


@layer_probe()
def delta_cosine(layer: Layer) -> Array | None:
    """Mean cosine between the δ of two examples: why batch-averaged gradients shrink. No value for B = 1."""
    return _mean_cosine(layer.delta)
