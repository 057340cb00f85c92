"""Where the numbers of a layer lie on the axis of floating-point exponents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.exponents import exponent_counts
from engine.moment import Moment
from engine.probes.base import Probe, Reading


@dataclass(frozen=True)
class ExponentHistogram(Probe):
    """Counts by exponent (:mod:`engine.exponents`) of one quantity of each layer.

    Args:
        of: "gradient" (∂C/∂W), "delta", "activation" or "weight".
    """

    of: Literal["gradient", "delta", "activation", "weight"]

    def __post_init__(self) -> None:
        if self.of not in ("gradient", "delta", "activation", "weight"):
            raise ValueError(f"of={self.of!r}: must be 'gradient', 'delta', 'activation' or 'weight'")

    def readings(self, moment: Moment) -> list[Reading]:
        """One of all layers; bins that a layer does not use are 0."""
        layers = moment.layers
        ensemble = moment.network.ensemble
        count, members = len(layers.numbers), moment.network.members
        if self.of in ("delta", "activation"):
            rows = layers.delta if self.of == "delta" else layers.a
            group = np.repeat(np.arange(count * members), layers.plan.repeats)[:, None]  # layer by layer, then member
        else:
            vector = layers.grad if self.of == "gradient" else layers.theta
            parameters = layers.parameters
            rows = vector[..., : parameters.n_weights].reshape(members, -1)
            lengths = [part.stop - part.start for part in parameters.weight_segments.slices]
            group = np.repeat(members * np.arange(count), lengths) + np.arange(members)[:, None]
        bins, counts = exponent_counts(rows, group, count * members)
        values = counts.astype(np.float64).reshape(count, *ensemble, len(bins))
        return [Reading(layers.numbers, values, bins=bins, sparse=True)]
