"""Draw networks for planted faults, with the overrides of their configs and the theory of their initialisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.special import digamma, polygamma

from engine import activations, initializers
from engine.activations import Elementwise
from engine.initializers import Initializer
from engine.special import erf
from engine.theory import Profile, profile

SIGMAS: dict[str, Elementwise] = {
    "sigmoid": activations.Sigmoid(),
    "tanh": activations.Tanh(),
    "relu": activations.Relu(),
    "leaky_relu": activations.LeakyRelu(0.01),
    "elu": activations.Elu(1.0),
    "selu": activations.Selu(),
    "gelu": activations.Gelu(),
    "silu": activations.Silu(),
    "softsign": activations.Softsign(),
    "hard_tanh": activations.HardTanh(),
}
FLAT = {
    "sigmoid": 4.3557,
    "tanh": 2.1847,
    "softsign": 3.4721,
    "hard_tanh": 1.0,
}  # the |z| beyond which |σ'| is below 5% of its supremum
NAMED = ("he_normal", "he_uniform", "lecun_normal", "glorot_normal", "glorot_uniform", "uniform_fan_in", "matched")
SCALED = ("gaussian_fan_in", "orthogonal", "truncated_normal", "mean_field")


@dataclass(frozen=True)
class DrawnNetwork:
    """The inputs of theory for a network, and the overrides with the same meaning.

    Attributes:
        sigma: The name of the hidden activation.
        sizes: The units of each layer, the input first.
        squares: ‖x‖² of a small, a typical and a large example.
        weights: The initialiser of the weights.
        biases: The initialiser of the biases.
        overrides: The overrides of the run's config.
        activation: The hidden activation, if its parameters are not those of its name.
    """

    sigma: str
    sizes: list[int]
    squares: tuple[float, float, float]
    weights: Initializer
    biases: Initializer
    overrides: tuple[str, ...]
    activation: Elementwise | None = None

    @property
    def hidden(self) -> int:
        """The number of hidden layers."""
        return len(self.sizes) - 2

    def profile(self, which: int = 1) -> Profile:
        """Return theory at initialisation, for a small (0), a typical (1) or a large (2) example."""
        fans = list(pairwise(self.sizes))
        sigmas = [*[self.activation or SIGMAS[self.sigma]] * self.hidden, activations.Identity()]
        weights = [self.weights.variance(m, n) for m, n in fans]
        biases = [self.biases.variance(m, n) for m, n in fans]
        with np.errstate(all="ignore"):
            return profile(self.sizes, sigmas, weights, biases, np.array([self.squares[which]]))

    def decades(self, which: int) -> tuple[float, float]:
        """Return the least and the most decades that theory expects: log10 of the last hidden δ over the first.

        The mean square changes by χ a layer. The logarithm of a typical network is lower by ln k − ψ(k) a layer, with
        k one over the relative variance of the change. The whole correction holds for one example, a part of it for a
        batch of different examples.
        """
        expected, steps = self.profile(which), self.hidden - 1
        mean = -float(np.log10(expected.chi[:steps]).sum()) / 2
        k = 1 / expected.log_variance[:steps]
        return mean, mean + float((np.log(k) - digamma(k)).sum()) / (2 * math.log(10))

    def decades_std(self) -> float:
        """Return the standard deviation of one network's decades for one example; ψ'(k) is Var ln of a change."""
        k = 1 / self.profile().log_variance[: self.hidden - 1]
        return math.sqrt(float(polygamma(1, k).sum())) / (2 * math.log(10))

    def expected(self, low: float, high: float) -> str | None:
        """Return the expected decades in words, or None if they leave the range for an example of any size."""
        decades: list[float] = []
        for which in (1, 0, 2):
            decades += self.decades(which)
            if not low <= min(decades) <= max(decades) <= high:
                return None
        return f"theory expects {min(decades):.2f} to {max(decades):.2f} decades"

    def saturation(self) -> float:
        """Return the expected share of (unit, example) pairs on the flat part of a bounded σ, in the worst layer."""
        if self.sigma not in FLAT:
            return 0.0
        reach = FLAT[self.sigma] / np.sqrt(2 * self.profile().z_mean_square[: self.hidden])
        return float(np.max(1 - erf(reach)))

    def output_rate(self) -> float:
        """Return the largest stable rate for the output layer alone while its outputs are undecided.

        It is 2/λ with λ = h (‖a‖² + 1). h is the largest curvature of the cost in z^L: ½ for softmax and
        log-likelihood, ¼ for sigmoid and cross-entropy, 1 for half the squared error.
        """
        curvature = next(
            (h for key, h in (("sigmoid", 0.25), ("identity", 1.0)) if f"activation@output={key}" in self.overrides),
            0.5,
        )
        squared = self.sizes[-2] * float(self.profile().activation_mean_square[self.hidden - 1])
        return 2 / (curvature * (squared + 1))


def pick(rng: np.random.Generator, *options: str) -> str:
    """Return one of the options."""
    return options[int(rng.integers(len(options)))]


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Return a log-uniform number with three digits."""
    return float(f"{low * (high / low) ** rng.random():.3g}")


