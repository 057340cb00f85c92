"""Cost functions C(a, y) of one example and their gradients, side by side.

The derivation uses two quadratic costs, Σ(a−y)² up to section 2.4 and ½‖a−y‖² from 2.5 on; they are two classes here.
A cost may name the activation with which equation (1) collapses to δ^L = a − y. :meth:`Cost.delta` then returns exactly
that, and :meth:`Cost.of_output` computes the value from z, where saturated outputs keep all digits.

To add one, derive from :class:`Cost` and let :func:`engine.gradient_check.check_cost` compare the two.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engine.activations import Activation, Sigmoid, Softmax
from engine.arrays import Array


class Cost(ABC):
    """C of each example: a and y are [E..., n, B], values [E..., B].

    Attributes:
        collapses_with: the output activation for which δ^L = a − y exactly, if any.
        output_low, output_high: the outputs for which C is defined.
        normalised: True if outputs must sum to one, False if they must not be coupled so, None if it does not matter.
        target_low, target_high: the targets for which C is a cost.
    """

    collapses_with: ClassVar[type[Activation] | None] = None
    output_low: ClassVar[float] = -math.inf
    output_high: ClassVar[float] = math.inf
    normalised: ClassVar[bool | None] = None
    target_low: ClassVar[float] = -math.inf
    target_high: ClassVar[float] = math.inf

    @abstractmethod
    def value(self, a: Array, y: Array) -> Array:
        """Compute C of every example, [E..., B]."""

    @abstractmethod
    def gradient(self, a: Array, y: Array) -> Array:
        """Compute ∂C/∂a of every example, not divided by the batch size: [E..., n, B]."""

    def delta(self, sigma: Activation, z: Array, a: Array, y: Array, out: Array | None = None) -> Array:
        """Compute δ^L = Jᵀ ∂C/∂a, equation (1), for outputs a = σ(z); exactly a − y where cost and σ collapse.

        Args:
            out: where the result may be written, [E..., n, B].
        """
        if self.collapses_with is type(sigma):
            return np.subtract(a, y, out=out)
        return sigma.pull_back(z, a, self.gradient(a, y), out=out)

    def of_output(self, sigma: Activation, z: Array, a: Array, y: Array) -> Array:
        """Compute C of every example, [E..., B], for outputs a = σ(z); from z where cost and σ collapse."""
        return self.value_from_z(z, y) if self.collapses_with is type(sigma) else self.value(a, y)

    def value_from_z(self, z: Array, y: Array) -> Array:
        """Compute C from the weighted input z [E..., n, B] of an output layer :attr:`collapses_with`: [E..., B].

        Raises:
            NotImplementedError: the cost collapses with no activation.
        """
        raise NotImplementedError(f"{type(self).__name__} names no activation it collapses with")


@dataclass(frozen=True)
class SquaredError(Cost):
    """C = Σ_j (a_j − y_j)², ∂C/∂a = 2(a − y). Source: the derivation, sections 1.1 to 2.4."""

    def value(self, a: Array, y: Array) -> Array:
        return np.add.reduce(np.square(a - y), axis=-2)

    def gradient(self, a: Array, y: Array) -> Array:
        return 2 * (a - y)


@dataclass(frozen=True)
class HalfSquaredError(Cost):
    """C = ½‖a − y‖², ∂C/∂a = a − y. Source: the derivation, sections 2.5 to 5."""

    def value(self, a: Array, y: Array) -> Array:
        return np.add.reduce(np.square(a - y), axis=-2) / 2

    def gradient(self, a: Array, y: Array) -> Array:
        return a - y


def _inside(a: Array) -> tuple[float, float]:
    """The smallest and the largest number strictly between 0 and 1 in a's type: logarithms stay finite."""
    info = np.finfo(a.dtype)
    return float(info.tiny), float(1 - info.epsneg)


@dataclass(frozen=True)
class CrossEntropy(Cost):
    """Binary cross-entropy, summed over outputs: C = −Σ_j [y_j ln a_j + (1−y_j) ln(1−a_j)], ∂C/∂a = (a−y)/(a(1−a)).

    With sigmoid outputs δ^L = a − y and C = Σ_j [ln(1 + e^{z_j}) − y_j z_j]. Source: Nielsen 2015, chapter 3.
    """

    collapses_with: ClassVar[type[Activation] | None] = Sigmoid
    output_low: ClassVar[float] = 0.0
    output_high: ClassVar[float] = 1.0
    normalised: ClassVar[bool | None] = False
    target_low: ClassVar[float] = 0.0
    target_high: ClassVar[float] = 1.0

    def value(self, a: Array, y: Array) -> Array:
        smallest, largest = _inside(a)
        terms = y * np.log(np.maximum(a, smallest)) + (1 - y) * np.log1p(-np.minimum(a, largest))
        return -np.add.reduce(terms, axis=-2)

    def gradient(self, a: Array, y: Array) -> Array:
        smallest, largest = _inside(a)
        inside = np.minimum(np.maximum(a, smallest), largest)
        return (inside - y) / inside / (1 - inside)

    def value_from_z(self, z: Array, y: Array) -> Array:
        return np.add.reduce(np.logaddexp(z, 0) - y * z, axis=-2)


@dataclass(frozen=True)
class LogLikelihood(Cost):
    """Categorical cross-entropy: C = −Σ_j y_j ln a_j, ∂C/∂a = −y/a, for outputs and targets that sum to one.

    With softmax outputs δ^L = a − y and C = ln Σ_j e^{z_j} − Σ_j y_j z_j. Source: Nielsen 2015, chapter 3.
    """

    collapses_with: ClassVar[type[Activation] | None] = Softmax
    output_low: ClassVar[float] = 0.0
    output_high: ClassVar[float] = 1.0
    normalised: ClassVar[bool | None] = True
    target_low: ClassVar[float] = 0.0
    target_high: ClassVar[float] = 1.0

    def value(self, a: Array, y: Array) -> Array:
        return -np.add.reduce(y * np.log(np.maximum(a, _inside(a)[0])), axis=-2)

    def gradient(self, a: Array, y: Array) -> Array:
        return -y / np.maximum(a, _inside(a)[0])

    def value_from_z(self, z: Array, y: Array) -> Array:
        highest = z.max(axis=-2, keepdims=True)
        log_sum = np.log(np.add.reduce(np.exp(z - highest), axis=-2)) + highest[..., 0, :]
        return log_sum - np.add.reduce(y * z, axis=-2)
