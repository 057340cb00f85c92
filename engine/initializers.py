"""Distributions of initial weights and biases; their variances are inputs of mean-field theory.

``sample`` always draws in float64, so float32 and float64 runs start from the same numbers.
fan_in = m and fan_out = n of a layer with W [n, m] apply to its biases b [n, 1] too.
A value outside its range raises ValueError.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engine.activations import Activation
from engine.arrays import Array
from engine.network import Network


@dataclass(frozen=True)
class ParameterShape:
    """Parameter to draw: number of its layer, shape of W [n, m] or b [n, 1], and fans of the layer."""

    layer: int
    shape: tuple[int, int]
    fan_in: int
    fan_out: int


class Initializer(ABC):
    """Distribution over matrices [n, k] with independent (or rotation-invariant) entries.

    Attributes:
        random: Whether entries are random, as opposed to fixed numbers.
    """

    random: ClassVar[bool] = True

    @abstractmethod
    def variance(self, fan_in: int, fan_out: int) -> float:
        """Return the mean square of an entry, which is its variance if it is centred."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, parameter: ParameterShape) -> Array:
        """Draw one float64 matrix [n, k]."""


LARGEST = 1e150  # its square is finite


def _positive(name: str, value: float, allow_zero: bool = False) -> None:
    if not (value > 0 or (allow_zero and value == 0)) or value > LARGEST:
        raise ValueError(f"{name}={value}: must be {'>= 0' if allow_zero else '> 0'} and finite (at most {LARGEST:g})")


class _Normal(Initializer):
    """N(0, variance)."""

    def sample(self, rng: np.random.Generator, parameter: ParameterShape) -> Array:
        return rng.standard_normal(parameter.shape) * math.sqrt(self.variance(parameter.fan_in, parameter.fan_out))


class _Uniform(Initializer):
    """U(−r, r) with r = √(3 variance)."""

    def sample(self, rng: np.random.Generator, parameter: ParameterShape) -> Array:
        return (2 * rng.random(parameter.shape) - 1) * math.sqrt(3 * self.variance(parameter.fan_in, parameter.fan_out))


@dataclass(frozen=True)
class Gaussian(_Normal):
    """N(0, s²)."""

    std: float

    def __post_init__(self) -> None:
        _positive("std", self.std, allow_zero=True)

    def variance(self, fan_in: int, fan_out: int) -> float:
        return self.std**2


@dataclass(frozen=True)
class GaussianFanIn(_Normal):
    """N(0, s²/fan_in); s = 1 is the initialisation of LeCun et al., 1998, and of Nielsen, 2015, chapter 3."""

    std: float

    def __post_init__(self) -> None:
        _positive("std", self.std, allow_zero=True)

    def variance(self, fan_in: int, fan_out: int) -> float:
        return self.std**2 / fan_in


@dataclass(frozen=True)
class UniformFanIn(_Uniform):
    """U(±1/√fan_in), variance 1/(3 fan_in). Source: Glorot & Bengio, 2010, equation (1), "standard"."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 1 / (3 * fan_in)


@dataclass(frozen=True)
class GlorotNormal(_Normal):
    """N(0, 2/(fan_in + fan_out)). Source: Glorot & Bengio, "Understanding the difficulty of training ...", 2010."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 2 / (fan_in + fan_out)


@dataclass(frozen=True)
class GlorotUniform(_Uniform):
    """U(±√(6/(fan_in + fan_out))). Source: Glorot & Bengio, 2010, equation (16)."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 2 / (fan_in + fan_out)


@dataclass(frozen=True)
class HeNormal(_Normal):
    """N(0, 2/fan_in). Source: He, Zhang, Ren & Sun, "Delving Deep into Rectifiers", 2015, equation (10)."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 2 / fan_in


@dataclass(frozen=True)
class HeUniform(_Uniform):
    """U(±√(6/fan_in)), variance 2/fan_in. Source: He et al., 2015."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 2 / fan_in


@dataclass(frozen=True)
class LecunNormal(_Normal):
    """N(0, 1/fan_in). Source: LeCun, Bottou, Orr & Müller, "Efficient BackProp", 1998, section 4.6."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 1 / fan_in


@dataclass(frozen=True)
class Matched(_Normal):
    """N(0, g/fan_in) with g = :attr:`engine.activations.Activation.gain`: He for rectifiers, LeCun otherwise."""

    activation: Activation

    def variance(self, fan_in: int, fan_out: int) -> float:
        return self.activation.gain / fan_in


@dataclass(frozen=True)
class MeanFieldWeights(_Normal):
    """N(0, σ_w²/fan_in). Source: Poole et al., "Exponential expressivity in deep neural networks", 2016."""

    sigma_w2: float

    def __post_init__(self) -> None:
        _positive("sigma_w2", self.sigma_w2)

    def variance(self, fan_in: int, fan_out: int) -> float:
        return self.sigma_w2 / fan_in


