"""What a step does to the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engine.arrays import Array
from engine.moment import Moment
from engine.observed import Layers
from engine.probes.base import Probe, Reading, SharedProbe, SharedVitalProbe
from engine.sums import Of
from engine.vitals import Vitals


@dataclass(frozen=True)
class WeightNorm(SharedVitalProbe):
    """‖W‖_F."""

    geometric: ClassVar[bool] = True
    sums: ClassVar[frozenset[Of]] = frozenset({Of.WEIGHTS})

    def read(self, layers: Vitals) -> Array:
        return layers.weight_norm


@dataclass(frozen=True)
class UpdateNorm(SharedVitalProbe):
    """‖ΔW‖_F of the update about to be added."""

    geometric: ClassVar[bool] = True
    of_update: ClassVar[bool] = True
    sums: ClassVar[frozenset[Of]] = frozenset({Of.GRADIENT})

    def read(self, layers: Vitals) -> Array:
        return layers.update_norm


@dataclass(frozen=True)
class UpdateToWeight(SharedVitalProbe):
    """‖ΔW‖/‖W‖: how far one step moves the weights. Around 1e-3 is healthy by a common rule of thumb."""

    geometric: ClassVar[bool] = True
    of_update: ClassVar[bool] = True
    sums: ClassVar[frozenset[Of]] = frozenset({Of.GRADIENT, Of.WEIGHTS})

    def read(self, layers: Vitals) -> Array:
        return layers.update_to_weight


@dataclass(frozen=True)
class LostUpdates(SharedProbe):
    """Share of a layer's weights with ∂C/∂w ≠ 0 for which w + Δw == w in the run's type: learnt and rounded away.

    0 where no weight has a gradient. Compare float32 with float64: below half a unit in the last place of w, a step is
    lost whole.
    """

    def read(self, layers: Layers) -> Array:
        weights = slice(0, layers.parameters.n_weights)
        w, update = layers.theta[..., weights], layers.update[..., weights]
        alive = layers.grad[..., weights] != 0
        flags = np.stack([alive & (w + update == w), alive]).astype(np.float64)  # 1 and 0: their sums are exact
        lost, all_alive = layers.parameters.weight_segments.dots(flags, flags).swapaxes(0, 1)
        return np.asarray(lost / np.maximum(all_alive, 1))


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
        segments, grad = layers.parameters.weight_segments, layers.grad
        lengths = layers.gradient_norm, segments.norms(before)
        cosine = np.asarray(segments.dots(grad, before).astype(np.float64) / (lengths[0] * lengths[1]))
        low, high = 2.0**-30, 2.0**30  # beyond, products may leave float32: take unit vectors first
        sound = [(n > low) & (n < high) for n in lengths]
        for i in np.flatnonzero(~(sound[0] & sound[1]).reshape(len(cosine), -1).all(axis=-1)).tolist():
            u, v = (
                x[..., segments.slices[i]].astype(np.float64) / n[i][..., None]
                for x, n in zip((grad, before), lengths, strict=True)
            )
            cosine[i] = np.where(sound[0][i] & sound[1][i], cosine[i], np.vecdot(u, v))
        return [Reading(layers.numbers, cosine)]
