"""Probes of the norms of gradients and errors.

δ_b is the error of one example, *not* divided by the batch size B; ⟨·⟩ is the mean over the batch. Batch-averaged norms
(:func:`gradient_norm`, :func:`bias_gradient_norm`) shrink where examples disagree; only :func:`delta_rms` follows
mean-field theory. Compare both before you conclude that gradients vanish.
"""

from __future__ import annotations

import numpy as np

from engine.arrays import Array, norm
from engine.probes.activations import slope_mean_square
from engine.probes.base import Layer, Measurement, Step, layer_probe, step_probe


@layer_probe(geometric=True)
def gradient_norm(layer: Layer) -> Array:
    """Return ‖∂C/∂W‖_F of the batch gradient, which SGD applies."""
    return norm(layer.dW)


@layer_probe(geometric=True)
def bias_gradient_norm(layer: Layer) -> Array:
    """Return ‖∂C/∂b‖ = ‖⟨δ_b⟩‖, the "speed of learning" of Nielsen, 2015, chapter 5."""
    return norm(layer.db)


@layer_probe(geometric=True)
def delta_rms(layer: Layer) -> Array:
    """Return √⟨‖δ_b‖²⟩; in mean-field theory its square changes by the factor χ from layer to layer."""
    return norm(layer.delta) * layer.batch_size**-0.5


@layer_probe()
def coherence(layer: Layer) -> Array:
    """Return ‖⟨δ_b⟩‖² / ⟨‖δ_b‖²⟩ in [0, 1]: 1 where all examples agree, about 1/B where they are unrelated."""
    return np.square(bias_gradient_norm(layer) / delta_rms(layer))


@step_probe(geometric=True)
def delta_ratio(step: Step) -> list[Measurement]:
    """Return ⟨‖δ^l_b‖²⟩ / ⟨‖δ^{l+1}_b‖²⟩ for l < L, the measured χ of one layer."""
    delta = np.array([delta_rms(layer) for layer in step.layers])
    numbers = tuple(layer.number for layer in step.layers[:-1])
    return [Measurement(numbers, np.square(delta[:-1] / delta[1:]))] if numbers else []


@step_probe(geometric=True)
def delta_ratio_local(step: Step) -> list[Measurement]:
    """Return n_l · Var(W^{l+1}) · ⟨σ'(z^l)²⟩ for l < L, the χ of one layer if δ is independent of W and σ'.

    Var is the mean square of the entries. A difference to :func:`delta_ratio` shows that the forward and backward pass
    are correlated. Source: Schoenholz et al., "Deep Information Propagation", 2017 (χ = σ_w² ∫ φ'(√q z)² Dz).
    """
    ratios = {}
    for layer, above in zip(step.layers, step.layers[1:], strict=False):
        slope_square = slope_mean_square(layer)
        if slope_square is not None:
            ratios[layer.number] = np.square(norm(above.W)) / above.n_out * slope_square
    return [Measurement(tuple(ratios), np.array(list(ratios.values())))] if ratios else []
