"""Small networks of which it is known beforehand what is wrong with them.

What is planted follows from theory (wide-network mean-field theory with its first correction for finite width), from
arithmetic (numbers that must overflow), or from the curvature of the cost at the start, never from what the verdict
reads. Each network is a list of overrides, drawn from a seed and its number alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from engine import activations, initializers
from engine.activations import Elementwise
from engine.arrays import Array
from engine.initializers import Initializer, ParameterShape
from engine.probes import Sharpness
from engine.special import erf
from engine.theory import Profile, profile
from pipeline.analysis.verdict import DEATH, DIVERGED, EXPLODING, HEALTHY, SATURATION, TOO_HIGH, TOO_LOW, VANISHING
from pipeline.config.compose import compose_run
from pipeline.config.schema import build
from pipeline.training.loop import train
from pipeline.training.prepare import prepare_run

CYCLE = {HEALTHY: 20, VANISHING: 6, EXPLODING: 6, DEATH: 5, DIVERGED: 5, SATURATION: 2, TOO_HIGH: 2, TOO_LOW: 2}
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
}  # |z| beyond which |σ'| < 5% of its sup
UNBOUNDED = ("relu", "leaky_relu", "elu", "selu", "gelu", "silu")
NAMED = ("he_normal", "he_uniform", "lecun_normal", "glorot_normal", "glorot_uniform", "uniform_fan_in", "matched")
SCALED = ("gaussian_fan_in", "orthogonal", "truncated_normal", "mean_field")
PLAIN, FAR = 0.4, 1.5  # decades that theory must expect of a healthy net at most, of a faulty one at least
TRIES = 5000

Found = tuple[list[str], str]  # overrides, and how the condition is known


@dataclass(frozen=True)
class Planted:
    """A network with a known condition.

    Attributes:
        number: of the network; with the seed it fixes everything.
        kind: the class that the verdict should name.
        overrides: of the run's config.
        why: how the condition is known.
    """

    number: int
    kind: str
    overrides: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class OneLayer(Initializer):
    """Biases ``value`` for a share of one layer's units (the first of them, rounded up), 0 elsewhere."""

    value: float
    layer: int
    share: float

    def variance(self, fan_in: int, fan_out: int) -> float:
        """NaN: it differs from layer to layer."""
        return math.nan

    def sample(self, rng: np.random.Generator, place: ParameterShape) -> Array:
        """The biases."""
        found = np.zeros(place.shape)
        if place.layer == self.layer:
            found[: math.ceil(self.share * len(found))] = self.value
        return found


@dataclass(frozen=True)
class _Net:
    """What theory needs to know of a network, and the overrides that say the same."""

    sigma: str
    sizes: list[int]
    squares: tuple[float, float, float]  # ‖x‖² of a small, a typical and a large example
    weights: Initializer
    biases: Initializer
    overrides: tuple[str, ...]

    @property
    def hidden(self) -> int:
        return len(self.sizes) - 2

    def profile(self, which: int = 1) -> Profile:
        """Theory of its start, for a small (0), a typical (1) or a large (2) example."""
        fans = list(pairwise(self.sizes))
        sigmas = [*[SIGMAS[self.sigma]] * self.hidden, activations.Identity()]
        weights = [self.weights.variance(m, n) for m, n in fans]
        biases = [self.biases.variance(m, n) for m, n in fans]
        with np.errstate(all="ignore"):
            return profile(self.sizes, sigmas, weights, biases, np.array([self.squares[which]]))

    def decades(self, which: int) -> tuple[float, float]:
        """log10 of δ in the last hidden layer over the first that theory expects of one network, least and most.

        The mean square changes by χ a layer; a typical network's falls short of it by half the variance of its
        logarithm. For one example that is the whole of it, for a batch whose examples differ it is less.
        """
        found, steps = self.profile(which), self.hidden - 1
        mean = -float(np.log10(found.chi[:steps]).sum()) / 2
        return mean, mean + float(found.log_variance[:steps].sum()) / (4 * math.log(10))

    def expected(self, low: float, high: float) -> str | None:
        """What theory expects, in words, if that is between low and high for examples of any size; else None."""
        found: list[float] = []
        for which in (1, 0, 2):
            found += self.decades(which)
            if not low <= min(found) <= max(found) <= high:
                return None
        return f"theory expects {min(found):.2f} to {max(found):.2f} decades"

    def saturation(self) -> float:
        """Share of (unit, example) pairs in the worst layer that theory expects on the flat part of a bounded σ."""
        if self.sigma not in FLAT:
            return 0.0
        reach = FLAT[self.sigma] / np.sqrt(2 * self.profile().z_mean_square[: self.hidden])
        return float(np.max(1 - erf(reach)))

    def output_rate(self) -> float:
        """The largest stable rate for the output layer alone while its outputs are undecided.

        2/λ with λ = h (‖a‖² + 1), h the largest curvature of the cost in z^L: ½ of softmax and log-likelihood, ¼ of
        sigmoid and cross-entropy, 1 of half the squared error.
        """
        curvature = next(
            (h for key, h in (("sigmoid", 0.25), ("identity", 1.0)) if f"activation@output={key}" in self.overrides),
            0.5,
        )
        squared = self.sizes[-2] * float(self.profile().activation_mean_square[self.hidden - 1])
        return 2 / (curvature * (squared + 1))


