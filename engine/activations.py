"""Activation functions a = σ(z) and their derivatives, side by side.

Two kinds. An :class:`Elementwise` σ acts on each unit alone, so its Jacobian ∂a/∂z is diagonal and all that is needed
is σ'(z). :class:`Softmax` couples the units of a layer; its Jacobian is full. Both answer the same question in the
backward pass: given ∂C/∂a, what is ∂C/∂z = Jᵀ ∂C/∂a (:meth:`Activation.pull_back`)?

To add one, derive from :class:`Elementwise`, write ``value`` and ``derivative``, and let
:func:`engine.testing.check_activation` compare the two.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from engine.arrays import Array, Operation, constant, do, extent, summation_of_columns, zero_for
from engine.special import erf


class Piece(NamedTuple):
    """A straight piece of a function: slope · x + offset from ``left`` to the next piece."""

    left: float
    slope: float
    offset: float


def put(function: Callable[..., Array], *args: Array, out: Array) -> Operation:
    """What puts function(*args, out=out) into ``out``, also where it is an array of its own that a user's returns."""
    code = getattr(function, "__func__", function)
    if getattr(code, "__globals__", None) is globals():  # ours write there: no need to look
        return partial(function, *args, out)
    find = partial(function, *args, out=out)
    return lambda: fill(out, find())


def fill(out: Array, found: Array) -> None:
    """Copy what was found, if it is not there already."""
    if found is not out:
        out[...] = found


def done(prepare: Callable[..., Sequence[Operation]], *args: Array, out: Array | None) -> Array:
    """What the operations that ``prepare(*args, out)`` makes ready leave in ``out``, done at once."""
    if out is None:
        out = np.empty(np.shape(args[0]), np.result_type(args[0]))
    do(prepare(*args, out))
    return out


def _overrides(cls: type, plain: str, ready: str) -> bool:
    """Whether this class has its ``plain`` method from nearer by than the ``ready`` one, which then is another σ's."""
    first = next((each for each in cls.__mro__ if plain in vars(each) or ready in vars(each)), None)
    return first is not None and ready not in vars(first)


class Activation(ABC):
    """a = σ(z) on a layer: z and a are [E..., n, B]; of a stack of one perhaps [n, B], so count axes from the end.

    Attributes:
        low, high: bounds of the values σ can take (closed).
        normalised: whether the values of a layer sum to one.
        elementwise: whether each unit is on its own: :class:`Elementwise`.
        switches: whether σ' is 0 or 1 everywhere, so that its sum counts the units that are on; False where in doubt.
        steepest: sup |σ'(z)|; the scale against which a unit counts as saturated.
        linear: |σ'| where σ is all but a straight line: at 0 for sigmoids, far out for rectifiers.
        gain: the σ_w² = fan_in · Var[W] that the literature pairs with σ (2 for rectifiers, He et al. 2015; else 1).
    """

    low: ClassVar[float] = -math.inf
    high: ClassVar[float] = math.inf
    normalised: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False
    switches: ClassVar[bool] = False
    steepest: float = 1.0
    gain: float = 1.0

    @property
    def linear(self) -> float:
        """See above."""
        return self.steepest

    @abstractmethod
    def value(self, z: Array, out: Array | None = None) -> Array:
        """a = σ(z), written into ``out`` when given; shape of z."""

    def prepare(self, z: Array, a: Array) -> Sequence[Operation]:
        """What puts σ(z) into ``a``, made ready to be done again and again on the same arrays.

        A call takes longer than the numbers of a small layer. Who has a faster way than calling ``value`` overrides
        both; whoever overrides ``value`` alone gets this one back.
        """
        return [put(self.value, z, out=a)]

    def __init_subclass__(cls) -> None:
        """What a class has ready does not hold for another ``value`` that is derived from it."""
        super().__init_subclass__()
        if _overrides(cls, "value", "prepare"):
            setattr(cls, "prepare", Activation.prepare)  # noqa: B010 (a method, which mypy lets nobody assign to)

    @abstractmethod
    def pull_back(self, z: Array, a: Array, dC_da: Array, out: Array | None = None) -> Array:
        """∂C/∂z = Jᵀ ∂C/∂a with J = ∂a/∂z; all [E..., n, B]. ``out`` must not be ``dC_da``."""

    @abstractmethod
    def jacobian(self, z: Array, a: Array) -> Array:
        """J = ∂a/∂z of every example: [E..., B, n, n], entry (i, j) = ∂a_i/∂z_j."""