DATA = ("digits", "gaussian_noise", "two_spirals", "iris")


def _data(rng: np.random.Generator, names: Sequence[str]) -> tuple[int, int, tuple[float, float, float], list[str]]:
    """Return inputs, classes, ‖x‖² at its 10, 50 and 90% quantiles, and overrides."""
    name = pick(rng, *names)
    if name == "gaussian_noise":
        inputs, classes, variance = int(rng.integers(10, 101)), int(rng.integers(2, 11)), between(rng, 0.3, 3)
        keys = {"examples": 250, "inputs": inputs, "classes": classes, "variance": variance}
        overrides = ["data=gaussian_noise", *(f"data.source.{k}={v}" for k, v in keys.items())]
        spread = 1.28 * math.sqrt(2 / inputs)
        low, middle, high = (inputs * variance * (1 + sign * spread) for sign in (-1, 0, 1))
        return inputs, classes, (low, middle, high), overrides
    if name == "two_spirals":
        return 2, 2, (0.34, 2.1, 3.5), ["data=two_spirals", "data.source.examples=250"]
    if name == "iris":
        return 4, 3, (0.54, 3.6, 7.3), ["data=iris", "data.subset=100"]
    return 64, 10, (31.0, 45.0, 73.0), ["data=digits", "data.subset=200"]


def _output(rng: np.random.Generator) -> list[str]:
    return [
        [],
        ["activation@output=sigmoid", "cost=cross_entropy"],
        ["activation@output=identity", "cost=half_squared_error"],
    ][int(rng.choice(3, p=[0.6, 0.2, 0.2]))]


def _widths(rng: np.random.Generator, depth: int) -> tuple[list[int], list[str]]:
    """Return hidden widths and overrides. The widths differ in a fifth of the networks."""
    if rng.random() < 0.8:
        width = round(between(rng, 16, 100))
        return [width] * depth, ["architecture=deep", f"architecture.depth={depth}", f"architecture.width={width}"]
    middle = between(rng, 25, 64)
    widths = [round(middle * 1.5 ** (2 * rng.random() - 1)) for _ in range(depth)]
    return widths, ["architecture=mlp", f"architecture.hidden=[{','.join(map(str, widths))}]"]


def _init(
    rng: np.random.Generator, sigma: str, widths: list[int], low: float, high: float
) -> tuple[Initializer, Initializer, list[str]]:
    """Return an initialisation by name, or one with σ_w² between low and high."""
    zero: Initializer = initializers.Constant(0.0)
    if rng.random() < 0.4:
        name = pick(rng, *NAMED, "nielsen")
        by_name: dict[str, Initializer] = {
            "he_normal": initializers.HeNormal(),
            "he_uniform": initializers.HeUniform(),
            "lecun_normal": initializers.LecunNormal(),
            "glorot_normal": initializers.GlorotNormal(),
            "glorot_uniform": initializers.GlorotUniform(),
            "uniform_fan_in": initializers.UniformFanIn(),
            "matched": initializers.Matched(SIGMAS[sigma]),
            "nielsen": initializers.GaussianFanIn(1.0),
        }
        return by_name[name], initializers.Gaussian(1.0) if name == "nielsen" else zero, [f"init={name}"]
    name, variance = pick(rng, *SCALED), between(rng, low, high)
    root = float(f"{math.sqrt(variance):.4g}")
    if name == "gaussian_fan_in":
        return initializers.GaussianFanIn(root), zero, ["init=gaussian_fan_in", f"init.weights.std={root}"]
    if name == "orthogonal":
        return initializers.Orthogonal(root), zero, ["init=orthogonal", f"init.weights.gain={root}"]
    if name == "truncated_normal":
        std = float(f"{root / math.sqrt(0.774 * float(np.mean(widths))):.4g}")
        return initializers.TruncatedNormal(std, 2.0), zero, ["init=truncated_normal", f"init.weights.std={std}"]
    bias = between(rng, 0.01, 0.3)
    keys = ["init=mean_field", f"init.weights.sigma_w2={variance}", f"init.biases.sigma_b2={bias}"]
    return initializers.MeanFieldWeights(variance), initializers.MeanFieldBiases(bias), keys


def draw_network(
    rng: np.random.Generator, sigma: str, low: float, high: float, deepest: int = 20, data: Sequence[str] = DATA
) -> DrawnNetwork:
    """Return a network with this σ, and σ_w² between low and high if its initialiser has a scale.

    Args:
        rng: The source of randomness.
        sigma: Name of the hidden activation.
        low: The smallest σ_w².
        high: The largest.
        deepest: The most hidden layers.
        data: The data sets to choose from.
    """
    inputs, outputs, squares, data_keys = _data(rng, data)
    widths, width_keys = _widths(rng, int(rng.integers(3, deepest + 1)))
    weights, biases, init_keys = _init(rng, sigma, widths, low, high)
    kind = ["dtype=float32"] if rng.random() < 0.1 else []
    keys = (*data_keys, *width_keys, f"activation={sigma}", *_output(rng), *init_keys, *kind)
    return DrawnNetwork(sigma, [inputs, *widths, outputs], squares, weights, biases, keys)