def generate(count: int, seed: int = 0) -> Iterator[Planted]:
    """The first ``count`` networks; kinds take turns, so any beginning has its share of each."""
    turns = sorted((i / n, kind) for kind, n in CYCLE.items() for i in range(n))
    for number in range(count):
        kind = turns[number % len(turns)][1]
        yield plant(kind, number, seed)


def plant(kind: str, number: int, seed: int = 0) -> Planted:
    """Network ``number``, with this condition."""
    rng = np.random.default_rng([seed, number])
    common = [f"replicates={int(rng.integers(3, 6))}", f"seed={int(rng.integers(1_000_000))}"]
    overrides, why = _PLANTERS[kind](rng, common)
    return Planted(number, kind, (*overrides, *common), why)


def _pick(rng: np.random.Generator, *options: str) -> str:
    return options[int(rng.integers(len(options)))]


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Log-uniform, three digits."""
    return float(f"{low * (high / low) ** rng.random():.3g}")


def _data(rng: np.random.Generator) -> tuple[int, int, tuple[float, float, float], list[str]]:
    """Inputs, classes, ‖x‖² at its 10, 50 and 90% quantiles, overrides."""
    name = _pick(rng, "digits", "gaussian_noise", "two_spirals", "iris")
    if name == "gaussian_noise":
        inputs, classes, variance = int(rng.integers(10, 101)), int(rng.integers(2, 11)), _between(rng, 0.3, 3)
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
    """All alike, or in a fifth of the networks each its own."""
    if rng.random() < 0.8:
        width = round(_between(rng, 16, 100))
        return [width] * depth, ["architecture=deep", f"architecture.depth={depth}", f"architecture.width={width}"]
    middle = _between(rng, 25, 64)
    widths = [round(middle * 1.5 ** (2 * rng.random() - 1)) for _ in range(depth)]
    return widths, ["architecture=mlp", f"architecture.hidden=[{','.join(map(str, widths))}]"]


def _init(
    rng: np.random.Generator, sigma: str, widths: list[int], low: float, high: float
) -> tuple[Initializer, Initializer, list[str]]:
    """One of the usual ones by name, or one with σ_w² between low and high."""
    zero: Initializer = initializers.Constant(0.0)
    if rng.random() < 0.4:
        name = _pick(rng, *NAMED, "nielsen")
        made: dict[str, Initializer] = {
            "he_normal": initializers.HeNormal(),
            "he_uniform": initializers.HeUniform(),
            "lecun_normal": initializers.LecunNormal(),
            "glorot_normal": initializers.GlorotNormal(),
            "glorot_uniform": initializers.GlorotUniform(),
            "uniform_fan_in": initializers.UniformFanIn(),
            "matched": initializers.Matched(SIGMAS[sigma]),
            "nielsen": initializers.GaussianFanIn(1.0),
        }
        return made[name], initializers.Gaussian(1.0) if name == "nielsen" else zero, [f"init={name}"]
    name, variance = _pick(rng, *SCALED), _between(rng, low, high)
    root = float(f"{math.sqrt(variance):.4g}")
    if name == "gaussian_fan_in":
        return initializers.GaussianFanIn(root), zero, ["init=gaussian_fan_in", f"init.weights.std={root}"]
    if name == "orthogonal":
        return initializers.Orthogonal(root), zero, ["init=orthogonal", f"init.weights.gain={root}"]
    if name == "truncated_normal":
        std = float(f"{root / math.sqrt(0.774 * float(np.mean(widths))):.4g}")
        return initializers.TruncatedNormal(std, 2.0), zero, ["init=truncated_normal", f"init.weights.std={std}"]
    bias = _between(rng, 0.01, 0.3)
    keys = ["init=mean_field", f"init.weights.sigma_w2={variance}", f"init.biases.sigma_b2={bias}"]
    return initializers.MeanFieldWeights(variance), initializers.MeanFieldBiases(bias), keys


def _net(rng: np.random.Generator, sigma: str, low: float, high: float, deepest: int = 20) -> _Net:
    """Any network with this σ."""
    inputs, outputs, squares, of_data = _data(rng)
    widths, of_widths = _widths(rng, int(rng.integers(3, deepest + 1)))
    weights, biases, of_init = _init(rng, sigma, widths, low, high)
    kind = ["dtype=float32"] if rng.random() < 0.1 else []
    keys = (*of_data, *of_widths, f"activation={sigma}", *_output(rng), *of_init, *kind)
    return _Net(sigma, [inputs, *widths, outputs], squares, weights, biases, keys)


def _untrained(rng: np.random.Generator) -> list[str]:
    return ["epochs=0", f"batching.size={int(rng.integers(16, 81))}"]


def _batches(rng: np.random.Generator) -> int:
    return int(rng.choice([16, 20, 25, 32, 50]))


def _trained(
    rng: np.random.Generator, net: _Net, common: list[str], epochs: int, low: float, high: float
) -> tuple[list[str], float]:
    """Overrides of a training with a rate between ``low`` and ``high`` times the largest stable one; and the rate."""
    size = f"batching.size={_batches(rng)}"
    stable = min(stable_rate([*net.overrides, *common, size]), net.output_rate())
    rate = float(f"{_between(rng, low, high) * stable:.3g}")
    keys = [f"epochs={epochs}", size, f"optimizer.learning_rate={rate:g}"]
    if rng.random() < 0.15:  # its steps are 1/(1 − 0.9) times as long
        keys = [*keys[:2], "optimizer=momentum", f"optimizer.learning_rate={rate / 10:g}"]
    return keys, rate


def stable_rate(overrides: Sequence[str]) -> float:
    """2/λ_max of the Hessian of the first batch's cost, the least of the replicates: beyond it steps overshoot."""
    given = [text for text in overrides if not text.startswith("dtype=")]
    config = build(compose_run([*given, "epochs=0", "probes=none"]))
    probe = Sharpness(iterations=40, tolerance=0.02, parameters=10**7)
    records = list(train(prepare_run(dataclasses.replace(config, probes={"sharpness": probe}))))
    return 2 / float(max(r.values.max() for r in records if r.probe == "sharpness"))


