"""Draw small networks with a known condition.

The condition follows from theory (mean-field theory with its first correction for finite width), from arithmetic
(numbers that must overflow), or from the curvature of the cost at the start. It never depends on the measurements that
the verdict uses. Each network is a list of overrides, which its seed and number determine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.arrays import Array
from engine.initializers import Initializer, ParameterShape
from engine.probes import Sharpness
from experiments.verdicts.networks import FLAT, SIGMAS, DrawnNetwork, between, draw_network, pick
from pipeline.analysis.classes import DEATH, DIVERGED, EXPLODING, HEALTHY, SATURATION, TOO_HIGH, TOO_LOW, VANISHING
from pipeline.config.compose import compose_run
from pipeline.config.schema import build
from pipeline.training.loop import train
from pipeline.training.prepare import prepare_run

CYCLE = {HEALTHY: 20, VANISHING: 6, EXPLODING: 6, DEATH: 5, DIVERGED: 5, SATURATION: 2, TOO_HIGH: 2, TOO_LOW: 2}
UNBOUNDED = ("relu", "leaky_relu", "elu", "selu", "gelu", "silu")
PLAIN, FAR = 0.4, 1.5  # decades: the most that theory expects of a healthy net, the least of a faulty one
TRIES = 5000  # draws

Drawn = tuple[list[str], str]  # overrides, and how the condition is known


@dataclass(frozen=True)
class Planted:
    """A network with a known condition.

    Attributes:
        number: The number of the network. With the seed it determines everything else.
        kind: The class that the verdict should name.
        overrides: The overrides of the run's config.
        why: How the condition is known.
    """

    number: int
    kind: str
    overrides: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class OneLayer(Initializer):
    """Biases ``value`` for a share of one layer's units, rounded up, and 0 elsewhere."""

    value: float
    layer: int
    share: float

    def variance(self, fan_in: int, fan_out: int) -> float:
        """Return NaN: the variance differs from layer to layer."""
        return math.nan

    def sample(self, rng: np.random.Generator, place: ParameterShape) -> Array:
        """Return the biases."""
        biases = np.zeros(place.shape)
        if place.layer == self.layer:
            biases[: math.ceil(self.share * len(biases))] = self.value
        return biases


def generate(count: int, seed: int = 0) -> Iterator[Planted]:
    """Yield the first networks. Kinds alternate, so that any first part has its share of each."""
    turns = sorted((i / n, kind) for kind, n in CYCLE.items() for i in range(n))
    for number in range(count):
        kind = turns[number % len(turns)][1]
        yield plant(kind, number, seed)


def plant(kind: str, number: int, seed: int = 0) -> Planted:
    """Return network ``number`` of a seed with a condition."""
    rng = np.random.default_rng([seed, number])
    common = [f"replicates={int(rng.integers(3, 6))}", f"seed={int(rng.integers(1_000_000))}"]
    overrides, why = _PLANTERS[kind](rng, common)
    return Planted(number, kind, (*overrides, *common), why)


def _untrained(rng: np.random.Generator) -> list[str]:
    return ["epochs=0", f"batching.size={int(rng.integers(16, 81))}"]


def _batches(rng: np.random.Generator) -> int:
    return int(rng.choice([16, 20, 25, 32, 50]))


def _trained(
    rng: np.random.Generator, net: DrawnNetwork, common: list[str], epochs: int, low: float, high: float
) -> tuple[list[str], float]:
    """Return overrides of a training, and its rate, between ``low`` and ``high`` times the largest stable rate."""
    size = f"batching.size={_batches(rng)}"
    stable = min(stable_rate([*net.overrides, *common, size]), net.output_rate())
    rate = float(f"{between(rng, low, high) * stable:.3g}")
    keys = [f"epochs={epochs}", size, f"optimizer.learning_rate={rate:g}"]
    if rng.random() < 0.15:  # with momentum .9 steps are 1/(1 − 0.9) times as long
        keys = [*keys[:2], "optimizer=momentum", f"optimizer.learning_rate={rate / 10:g}"]
    return keys, rate


def stable_rate(overrides: Sequence[str]) -> float:
    """Return the largest rate at which steps do not overshoot, the least of the replicates.

    It is 2/λ_max of the Hessian of the first batch's cost.
    """
    given = [text for text in overrides if not text.startswith("dtype=")]
    config = build(compose_run([*given, "epochs=0", "probes=none"]))
    probe = Sharpness(iterations=40, tolerance=0.02, parameters=10**7)
    records = list(train(prepare_run(dataclasses.replace(config, probes={"sharpness": probe}))))
    return 2 / float(max(r.values.max() for r in records if r.probe == "sharpness"))


def _healthy_net(rng: np.random.Generator, sigma: str) -> tuple[DrawnNetwork, str]:
    low, high = (4.0, 60.0) if sigma == "sigmoid" else (0.4, 4.0)
    for _ in range(TRIES):
        net = draw_network(rng, sigma, low, high, deepest=6 if sigma == "sigmoid" else 20)
        expected = net.expected(-PLAIN, PLAIN)
        if expected and net.saturation() <= 0.25:
            return net, expected
    raise RuntimeError(f"no healthy network with {sigma} in {TRIES} draws")


