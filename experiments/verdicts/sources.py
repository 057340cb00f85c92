"""Data with planted faults: inputs that are equal or large, targets that are equal or unbalanced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data.table import Source, Table


@dataclass(frozen=True)
class FaultyNoise(Source):
    """Gaussian inputs with random targets, and faults.

    Args:
        examples: Number of rows.
        inputs: Number of inputs.
        classes: Number of classes, or None for a regression with one target.
        std: Standard deviation of each input.
        offset: Mean of each input.
        varying: Number of inputs that vary; the others equal the offset.
        largest: Share of the rows in class 0, or whose target of a regression is 0.5. With 1, all targets are equal.
    """

    examples: int
    inputs: int
    classes: int | None
    std: float
    offset: float
    varying: int
    largest: float
    varies = True

    def load(self, rng: np.random.Generator) -> Table:
        """Return the table."""
        x = np.full((self.examples, self.inputs), self.offset)
        x[:, : self.varying] += self.std * rng.standard_normal((self.examples, self.varying))
        is_common = rng.random(self.examples) < self.largest
        if self.classes is None:
            y = np.where(is_common, 0.5, rng.standard_normal(self.examples))[:, None]
        else:
            y = np.where(is_common, 0, rng.integers(self.classes, size=self.examples))
        return Table(x, y, self.classes)