def _healthy_net(rng: np.random.Generator, sigma: str) -> tuple[_Net, str]:
    low, high = (4.0, 60.0) if sigma == "sigmoid" else (0.4, 4.0)
    for _ in range(TRIES):
        net = _net(rng, sigma, low, high, deepest=6 if sigma == "sigmoid" else 20)
        expected = net.expected(-PLAIN, PLAIN)
        if expected and net.saturation() <= 0.25:
            return net, expected
    raise RuntimeError(f"no healthy network with {sigma} in {TRIES} draws")


def _healthy(rng: np.random.Generator, common: list[str]) -> Found:
    net, why = _healthy_net(rng, _pick(rng, *SIGMAS))
    if rng.random() < 0.5:
        return [*net.overrides, *_untrained(rng)], why
    keys, _ = _trained(rng, net, common, int(rng.integers(1, 5)), 0.1, 0.3)
    return [*net.overrides, *keys], f"{why}; rate 0.1 to 0.3 of the largest stable one"


def _flow(rng: np.random.Generator, common: list[str], sign: int, low: float, high: float) -> Found:
    sigma = _pick(rng, *(name for name in SIGMAS if sign > 0 or name != "sigmoid"))
    for _ in range(TRIES):
        net = _net(rng, sigma, low, high)
        why = net.expected(FAR, math.inf) if sign > 0 else net.expected(-math.inf, -FAR)
        if why:
            break
    else:
        raise RuntimeError(f"no such network with {sigma} in {TRIES} draws")
    if rng.random() < 0.7:
        return [*net.overrides, *_untrained(rng)], why
    keys, _ = _trained(rng, net, common, 1, 0.001, 0.01)
    return [*net.overrides, *keys], f"{why}; rate at most 0.01 of the largest stable one"


def _vanishing(rng: np.random.Generator, common: list[str]) -> Found:
    return _flow(rng, common, 1, 0.005, 2.0)


def _exploding(rng: np.random.Generator, common: list[str]) -> Found:
    return _flow(rng, common, -1, 1.0, 300.0)


def _saturated(rng: np.random.Generator, common: list[str]) -> Found:
    sigma = _pick(rng, *FLAT)
    for _ in range(TRIES):
        net = _net(rng, sigma, 20.0, 3000.0)
        share = net.saturation()
        if share >= 0.65:
            return [*net.overrides, *_untrained(rng)], f"theory expects {share:.0%} of the worst layer saturated"
    raise RuntimeError(f"no saturated network with {sigma} in {TRIES} draws")


