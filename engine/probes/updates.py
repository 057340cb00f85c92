"""Probes of weights and their updates."""

from __future__ import annotations

import numpy as np

from engine.arrays import Array, norm
from engine.probes.base import Layer, Measurement, Step, layer_probe, step_probe


@layer_probe(geometric=True)
def weight_norm(layer: Layer) -> Array:
    """Return ‖W‖_F."""
    return norm(layer.W)


@layer_probe(geometric=True)
def update_norm(layer: Layer) -> Array:
    """Return ‖ΔW‖_F of the proposed update."""
    return norm(layer.W_update)


@layer_probe(geometric=True)
def update_to_weight(layer: Layer) -> Array:
    """Return ‖ΔW‖/‖W‖, the relative size of one step; a common rule of thumb is about 1e-3."""
    return norm(layer.W_update) / norm(layer.W)


@layer_probe()
def lost_updates(layer: Layer) -> Array:
    """Return the share of the weights with ∂C/∂w ≠ 0 for which w + Δw == w in the run's type, lost to rounding.

    A step below half a unit in the last place of w is lost. The share is 0 where no weight has a gradient.
    """
    moved = layer.dW != 0
    lost = moved & (layer.W + layer.W_update == layer.W)
    counts = [np.count_nonzero(flags.reshape(*flags.shape[:-2], -1), axis=-1) for flags in (lost, moved)]
    return counts[0] / np.maximum(counts[1], 1)


@step_probe(needs_previous=True)
def gradient_cosine(step: Step) -> list[Measurement]:
    """Return the cosine between ∂C/∂W of this step and of the previous step; no value at step 0.

    Near 1, steps repeat each other; near 0, the gradient is mostly noise; below 0, the learning rate overshoots.
    """
    if step.previous_grad is None:
        return []
    cosines = []
    for layer in step.network.layers:
        u, v = (
            x.reshape(*x.shape[:-2], -1).astype(np.float64) / norm(x)[..., None]
            for x in (layer.dW, layer.parameters[0].view(step.previous_grad))
        )
        cosines.append(np.vecdot(u, v))
    return [Measurement(tuple(layer.number for layer in step.network.layers), np.array(cosines))]