def _healthy(rng: np.random.Generator, common: list[str]) -> Drawn:
    net, why = _healthy_net(rng, pick(rng, *SIGMAS))
    if rng.random() < 0.5:
        return [*net.overrides, *_untrained(rng)], why
    keys, _ = _trained(rng, net, common, int(rng.integers(1, 5)), 0.1, 0.3)
    return [*net.overrides, *keys], f"{why}; rate 0.1 to 0.3 of the largest stable one"


def _flow(rng: np.random.Generator, common: list[str], sign: int, low: float, high: float) -> Drawn:
    sigma = pick(rng, *(name for name in SIGMAS if sign > 0 or name != "sigmoid"))
    for _ in range(TRIES):
        net = draw_network(rng, sigma, low, high)
        why = net.expected(FAR, math.inf) if sign > 0 else net.expected(-math.inf, -FAR)
        if why:
            break
    else:
        raise RuntimeError(f"no such network with {sigma} in {TRIES} draws")
    if rng.random() < 0.7:
        return [*net.overrides, *_untrained(rng)], why
    keys, _ = _trained(rng, net, common, 1, 0.001, 0.01)
    return [*net.overrides, *keys], f"{why}; rate at most 0.01 of the largest stable one"


def _vanishing(rng: np.random.Generator, common: list[str]) -> Drawn:
    return _flow(rng, common, 1, 0.005, 2.0)


def _exploding(rng: np.random.Generator, common: list[str]) -> Drawn:
    return _flow(rng, common, -1, 1.0, 300.0)


def _saturated(rng: np.random.Generator, common: list[str]) -> Drawn:
    sigma = pick(rng, *FLAT)
    for _ in range(TRIES):
        net = draw_network(rng, sigma, 20.0, 3000.0)
        share = net.saturation()
        if share >= 0.65:
            return [*net.overrides, *_untrained(rng)], f"theory expects {share:.0%} of the worst layer saturated"
    raise RuntimeError(f"no saturated network with {sigma} in {TRIES} draws")


def _dead(rng: np.random.Generator, common: list[str]) -> Drawn:
    """Draw biases many standard deviations of z on the flat side, for all units or for most of one layer."""
    sigma = pick(rng, "relu", "relu", "hard_tanh", "gelu")
    net = draw_network(rng, sigma, 0.5, 4.0)
    expected = net.profile()
    edge, side = {"relu": (0.0, -1), "hard_tanh": (1.0, int(rng.choice([-1, 1]))), "gelu": (50.0, -1)}[sigma]
    deviations = between(rng, 4, 12)
    whole = rng.random() < 0.5
    layer = int(rng.integers(1, net.hidden + 1))
    spread = math.sqrt(float(expected.z_mean_square[0 if whole else layer - 1]))
    # A bias of all units also makes z larger above: then the a of the hard tanh is 1, and W a has a spread of √σ_w².
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


def _diverged(rng: np.random.Generator, common: list[str]) -> Drawn:
    """Draw weights so large that z overflows, or steps so long that the output bias overflows."""
    single = rng.random() < 0.5
    limit = 38.5 if single else 308.3
    kind = ["dtype=float32"] if single else []
    sigma = pick(rng, *UNBOUNDED) if rng.random() < 0.5 else pick(rng, *SIGMAS)
    net = draw_network(rng, sigma, 0.5, 4.0)
    keys = [text for text in net.overrides if not text.startswith(("init", "dtype"))]
    if sigma in UNBOUNDED and rng.random() < 0.5:
        std = float(f"{10 ** min(rng.uniform(1.2, 2) * limit / net.hidden, 150):.3g}")  # its square must not overflow
        keys = [*keys, *kind, "init=gaussian_fan_in", f"init.weights.std={std}", *_untrained(rng)]
        return keys, f"z grows by about {std:g} a layer, over {net.hidden} layers beyond 10^{limit:g}"
    size, epochs = _batches(rng), int(rng.integers(2, 5))
    keys = [text for text in net.overrides if not text.startswith(("dtype", "cost", "activation@output"))]
    steps = epochs * (100 // size)
    rate = float(f"{1 + 10 ** (rng.uniform(1.2, 2) * limit / steps):.3g}")
    output = ["activation@output=identity", "cost=half_squared_error", f"epochs={epochs}", f"batching.size={size}"]
    why = f"curvature in the output bias is at least 1: it grows by {rate - 1:.3g} in each of {steps} steps or more"
    return [*keys, *kind, *output, f"optimizer.learning_rate={rate:g}"], why


def _too_high(rng: np.random.Generator, common: list[str]) -> Drawn:
    """Draw a network with bounded outputs. Unbounded outputs would overflow."""
    for _ in range(TRIES):
        net, why = _healthy_net(rng, pick(rng, *SIGMAS))
        if "activation@output=identity" not in net.overrides:
            break
    keys, rate = _trained(rng, net, common, int(rng.integers(4, 7)), 100, 1000)
    return [*net.overrides, *keys], f"{why}; rate {rate:g}, 100 to 1000 times the largest stable one"


def _too_low(rng: np.random.Generator, common: list[str]) -> Drawn:
    net, why = _healthy_net(rng, pick(rng, *SIGMAS))
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
