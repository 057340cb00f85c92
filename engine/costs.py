"""Cost functions C(a, y) of one example and their gradients.

The derivation uses two quadratic costs, Σ(a−y)² up to section 2.4 and ½‖a−y‖² from 2.5 on; each is a class here.
A cost may name the output activation with which equation (1) collapses to δ^L = a − y. :meth:`Cost.delta` then returns
exactly a − y, and :meth:`Cost.of_output` computes C from z, without loss of digits where outputs saturate.

To add one, derive from :class:`Cost` and check it with :func:`engine.gradient_check.check_cost`.
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
    """Cost C of each example [E..., B] for outputs a, targets y and weighted inputs z, all [E..., n, B].

    Attributes:
        collapses_with: The output activation for which δ^L = a − y exactly, if any.
        output_low, output_high: Range of the outputs for which C is defined.
        normalised: Whether outputs must (True), must not (False) or may (None) be coupled to sum to one.
        target_low, target_high: Range of the targets for which C is a cost.
    """

    collapses_with: ClassVar[type[Activation] | None] = None
    output_low: ClassVar[float] = -math.inf
    output_high: ClassVar[float] = math.inf
    normalised: ClassVar[bool | None] = None
    target_low: ClassVar[float] = -math.inf
    target_high: ClassVar[float] = math.inf

    @abstractmethod
    def value(self, a: Array, y: Array) -> Array:
        """Compute C of every example [E..., B]."""

    @abstractmethod
    def gradient(self, a: Array, y: Array) -> Array:
        """Compute ∂C/∂a of every example [E..., n, B], not divided by the batch size."""

    def delta(self, sigma: Activation, z: Array, a: Array, y: Array, out: Array | None = None) -> Array:
        """Compute δ^L = Jᵀ ∂C/∂a [E..., n, B], equation (1), for outputs a = σ(z); a − y where cost and σ collapse.

        The result may be written to ``out``.
        """
        if self.collapses_with is type(sigma):
            return np.subtract(a, y, out=out)
        return sigma.pull_back(z, a, self.gradient(a, y), out=out)

    def of_output(self, sigma: Activation, z: Array, a: Array, y: Array) -> Array:
        """Compute C of every example [E..., B] for outputs a = σ(z), from z where cost and σ collapse."""
        return self.value_from_z(z, y) if self.collapses_with is type(sigma) else self.value(a, y)

    def value_from_z(self, z: Array, y: Array) -> Array:
        """Compute C of every example [E..., B] from the z of an output layer with activation :attr:`collapses_with`.

        Raises:
            NotImplementedError: If the cost collapses with no activation.
        """
        raise NotImplementedError(f"collapses_with=None: {type(self).__name__} collapses with no activation")


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
    """Return the smallest and largest number strictly between 0 and 1 in a's type, where logarithms are finite."""
    info = np.finfo(a.dtype)
    return float(info.tiny), float(1 - info.epsneg)


@dataclass(frozen=True)
class CrossEntropy(Cost):
    """Binary cross-entropy, C = −Σ_j [y_j ln a_j + (1−y_j) ln(1−a_j)], ∂C/∂a = (a−y)/(a(1−a)).

    With sigmoid outputs δ^L = a − y and C = Σ_j [ln(1 + e^{z_j}) − y_j z_j]. Source: Nielsen 2015, chapter 3.
    """

    collapses_with = Sigmoid
    normalised = False
    output_low, output_high = target_low, target_high = 0.0, 1.0

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
    """Categorical cross-entropy, C = −Σ_j y_j ln a_j, ∂C/∂a = −y/a, for outputs and targets that sum to one.

    With softmax outputs δ^L = a − y and C = ln Σ_j e^{z_j} − Σ_j y_j z_j. Source: Nielsen 2015, chapter 3.
    """

    collapses_with = Softmax
    normalised = True
    output_low, output_high = target_low, target_high = 0.0, 1.0

    def value(self, a: Array, y: Array) -> Array:
        return -np.add.reduce(y * np.log(np.maximum(a, _inside(a)[0])), axis=-2)

    def gradient(self, a: Array, y: Array) -> Array:
        return -y / np.maximum(a, _inside(a)[0])

    def value_from_z(self, z: Array, y: Array) -> Array:
        highest = z.max(axis=-2, keepdims=True)
        log_sum = np.log(np.add.reduce(np.exp(z - highest), axis=-2)) + highest[..., 0, :]
        return log_sum - np.add.reduce(y * z, axis=-2)