def _dead(rng: np.random.Generator, common: list[str]) -> Found:
    """Biases many standard deviations of z on the flat side: of all units, or of most of one layer."""
    sigma = _pick(rng, "relu", "relu", "hard_tanh", "gelu")
    net = _net(rng, sigma, 0.5, 4.0)
    found = net.profile()
    edge, side = {"relu": (0.0, -1), "hard_tanh": (1.0, int(rng.choice([-1, 1]))), "gelu": (50.0, -1)}[sigma]
    deviations = _between(rng, 4, 12)
    whole = rng.random() < 0.5
    layer = int(rng.integers(1, net.hidden + 1))
    spread = math.sqrt(float(found.z_mean_square[0 if whole else layer - 1]))
    # A bias for all also makes z larger further up: the hard tanh's a is 1 then, and W a has a spread of √σ_w²
    spread = max(spread, math.sqrt(net.weights.variance(net.sizes[1], net.sizes[2]) * net.sizes[1]) if whole else 0.0)
    value = float(f"{side * (edge + deviations * spread):.6g}")
    target = ["init.biases._target_=engine.initializers.Constant", f"++init.biases.value={value}"]
    keys = [text for text in net.overrides if not text.startswith("init.biases.")]
    if "init=mean_field" in keys:
        target.append("~init.biases.sigma_b2")
    if "init=nielsen" in keys:
        target.append("~init.biases.std")
    why = f"biases {deviations:.2g} standard deviations of z on the flat side"
    if not whole:
        share = float(f"{rng.uniform(0.95, 1.0):.3g}")
        target[0] = "init.biases._target_=experiments.verdicts.planted.OneLayer"
        target += [f"+init.biases.layer={layer}", f"+init.biases.share={share}"]
        why = f"in layer {layer}, {share:.0%} of the units have {why}"
    return [*keys, *target, *_untrained(rng)], why


def _diverged(rng: np.random.Generator, common: list[str]) -> Found:
    """Weights so large that z overflows on its way up, or steps so long that the output bias must."""
    single = rng.random() < 0.5
    limit = 38.5 if single else 308.3
    kind = ["dtype=float32"] if single else []
    sigma = _pick(rng, *UNBOUNDED) if rng.random() < 0.5 else _pick(rng, *SIGMAS)
    net = _net(rng, sigma, 0.5, 4.0)
    keys = [text for text in net.overrides if not text.startswith(("init", "dtype"))]
    if sigma in UNBOUNDED and rng.random() < 0.5:
        std = float(f"{10 ** min(rng.uniform(1.2, 2) * limit / net.hidden, 150):.3g}")  # its square is a number
        keys = [*keys, *kind, "init=gaussian_fan_in", f"init.weights.std={std}", *_untrained(rng)]
        return keys, f"z grows by about {std:g} a layer, over {net.hidden} layers beyond 10^{limit:g}"
    size, epochs = _batches(rng), int(rng.integers(2, 5))
    keys = [text for text in net.overrides if not text.startswith(("dtype", "cost", "activation@output"))]
    steps = epochs * (100 // size)
    rate = float(f"{1 + 10 ** (rng.uniform(1.2, 2) * limit / steps):.3g}")
    output = ["activation@output=identity", "cost=half_squared_error", f"epochs={epochs}", f"batching.size={size}"]
    why = f"curvature in the output bias is at least 1: it grows by {rate - 1:.3g} in each of {steps} steps or more"
    return [*keys, *kind, *output, f"optimizer.learning_rate={rate:g}"], why


def _too_high(rng: np.random.Generator, common: list[str]) -> Found:
    """With outputs that are bounded: others would overflow."""
    for _ in range(TRIES):
        net, why = _healthy_net(rng, _pick(rng, *SIGMAS))
        if "activation@output=identity" not in net.overrides:
            break
    keys, rate = _trained(rng, net, common, int(rng.integers(4, 7)), 100, 1000)
    return [*net.overrides, *keys], f"{why}; rate {rate:g}, 100 to 1000 times the largest stable one"


def _too_low(rng: np.random.Generator, common: list[str]) -> Found:
    net, why = _healthy_net(rng, _pick(rng, *SIGMAS))
    keys, rate = _trained(rng, net, common, int(rng.integers(4, 7)), 0.0001, 0.002)
    return [*net.overrides, *keys], f"{why}; rate {rate:g}, 0.0001 to 0.002 of the largest stable one"


_PLANTERS = {
    HEALTHY: _healthy,
    VANISHING: _vanishing,
    EXPLODING: _exploding,
    SATURATION: _saturated,
    DEATH: _dead,
    DIVERGED: _diverged,
    TOO_HIGH: _too_high,
    TOO_LOW: _too_low,
}