class Elementwise(Activation):
    """An activation that acts on each unit alone: J = diag σ'(z).

    So ``value`` and ``derivative`` may be called with arrays of any shape.

    Attributes:
        monotonic: whether σ' >= 0 everywhere; False where in doubt.
        kinks: where σ or its derivatives jump, if anywhere; quadrature cuts there.
        pieces: of a piecewise linear σ, from left to right (left end, slope, offset); theory is then in closed form.
    """

    elementwise: ClassVar[bool] = True
    monotonic: ClassVar[bool] = False
    kinks: ClassVar[tuple[float, ...]] = ()

    def __init_subclass__(cls) -> None:
        """What a class says of its σ', or has ready, does not hold for another one that is derived from it."""
        super().__init_subclass__()
        if _overrides(cls, "derivative", "prepare_derivative"):
            setattr(cls, "prepare_derivative", Elementwise.prepare_derivative)  # noqa: B010
        if "derivative" in cls.__dict__:
            for name in ("switches", "monotonic"):
                if name not in cls.__dict__:
                    setattr(cls, name, False)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """See above."""
        return ()

    @abstractmethod
    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        """σ'(z), given z and a = σ(z) (use whichever is cheaper); shape of z."""

    def prepare_derivative(self, z: Array, a: Array, slope: Array) -> Sequence[Operation]:
        """What puts σ'(z) into ``slope``, made ready: see :meth:`Activation.prepare`."""
        return [put(self.derivative, z, a, out=slope)]

    def pull_back(self, z: Array, a: Array, dC_da: Array, out: Array | None = None) -> Array:
        """∂C/∂z = ∂C/∂a ⊙ σ'(z)."""
        return np.multiply(self.derivative(z, a, out=out), dC_da, out=out)

    def jacobian(self, z: Array, a: Array) -> Array:
        """The diagonal matrices diag σ'(z): [E..., B, n, n]."""
        slopes = np.swapaxes(self.derivative(z, a), -1, -2)
        return slopes[..., None] * np.eye(z.shape[-2], dtype=slopes.dtype)


@dataclass(frozen=True)
class Sigmoid(Elementwise):
    """σ(z) = 1/(1 + e^−z), σ' = σ(1 − σ) ≤ ¼. Source: the derivation, last section.

    For z < −709 (float64) e^−z is infinite and the value is 0, as it should be.
    """

    monotonic: ClassVar[bool] = True
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0
    steepest = 0.25

    def value(self, z: Array, out: Array | None = None) -> Array:
        return _logistic(z, out)

    def prepare(self, z: Array, a: Array) -> Sequence[Operation]:
        one = constant(1, a.dtype)
        return [
            partial(np.negative, z, a),
            partial(np.exp, a, a),
            partial(np.add, a, one, a),
            partial(np.reciprocal, a, a),
        ]

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return done(partial(Sigmoid.prepare_derivative, self), z, a, out=out)

    def prepare_derivative(self, z: Array, a: Array, slope: Array) -> Sequence[Operation]:
        one = constant(1, a.dtype)
        return [partial(np.subtract, one, a, slope), partial(np.multiply, slope, a, slope)]


def _logistic(z: Array, out: Array | None = None) -> Array:
    return done(partial(Sigmoid.prepare, Sigmoid()), z, out=out)


@dataclass(frozen=True)
class Tanh(Elementwise):
    """σ(z) = tanh z, σ' = 1 − σ² ≤ 1."""

    monotonic: ClassVar[bool] = True
    low: ClassVar[float] = -1.0
    high: ClassVar[float] = 1.0

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.tanh(z, out=out)

    def prepare(self, z: Array, a: Array) -> Sequence[Operation]:
        return [partial(np.tanh, z, a)]

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return done(partial(Tanh.prepare_derivative, self), z, a, out=out)

    def prepare_derivative(self, z: Array, a: Array, slope: Array) -> Sequence[Operation]:
        return [partial(np.multiply, a, a, slope), partial(np.subtract, constant(1, a.dtype), slope, slope)]


