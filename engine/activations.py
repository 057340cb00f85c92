"""Activation functions a = σ(z) and their derivatives.

An :class:`Elementwise` σ acts on each unit alone: its Jacobian J = ∂a/∂z is diag σ'(z). :class:`Softmax` couples the
units of a layer: its J is full. Each computes ∂C/∂z = Jᵀ ∂C/∂a for the backward pass (:meth:`Activation.pull_back`).

To add one, derive from :class:`Elementwise`, write ``value`` and ``derivative``, and check them with
:func:`engine.gradient_check.check_activation`. The argument ``out`` saves an allocation; a function may ignore it.
A parameter outside its range raises ValueError.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from engine.arrays import Array
from engine.special import erf


class Piece(NamedTuple):
    """Linear piece of a function: slope · x + offset from ``left`` to the next piece."""

    left: float
    slope: float
    offset: float


class Activation(ABC):
    """Activation function of a layer, a = σ(z), with z and a [E..., n, B].

    Attributes:
        low, high: Closed bounds of the values of σ.
        normalised: Whether the values of a layer sum to one.
        steepest: sup |σ'(z)|, the scale for saturation.
        gain: The σ_w² = fan_in · Var[W] that the literature pairs with σ (2 for rectifiers, He et al. 2015; else 1).
    """

    low: ClassVar[float] = -math.inf
    high: ClassVar[float] = math.inf
    normalised: ClassVar[bool] = False
    steepest: float = 1.0
    gain: float = 1.0

    @property
    def linear(self) -> float:
        """Return |σ'| where σ is nearly linear: at 0 for sigmoids, far above 0 for rectifiers."""
        return self.steepest

    @abstractmethod
    def value(self, z: Array, out: Array | None = None) -> Array:
        """Compute a = σ(z)."""

    @abstractmethod
    def pull_back(self, z: Array, a: Array, dC_da: Array, out: Array | None = None) -> Array:
        """Compute ∂C/∂z = Jᵀ ∂C/∂a [E..., n, B] (a vector-Jacobian product, vjp); ``out`` must not be ``dC_da``."""

    @abstractmethod
    def jacobian(self, z: Array, a: Array) -> Array:
        """Compute J = ∂a/∂z of every example [E..., B, n, n]; entry (i, j) is ∂a_i/∂z_j."""


class Elementwise(Activation):
    """Activation that acts on each unit alone, J = diag σ'(z), on arrays of any shape.

    Attributes:
        kinks: Points where σ or its derivatives jump; quadrature is split there.
        pieces: Pieces of a piecewise linear σ from left to right, for theory in closed form.
    """

    kinks: ClassVar[tuple[float, ...]] = ()
    pieces: tuple[Piece, ...] = ()

    @abstractmethod
    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        """Compute σ'(z) from z and a = σ(z)."""

    def pull_back(self, z: Array, a: Array, dC_da: Array, out: Array | None = None) -> Array:
        return np.multiply(self.derivative(z, a, out=out), dC_da, out=out)

    def jacobian(self, z: Array, a: Array) -> Array:
        slopes = np.swapaxes(self.derivative(z, a), -1, -2)
        return slopes[..., None] * np.eye(z.shape[-2], dtype=slopes.dtype)