@dataclass(frozen=True)
class MeanFieldBiases(_Normal):
    """N(0, σ_b²) for any fan. Source: Poole et al., 2016."""

    sigma_b2: float

    def __post_init__(self) -> None:
        _positive("sigma_b2", self.sigma_b2, allow_zero=True)

    def variance(self, fan_in: int, fan_out: int) -> float:
        return self.sigma_b2


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """g·Q with uniformly distributed Q, QᵀQ = 1 (or QQᵀ = 1 if n < m); mean square g²/max(n, m).

    Sources: Saxe, McClelland & Ganguli, 2014; Mezzadri, 2007, for the signs that make Q uniform.
    """

    gain: float

    def __post_init__(self) -> None:
        _positive("gain", self.gain)

    def variance(self, fan_in: int, fan_out: int) -> float:
        return self.gain**2 / max(fan_in, fan_out)

    def sample(self, rng: np.random.Generator, parameter: ParameterShape) -> Array:
        n, m = parameter.shape
        q, r = np.linalg.qr(rng.standard_normal((max(n, m), min(n, m))))
        q = q * np.sign(np.diagonal(r))
        return self.gain * (q if n >= m else q.T)


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """N(0, s²) conditioned on |w| ≤ c·s, by rejection; variance s²·(1 − 2cφ(c)/(2Φ(c) − 1))."""

    std: float
    cut: float

    def __post_init__(self) -> None:
        _positive("std", self.std)
        if not self.cut >= 0.1:
            raise ValueError(f"cut={self.cut}: must be >= 0.1 standard deviations")

    def variance(self, fan_in: int, fan_out: int) -> float:
        density = math.exp(-(self.cut**2) / 2) / math.sqrt(2 * math.pi)
        return self.std**2 * (1 - 2 * self.cut * density / math.erf(self.cut / math.sqrt(2)))

    def sample(self, rng: np.random.Generator, parameter: ParameterShape) -> Array:
        draw = rng.standard_normal(parameter.shape)
        while (outside := np.abs(draw) > self.cut).any():
            draw[outside] = rng.standard_normal(int(outside.sum()))
        return self.std * draw


@dataclass(frozen=True)
class Constant(Initializer):
    """The same value for every entry."""

    value: float
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not abs(self.value) <= LARGEST:
            raise ValueError(f"value={self.value}: must be finite (at most {LARGEST:g} in magnitude)")

    def variance(self, fan_in: int, fan_out: int) -> float:
        return self.value**2

    def sample(self, rng: np.random.Generator, parameter: ParameterShape) -> Array:
        return np.full(parameter.shape, self.value)


@dataclass(frozen=True)
class Given(Initializer):
    """Fixed values: one matrix per layer, each a list of rows, as in the worked examples of the derivation."""

    random: ClassVar[bool] = False
    values: Sequence[Sequence[Sequence[float]]]

    def variance(self, fan_in: int, fan_out: int) -> float:
        """Return NaN: fixed numbers have no distribution."""
        return math.nan

    def sample(self, rng: np.random.Generator, parameter: ParameterShape) -> Array:
        """Return the matrix of the parameter's layer.

        Raises:
            ValueError: If the layer has no matrix, or its matrix has another shape.
        """
        if parameter.layer > len(self.values):
            raise ValueError(f"values: holds {len(self.values)} matrices, the network has a layer {parameter.layer}")
        try:
            matrix = np.array(self.values[parameter.layer - 1], dtype=np.float64)
        except ValueError as ragged:
            raise ValueError(f"values[{parameter.layer - 1}]: rows must have equal lengths") from ragged
        if matrix.shape != parameter.shape:
            raise ValueError(
                f"values[{parameter.layer - 1}]: shape {matrix.shape}; layer {parameter.layer} needs {parameter.shape}"
            )
        return matrix


def initialize(
    network: Network,
    weights: Initializer | Sequence[Initializer],
    biases: Initializer | Sequence[Initializer],
    rngs: Sequence[np.random.Generator],
) -> None:
    """Draw W and then b of every layer, from input to output.

    Args:
        network: Network whose parameters are overwritten.
        weights: Initialiser of W, one for all members or one per member.
        biases: Initialiser of b, one for all members or one per member.
        rngs: One generator per member of the stack; it draws all numbers of that member.

    Raises:
        ValueError: If the counts do not match the members, or fixed values do not fit the network.
    """
    members = list(np.ndindex(network.ensemble))
    weight_draws, bias_draws = (
        [draw] * len(members) if isinstance(draw, Initializer) else list(draw) for draw in (weights, biases)
    )
    for name, items in (("rngs", rngs), ("weights", weight_draws), ("biases", bias_draws)):
        if len(items) != len(members):
            raise ValueError(f"{name}: {len(items)} for {len(members)} networks; must be one per network")
    for k, member in enumerate(members):
        for layer in network.layers:
            n, m = layer.n_out, layer.n_in
            layer.W[member] = weight_draws[k].sample(rngs[k], ParameterShape(layer.number, (n, m), fan_in=m, fan_out=n))
            layer.b[member] = bias_draws[k].sample(rngs[k], ParameterShape(layer.number, (n, 1), fan_in=m, fan_out=n))