@dataclass(frozen=True)
class Relu(Elementwise):
    """σ(z) = max(0, z), σ' = 1 where z > 0, else 0. Source: Nair & Hinton, "Rectified Linear Units", 2010."""

    monotonic: ClassVar[bool] = True
    switches: ClassVar[bool] = True
    low: ClassVar[float] = 0.0
    gain = 2.0

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Straight pieces."""
        return (Piece(-math.inf, 0.0, 0.0), Piece(0.0, 1.0, 0.0))

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.maximum(z, zero_for(z), out=out)

    def prepare(self, z: Array, a: Array) -> Sequence[Operation]:
        return [partial(np.maximum, z, zero_for(z), out=a)]

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return done(partial(Relu.prepare_derivative, self), z, a, out=out)

    def prepare_derivative(self, z: Array, a: Array, slope: Array) -> Sequence[Operation]:
        return [partial(np.greater, z, constant(0, z.dtype), slope)]


@dataclass(frozen=True)
class LeakyRelu(Elementwise):
    """σ(z) = z where z > 0, else αz; σ' = 1 or α. Source: Maas, Hannun & Ng, "Rectifier Nonlinearities", 2013."""

    monotonic: ClassVar[bool] = True

    alpha: float

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha={self.alpha}: must be in [0, 1)")

    @property
    def gain(self) -> float:  # type: ignore[override]
        """2/(1 + α²): He et al. 2015, equation (15)."""
        return 2.0 / (1.0 + self.alpha**2)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Straight pieces."""
        return (Piece(-math.inf, self.alpha, 0.0), Piece(0.0, 1.0, 0.0))

    def value(self, z: Array, out: Array | None = None) -> Array:
        a = np.multiply(z, self.alpha, out=out)
        return np.maximum(z, a, out=a)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        s = np.empty_like(z) if out is None else out
        s[...] = self.alpha
        np.copyto(s, 1, where=z > 0)
        return s


@dataclass(frozen=True)
class Elu(Elementwise):
    """σ(z) = z where z > 0, else α(e^z − 1); σ' = 1 or σ + α. Source: Clevert, Unterthiner & Hochreiter, 2016."""

    kinks: ClassVar[tuple[float, ...]] = (0.0,)
    monotonic: ClassVar[bool] = True

    alpha: float

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"alpha={self.alpha}: must be > 0")

    @property
    def steepest(self) -> float:  # type: ignore[override]
        """max(1, α)."""
        return max(1.0, self.alpha)

    @property
    def linear(self) -> float:
        """The slope above 0."""
        return 1.0

    def value(self, z: Array, out: Array | None = None) -> Array:
        a = np.minimum(z, 0, out=out)
        np.expm1(a, out=a)
        a *= self.alpha
        np.copyto(a, z, where=z > 0)
        return a

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        s = np.add(a, self.alpha, out=out)
        np.copyto(s, 1, where=z > 0)
        return s