@dataclass(frozen=True)
class Sigmoid(Elementwise):
    """σ(z) = 1/(1 + e^−z), σ' = σ(1 − σ) ≤ ¼; 0 where e^−z overflows. Source: the derivation, last section."""

    low, high = 0.0, 1.0
    steepest = 0.25

    def value(self, z: Array, out: Array | None = None) -> Array:
        return _logistic(z, out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        s = np.subtract(1, a, out=out)
        s *= a
        return s


def _logistic(z: Array, out: Array | None = None) -> Array:
    a = np.exp(np.negative(z, out=out), out=out)
    a += 1
    return np.reciprocal(a, out=a)


@dataclass(frozen=True)
class Tanh(Elementwise):
    """σ(z) = tanh z, σ' = 1 − σ² ≤ 1."""

    low, high = -1.0, 1.0

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.tanh(z, out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return np.subtract(1, np.square(a, out=out), out=out)


@dataclass(frozen=True)
class Relu(Elementwise):
    """σ(z) = max(0, z), σ' = 1 where z > 0, else 0. Source: Nair & Hinton, "Rectified Linear Units", 2010."""

    low = 0.0
    gain = 2.0
    pieces = (Piece(-math.inf, 0.0, 0.0), Piece(0.0, 1.0, 0.0))

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.maximum(z, 0, out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return np.greater(z, 0, out=np.empty_like(z) if out is None else out)


@dataclass(frozen=True)
class LeakyRelu(Elementwise):
    """σ(z) = z where z > 0, else αz; σ' = 1 or α. Source: Maas, Hannun & Ng, "Rectifier Nonlinearities", 2013."""

    alpha: float

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha={self.alpha}: must be in [0, 1)")

    @property
    def gain(self) -> float:  # type: ignore[override]
        """Return 2/(1 + α²) (He et al., 2015, equation (15))."""
        return 2.0 / (1.0 + self.alpha**2)

    @property
    def pieces(self) -> tuple[Piece, ...]:  # type: ignore[override]
        return (Piece(-math.inf, self.alpha, 0.0), Piece(0.0, 1.0, 0.0))

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.maximum(z, np.multiply(z, self.alpha, out=out), out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        s = np.empty_like(z) if out is None else out
        s[...] = self.alpha
        np.copyto(s, 1, where=z > 0)
        return s


@dataclass(frozen=True)
class Elu(Elementwise):
    """σ(z) = z where z > 0, else α(e^z − 1); σ' = 1 or σ + α. Source: Clevert, Unterthiner & Hochreiter, 2016."""

    kinks = (0.0,)
    linear = 1.0  # σ' above 0
    alpha: float

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"alpha={self.alpha}: must be > 0")

    @property
    def steepest(self) -> float:  # type: ignore[override]
        """Return max(1, α)."""
        return max(1.0, self.alpha)

    def value(self, z: Array, out: Array | None = None) -> Array:
        a = np.expm1(np.minimum(z, 0, out=out), out=out)
        a *= self.alpha
        np.copyto(a, z, where=z > 0)
        return a

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        s = np.add(a, self.alpha, out=out)
        np.copyto(s, 1, where=z > 0)
        return s


@dataclass(frozen=True)
class Selu(Elementwise):
    """σ(z) = λz where z > 0, else λα(e^z − 1); λ and α keep mean 0 and variance 1. σ' = λ or σ + λα.

    Source: Klambauer, Unterthiner, Mayr & Hochreiter, "Self-Normalizing Neural Networks", 2017.
    """

    kinks = (0.0,)
    LAMBDA = 1.0507009873554804934193349852946
    ALPHA = 1.6732632423543772848170429916717
    steepest = LAMBDA * ALPHA
    linear = LAMBDA  # σ' above 0

    def value(self, z: Array, out: Array | None = None) -> Array:
        a = np.expm1(np.minimum(z, 0, out=out), out=out)
        a *= self.ALPHA
        np.copyto(a, z, where=z > 0)
        a *= self.LAMBDA
        return a

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        s = np.add(a, self.LAMBDA * self.ALPHA, out=out)
        np.copyto(s, self.LAMBDA, where=z > 0)
        return s


@dataclass(frozen=True)
class Gelu(Elementwise):
    """σ(z) = z Φ(z), σ' = Φ(z) + z φ(z), with the standard normal distribution Φ and density φ.

    Source: Hendrycks & Gimpel, "Gaussian Error Linear Units", 2016 (exact form, without the tanh approximation).
    """

    steepest = 1.1289  # at z = √2
    gain = 2.0
    linear = 1.0  # σ' far above 0

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.multiply(z, _normal_distribution(z), out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        density = np.exp(np.square(z) * -0.5) * (2 * math.pi) ** -0.5
        return np.add(_normal_distribution(z), z * density, out=out)


def _normal_distribution(z: Array) -> Array:
    return (1 + erf(z * 0.5**0.5)) * 0.5


@dataclass(frozen=True)
class Silu(Elementwise):
    """σ(z) = z s(z), σ' = s + σ(1 − s), with the logistic function s.

    Source: Elfwing, Uchibe & Doya, "Sigmoid-Weighted Linear Units", 2018; "swish" in Ramachandran et al. 2017.
    """

    steepest = 1.0999  # at z = 2.3994
    gain = 2.0
    linear = 1.0  # σ' far above 0

    def value(self, z: Array, out: Array | None = None) -> Array:
        a = _logistic(z, out)
        a *= z
        return a

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        logistic = _logistic(z)
        return np.add(logistic, a * (1 - logistic), out=out)


@dataclass(frozen=True)
class Softplus(Elementwise):
    """σ(z) = ln(1 + e^z), σ' = 1/(1 + e^−z). Source: Dugas, Bengio, Bélisle, Nadeau & Garcia, 2001."""

    low = 0.0

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.logaddexp(z, 0, out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return _logistic(z, out)


@dataclass(frozen=True)
class Softsign(Elementwise):
    """σ(z) = z/(1 + |z|), σ' = (1 − |σ|)². Source: Bergstra et al., 2009; studied by Glorot & Bengio, 2010."""

    kinks = (0.0,)
    low, high = -1.0, 1.0

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.divide(z, 1 + np.abs(z), out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return np.square(np.subtract(1, np.abs(a, out=out), out=out), out=out)


@dataclass(frozen=True)
class HardTanh(Elementwise):
    """σ(z) = min(1, max(−1, z)), σ' = 1 inside (−1, 1), else 0. Source: Collobert, 2004."""

    low, high = -1.0, 1.0
    pieces = (Piece(-math.inf, 0.0, -1.0), Piece(-1.0, 1.0, 0.0), Piece(1.0, 0.0, 1.0))

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.minimum(np.maximum(z, -1, out=out), 1, out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return np.less(np.abs(z), 1, out=np.empty_like(z) if out is None else out)


@dataclass(frozen=True)
class Identity(Elementwise):
    """σ(z) = z, σ' = 1."""

    pieces = (Piece(-math.inf, 1.0, 0.0),)

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.positive(z, out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        s = np.empty_like(z) if out is None else out
        s[...] = 1
        return s


@dataclass(frozen=True)
class Softmax(Activation):
    """a_i = e^{z_i} / Σ_j e^{z_j} over the units of a layer; J_ij = ∂a_i/∂z_j = a_i (δ_ij − a_j).

    Jᵀ v = a ⊙ (v − Σ_i a_i v_i). Source: Bridle, "Probabilistic Interpretation of Feedforward Classification", 1990.
    """

    low, high = 0.0, 1.0
    normalised = True

    def value(self, z: Array, out: Array | None = None) -> Array:
        a = np.exp(z - np.maximum.reduce(z.real, axis=-2, keepdims=True), out=out)  # the shift prevents overflow
        a /= np.add.reduce(a, axis=-2, keepdims=True)
        return a

    def pull_back(self, z: Array, a: Array, dC_da: Array, out: Array | None = None) -> Array:
        weighted = np.multiply(a, dC_da, out=out)
        mean = np.add.reduce(weighted, axis=-2, keepdims=True)
        weighted -= a * mean
        return weighted

    def jacobian(self, z: Array, a: Array) -> Array:
        rows = np.swapaxes(a, -1, -2)
        return rows[..., None] * (np.eye(a.shape[-2], dtype=a.dtype) - rows[..., None, :])
