"""Probes of the agreement between the examples of a batch: gradient noise, and cosines between examples.

The gradient of example b is g_b = δ_b a_bᵀ, so ‖g_b‖ = ‖δ_b‖‖a_b‖. ρ = ⟨‖g_b‖²⟩ / ‖⟨g_b⟩‖² is 1 where all examples
agree and exceeds B where they cancel. Quantities of noise and of pairs have no value for B = 1.
"""

from __future__ import annotations

import numpy as np

from engine.arrays import Array, norm
from engine.probes.base import Layer, layer_probe
from engine.probes.gradients import gradient_norm


def _column_norms(x: Array) -> Array:
    return norm(x.mT, axes=1)


@layer_probe(geometric=True)
def example_gradient_rms(layer: Layer) -> Array:
    """Return √⟨‖δ_b a_bᵀ‖²⟩, the root mean square norm of one example's gradient of W."""
    return norm(_column_norms(layer.delta) * _column_norms(layer.a_in), axes=1) * layer.batch_size**-0.5


@layer_probe()
def gradient_variance(layer: Layer) -> Array | None:
    """Return an unbiased estimate of tr(Σ), the variance of one example's gradient of W summed over the weights.

        tr(Σ) = B/(B−1) (⟨‖g_b‖²⟩ − ‖⟨g_b⟩‖²)

    Source: McCandlish, Kaplan & Amodei, "An Empirical Model of Large-Batch Training", 2018, A.1.
    """
    size = layer.batch_size
    if size < 2:
        return None
    excess = np.square(example_gradient_rms(layer)) - np.square(gradient_norm(layer))
    return np.asarray(np.maximum(excess, 0) * (size / (size - 1)))


@layer_probe()
def gradient_signal(layer: Layer) -> Array | None:
    """Return an unbiased estimate of |G|², the square of the norm of the population's gradient of W.

        |G|² = (B ‖⟨g_b⟩‖² − ⟨‖g_b‖²⟩)/(B−1)

    It is negative where a batch shows less signal than noise. The noise scale tr(Σ)/|G|², the batch size at which
    both are equal, is a ratio of means over replicates and steps (:mod:`pipeline.analysis.noise_scale`): the ratio of
    one batch's estimates is biased, and infinite for some batches. Source: as of :func:`gradient_variance`.
    """
    size = layer.batch_size
    if size < 2:
        return None
    return (size * np.square(gradient_norm(layer)) - np.square(example_gradient_rms(layer))) / (size - 1)


@layer_probe(geometric=True)
def gradient_signal_to_noise(layer: Layer) -> Array | None:
    """Return ‖⟨g_b⟩‖ / √(tr(Σ)/B) = √((B − 1)/(ρ − 1)), ∂C/∂W in standard errors; about 1 for pure noise."""
    size = layer.batch_size
    if size < 2:
        return None
    rho = np.square(example_gradient_rms(layer) / gradient_norm(layer))
    return np.sqrt((size - 1) / np.maximum(rho - 1, 0))


def _mean_cosine(x: Array) -> Array | None:
    """Return the mean of cos(x_b, x_b') over pairs b ≠ b' of the k examples with x_b ≠ 0, [..., n, B] -> [...].

    With u_b = x_b/‖x_b‖ it is (‖Σ u_b‖² − k)/(k(k − 1)); NaN for k < 2, None for B = 1.
    """
    if x.shape[-1] == 1:
        return None
    sizes = _column_norms(x)
    count = np.count_nonzero(sizes, axis=-1)
    units = x / np.where(sizes == 0, 1.0, sizes)[..., None, :]
    sum_square = np.square(norm(np.add.reduce(units, axis=-1), axes=1))
    return np.asarray((sum_square - count) / np.where(count < 2, np.nan, count * (count - 1)))


@layer_probe()
def z_cosine(layer: Layer) -> Array | None:
    """Return the mean cosine between the z of two examples, the c of mean-field theory (σ_b = 0, centred z).

    It is 1 where the layer does not distinguish inputs.
    """
    return _mean_cosine(layer.z)


@layer_probe()
def delta_cosine(layer: Layer) -> Array | None:
    """Return the mean cosine between the δ of two examples; where it is small, batch-averaged gradients shrink."""
    return _mean_cosine(layer.delta)