@dataclass(frozen=True)
class Selu(Elementwise):
    """σ(z) = λz where z > 0, else λα(e^z − 1), with the λ, α that fix mean 0 and variance 1.

    Source: Klambauer, Unterthiner, Mayr & Hochreiter, "Self-Normalizing Neural Networks", 2017.
    """

    kinks: ClassVar[tuple[float, ...]] = (0.0,)
    monotonic: ClassVar[bool] = True
    LAMBDA: ClassVar[float] = 1.0507009873554804934193349852946
    ALPHA: ClassVar[float] = 1.6732632423543772848170429916717
    steepest = LAMBDA * ALPHA

    @property
    def linear(self) -> float:
        """The slope above 0."""
        return self.LAMBDA

    def value(self, z: Array, out: Array | None = None) -> Array:
        a = np.minimum(z, 0, out=out)
        np.expm1(a, out=a)
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
    """σ(z) = z Φ(z), σ' = Φ(z) + z φ(z), with Φ, φ the normal distribution and density.

    Source: Hendrycks & Gimpel, "Gaussian Error Linear Units", 2016 (the exact form, not the tanh approximation).
    """

    steepest = 1.1289  # at z = √2
    gain = 2.0

    @property
    def linear(self) -> float:
        """Far above 0 it is the identity."""
        return 1.0

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.multiply(z, self._distribution(z), out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        s = np.multiply(z, z, out=out)
        s *= -0.5
        np.exp(s, out=s)
        s *= z
        s *= (2 * math.pi) ** -0.5
        s += self._distribution(z)
        return s

    @staticmethod
    def _distribution(z: Array) -> Array:
        p = erf(z * 0.5**0.5)
        p += 1
        p *= 0.5
        return p


@dataclass(frozen=True)
class Silu(Elementwise):
    """σ(z) = z s(z), σ' = s + σ(1 − s), with s the logistic function.

    Source: Elfwing, Uchibe & Doya, "Sigmoid-Weighted Linear Units", 2018; "swish" in Ramachandran et al. 2017.
    """

    steepest = 1.0999  # at z = 2.3994
    gain = 2.0

    @property
    def linear(self) -> float:
        """Far above 0 it is the identity."""
        return 1.0

    def value(self, z: Array, out: Array | None = None) -> Array:
        a = _logistic(z, out)
        a *= z
        return a

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        logistic = _logistic(z)
        s = np.subtract(1, logistic, out=out)
        s *= a
        s += logistic
        return s


@dataclass(frozen=True)
class Softplus(Elementwise):
    """σ(z) = ln(1 + e^z), σ' = 1/(1 + e^−z). Source: Dugas et al., 2001."""

    monotonic: ClassVar[bool] = True
    low: ClassVar[float] = 0.0

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.logaddexp(z, 0, out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return _logistic(z, out)


@dataclass(frozen=True)
class Softsign(Elementwise):
    """σ(z) = z/(1 + |z|), σ' = (1 − |σ|)². Source: Bergstra et al., 2009; studied by Glorot & Bengio, 2010."""

    kinks: ClassVar[tuple[float, ...]] = (0.0,)
    monotonic: ClassVar[bool] = True
    low: ClassVar[float] = -1.0
    high: ClassVar[float] = 1.0

    def value(self, z: Array, out: Array | None = None) -> Array:
        a = np.abs(z, out=out)
        a += 1
        return np.divide(z, a, out=a)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        s = np.abs(a, out=out)
        np.subtract(1, s, out=s)
        s *= s
        return s


@dataclass(frozen=True)
class HardTanh(Elementwise):
    """σ(z) = min(1, max(−1, z)), σ' = 1 inside (−1, 1), else 0. Source: Collobert, 2004."""

    monotonic: ClassVar[bool] = True
    switches: ClassVar[bool] = True
    low: ClassVar[float] = -1.0
    high: ClassVar[float] = 1.0

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Straight pieces."""
        return (Piece(-math.inf, 0.0, -1.0), Piece(-1.0, 1.0, 0.0), Piece(1.0, 0.0, 1.0))

    def value(self, z: Array, out: Array | None = None) -> Array:
        a = np.maximum(z, -1, out=out)
        return np.minimum(a, 1, out=a)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        s = np.empty_like(z) if out is None else out
        np.less(np.abs(z), 1, out=s)
        return s


@dataclass(frozen=True)
class Identity(Elementwise):
    """σ(z) = z, σ' = 1: linear networks."""

    monotonic: ClassVar[bool] = True
    switches: ClassVar[bool] = True

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Straight pieces."""
        return (Piece(-math.inf, 1.0, 0.0),)

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.positive(z, out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        s = np.empty_like(z) if out is None else out
        s[...] = 1
        return s


@lru_cache(maxsize=16)
def _sound(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Between which bounds of Σ_i e^{z_i} no term of it that matters has over- or underflown."""
    info = np.finfo(dtype)
    return max(2.0**-10, float(info.tiny / info.eps**2)), 2.0 ** min(info.maxexp - 8, 1000)


def _shift(z: Array, a: Array, sums: Array) -> None:
    """Put e^{z − max z} in place of a = e^z, and their sum, in the columns where the latter's is not sound."""
    least, most = _sound(a.dtype)
    lowest, highest = extent(sums.real)
    if lowest >= least and highest <= most:
        return
    unsound = ~((sums.real >= least) & (sums.real <= most))
    shifted = np.exp(z - np.maximum.reduce(z, axis=-2, keepdims=True))
    of_columns = np.empty_like(sums)
    summation_of_columns(shifted, of_columns)()
    np.copyto(sums, of_columns, where=unsound)
    np.copyto(a, shifted, where=unsound[..., None, :])


@dataclass(frozen=True)
class Softmax(Activation):
    """a_i = e^{z_i} / Σ_j e^{z_j} over the units of a layer; ∂a_i/∂z_j = a_i (δ_ij − a_j), not diagonal.

    Jᵀ v = a ⊙ (v − Σ_i a_i v_i). Source: Bridle, "Probabilistic Interpretation of Feedforward Classification", 1990.
    """

    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0
    normalised: ClassVar[bool] = True

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def value(self, z: Array, out: Array | None = None) -> Array:
        return done(partial(Softmax.prepare, self), z, out=out)

    def prepare(self, z: Array, a: Array) -> Sequence[Operation]:
        sums = np.empty((*z.shape[:-2], z.shape[-1]), a.dtype)
        return [
            partial(np.exp, z, a),
            summation_of_columns(a, sums),
            partial(_shift, z, a, sums),
            partial(np.divide, a, sums[..., None, :], a),
        ]

    def pull_back(self, z: Array, a: Array, dC_da: Array, out: Array | None = None) -> Array:
        weighted = np.multiply(a, dC_da, out=out)
        mean = np.add.reduce(weighted, axis=-2, keepdims=True)
        weighted -= a * mean
        return weighted

    def jacobian(self, z: Array, a: Array) -> Array:
        rows = np.swapaxes(a, -1, -2)
        return rows[..., None] * (np.eye(a.shape[-2], dtype=a.dtype) - rows[..., None, :])
