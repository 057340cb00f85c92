"""What a step does to the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engine.arrays import Array
from engine.moment import Moment
from engine.observed import Layers
from engine.probes.base import Probe, Reading, SharedProbe


@dataclass(frozen=True)
class WeightNorm(SharedProbe):
    """‖W‖_F."""

    geometric: ClassVar[bool] = True

    def read(self, layers: Layers) -> Array:
        return layers.weight_norm


@dataclass(frozen=True)
class UpdateNorm(SharedProbe):
    """‖ΔW‖_F of the update about to be added."""

    geometric: ClassVar[bool] = True

    def read(self, layers: Layers) -> Array:
        return layers.update_norm


@dataclass(frozen=True)
class UpdateToWeight(SharedProbe):
    """‖ΔW‖/‖W‖: how far one step moves the weights. Around 1e-3 is healthy by a common rule of thumb."""

    geometric: ClassVar[bool] = True

    def read(self, layers: Layers) -> Array:
        return layers.update_to_weight


@dataclass(frozen=True)
class LostUpdates(SharedProbe):
    """Share of a layer's weights with ∂C/∂w ≠ 0 for which w + Δw == w in the run's type: learnt and rounded away.

    0 where no weight has a gradient. Compare float32 with float64: below half a unit in the last place of w, a step is
    lost whole.
    """

    def read(self, layers: Layers) -> Array:
        theta, segments = layers.theta, layers.parameters.weight_segments
        weights = slice(0, layers.parameters.n_weights)
        w, update = theta[..., weights], layers.update[..., weights]
        alive = layers.grad[..., weights] != 0
        lost = alive & (w + update == w)
        share = [lost[..., s].mean(axis=-1) / np.maximum(alive[..., s].mean(axis=-1), 1e-300) for s in segments.slices]
        return np.stack(share)


@dataclass(frozen=True)
class GradientCosine(Probe):
    """Cosine between the weights' gradients of this step's batch and of the batch of the step before.

    Near 1: steps repeat each other; near 0: the gradient is mostly noise; below 0: the learning rate overshoots. No
    reading at step 0, which has no step before it.
    """

    needs_previous: ClassVar[bool] = True

    def readings(self, moment: Moment) -> list[Reading]:
        before, layers = moment.previous_grad, moment.layers
        if before is None:
            return []
        segments, found = layers.parameters.weight_segments, []
        lengths = layers.gradient_norm, segments.norms(before)
        for i, part in enumerate(segments.slices):
            u, v = (g[..., part] / n[i][..., None] for g, n in zip((layers.grad, before), lengths, strict=True))
            found.append(np.vecdot(u, v))
        return [Reading(layers.numbers, np.stack(found))]
