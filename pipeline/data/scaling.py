"""Standardisation: columns with mean 0 and variance 1 over the training rows, and the way back to the units before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.arrays import Array

SAFE = 1e100  # the square of a larger value, or of 1/SAFE, may overflow or vanish


@dataclass(frozen=True)
class Standardisation:
    """(v / 2^e − mean) / std of each column. A column that is constant in the training rows becomes 0.

    Attributes:
        exponents: e of each column: 0, or what keeps squares in range. A division by a power of two changes no digit.
        mean: Mean of each column over the training rows, after the division.
        std: Standard deviation of each column; 1 for a constant one.
        is_constant: Whether each column is constant in the training rows.
    """

    exponents: Array
    mean: Array
    std: Array
    is_constant: Array

    @classmethod
    @np.errstate(over="ignore")  # data that are not finite are refused later
    def fit(cls, training: Array) -> Standardisation:
        """Return the standardisation of the training rows [rows, columns]."""
        low, high = training.min(axis=0), training.max(axis=0)
        largest = np.maximum(np.abs(low), np.abs(high))
        is_extreme = (low < high) & np.isfinite(largest) & ((largest > SAFE) | (largest < 1 / SAFE))
        exponents = np.where(is_extreme, np.frexp(largest)[1], 0)
        fitted = np.ldexp(training, -exponents) if is_extreme.any() else training
        mean, std = fitted.mean(axis=0), fitted.std(axis=0)
        return cls(exponents, mean, np.where(std > 0, std, 1.0), low == high)

    @np.errstate(over="ignore")  # a value that is infinite in the training rows' unit is refused later
    def apply(self, values: Array) -> Array:
        """Return values [rows, columns] in units of the training rows' deviation."""
        chosen = np.ldexp(values, -self.exponents) if self.exponents.any() else values
        scaled: Array = (chosen - self.mean) / self.std
        scaled[:, self.is_constant] = 0.0
        return scaled

    @np.errstate(over="ignore", invalid="ignore")
    def undo(self, scaled: Array) -> Array:
        """Return standardised values [rows, columns] in the units of the source."""
        values: Array = np.ldexp(scaled * self.std + self.mean, self.exponents)
        return values


@dataclass(frozen=True)
class Scaling:
    """How the rows of a replicate were scaled.

    Attributes:
        inputs: The standardisation of the inputs; None if they are as in the source.
        targets: That of the targets of a regression; None for classes, or if they are as in the source.
    """

    inputs: Standardisation | None
    targets: Standardisation | None
