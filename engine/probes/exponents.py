"""Where the numbers of a layer lie on the axis of floating-point exponents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.arrays import Array
from engine.exponents import exponent_counts
from engine.moment import Moment
from engine.network import Layer
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
        found = []
        for layer in moment.network.layers:
            x = self._numbers(layer)
            bins, counts = exponent_counts(x.reshape(*x.shape[:-2], -1))
            found.append(Reading((layer.number,), counts[None].astype(np.float64), bins=bins))
        return found

    def _numbers(self, layer: Layer) -> Array:
        return {"gradient": layer.dW, "delta": layer.delta, "activation": layer.a, "weight": layer.W}[self.of]
