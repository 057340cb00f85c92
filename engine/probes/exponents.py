"""Histograms of the floating-point exponents of a layer's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from engine.exponents import exponent_counts
from engine.probes.base import Measurement, Step, Traits

Quantity = Literal["gradient", "delta", "activation", "weight"]


@dataclass(frozen=True)
class ExponentHistogram:
    """Counts by exponent (:mod:`engine.exponents`) of one quantity of each layer.

    Args:
        of: Quantity, "gradient" (∂C/∂W), "delta", "activation" or "weight".
    """

    of: Quantity
    traits: ClassVar[Traits] = Traits(of_step=True)

    def __post_init__(self) -> None:
        if self.of not in get_args(Quantity):
            raise ValueError(f"of={self.of!r}: must be 'gradient', 'delta', 'activation' or 'weight'")

    def __call__(self, step: Step) -> list[Measurement]:
        """Return one measurement of all layers; bins that a layer does not use are 0."""
        name = {"gradient": "dW", "delta": "delta", "activation": "a", "weight": "W"}[self.of]
        ensemble, numbers = step.network.ensemble, tuple(layer.number for layer in step.layers)
        rows = [getattr(layer, name).reshape(*ensemble, -1).reshape(-1) for layer in step.layers]
        members = step.network.members
        sizes = np.repeat([len(row) // members for row in rows], members)
        group = np.repeat(np.arange(len(sizes)), sizes)  # layer by layer, then member by member
        bins, counts = exponent_counts(np.concatenate(rows), group, len(sizes))
        values = counts.astype(np.float64).reshape(len(numbers), *ensemble, len(bins))
        return [Measurement(numbers, values, bins=bins, sparse=True)]
