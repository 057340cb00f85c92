"""The planted conditions, and how a network with each of them is drawn.

A condition follows from theory (mean-field theory with its correction for finite width), from arithmetic (numbers that
must overflow), from the curvature of the cost at the start, from the config itself, or from the parameters before and
after the training. It never depends on the records that the verdict uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine import activations, initializers
from engine.arrays import Array
from engine.initializers import Initializer, ParameterShape
from engine.network import Network
from engine.probes import Sharpness
from experiments.verdicts.networks import DATA, FLAT, SIGMAS, DrawnNetwork, between, draw_network, pick
from pipeline.analysis.classes import (
    BLOCKED,
    DEATH,
    DECAY,
    DIVERGED,
    EQUAL_INPUTS,
    EQUAL_TARGETS,
    EXPLODING,
    HEALTHY,
    IDENTICAL,
    SATURATION,
    TOO_HIGH,
    TOO_LOW,
    VANISHING,
)
from pipeline.config.compose import compose_run
from pipeline.config.schema import Config, build
from pipeline.training.loop import Callbacks, train
from pipeline.training.prepare import prepare_run

UNBOUNDED = ("relu", "leaky_relu", "elu", "selu", "gelu", "silu")
PLAIN, FAR = 0.4, 1.5  # decades: the most that theory expects of a healthy net, the least of a faulty one
TRIES = 5000  # draws
NOISE = ("gaussian_noise",)

Drawn = tuple[list[str], str]  # overrides, and how the condition is known


@dataclass(frozen=True)
class Kind:
    """A condition.

    Attributes:
        name: Its name.
        draw: Draws a network with it.
        classes: The verdict names the condition if it has one of these classes.
        says: A text that the explanation must have as well; "" for none.
    """

    name: str
    draw: Callable[[np.random.Generator, list[str]], Drawn]
    classes: tuple[str, ...]
    says: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether something is wrong with the network."""
        return self.classes != (HEALTHY,)

    def __reduce__(self) -> tuple[Callable[[str], Kind], tuple[str]]:
        """Return how to send a kind to another process: by its name, for planters may be local functions."""
        return kind_named, (self.name,)


def kind_named(name: str) -> Kind:
    """Return the kind with a name."""
    return next(kind for kind in KINDS if kind.name == name)


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

    It is 2/|λ| of the Hessian of the first batch's cost, with λ of the largest magnitude.
    """
    probe = Sharpness(iterations=12, tolerance=0.1, parameters=10**7)
    run = prepare_run(replace(_config(overrides), dtype="float64", epochs=0, steps=None, probes={"sharpness": probe}))
    return 2 / float(max(np.abs(r.values).max() for r in train(run) if r.probe == "sharpness"))


def _config(overrides: Sequence[str]) -> Config:
    """Return the config of a run without probes. Its group choices stay: those of one network are composed once."""
    return replace(build(compose_run(overrides)), probes={}, probe_schedules={})


def _healthy_net(rng: np.random.Generator, sigma: str, data: Sequence[str] = DATA) -> tuple[DrawnNetwork, str]:
    low, high = (4.0, 60.0) if sigma == "sigmoid" else (0.4, 4.0)
    for _ in range(TRIES):
        net = draw_network(rng, sigma, low, high, deepest=6 if sigma == "sigmoid" else 20, data=data)
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
        share = float(f"{rng.uniform(0.97, 1.0):.3g}")
        target[0] = "init.biases._target_=experiments.verdicts.kinds.OneLayer"
        target += [f"+init.biases.layer={layer}", f"+init.biases.share={share}"]
        why = f"in layer {layer}, {share:.0%} of the units have {why}"
    return [*keys, *target, *_untrained(rng)], why


def _overflowing_weights(rng: np.random.Generator, common: list[str]) -> Drawn:
    """Draw weights so large that z overflows."""
    kind, limit = _dtype(rng)
    net = draw_network(rng, pick(rng, *UNBOUNDED), 0.5, 4.0)
    keys = _without(net.overrides, "init", "dtype")
    std = float(f"{10 ** min(rng.uniform(1.2, 2) * limit / net.hidden, 150):.3g}")  # its square must not overflow
    keys = [*keys, *kind, "init=gaussian_fan_in", f"init.weights.std={std}", *_untrained(rng)]
    return keys, f"z grows by about {std:g} a layer, over {net.hidden} layers beyond 10^{limit:g}"


def _overflowing_steps(rng: np.random.Generator, common: list[str]) -> Drawn:
    """Draw steps so long that the output bias overflows."""
    kind, limit = _dtype(rng)
    net, why = _healthy_net(rng, pick(rng, *SIGMAS))
    size, epochs = _batches(rng), int(rng.integers(2, 5))
    steps = epochs * (100 // size)
    rate = float(f"{1 + 10 ** (rng.uniform(1.2, 2) * limit / steps):.3g}")
    keys = [*_regression(_without(net.overrides, "dtype")), f"epochs={epochs}", f"batching.size={size}"]
    why = f"{why}; curvature in the output bias is at least 1: it grows by {rate - 1:.3g} in each of {steps} steps"
    return [*keys, *kind, f"optimizer.learning_rate={rate:g}"], why


def _dtype(rng: np.random.Generator) -> tuple[list[str], float]:
    """Return the override of a type, and log10 of its largest number."""
    return (["dtype=float32"], 38.5) if rng.random() < 0.5 else ([], 308.3)


def _without(overrides: Sequence[str], *starts: str) -> list[str]:
    return [text for text in overrides if not text.startswith(starts)]


def _regression(overrides: Sequence[str]) -> list[str]:
    keys = _without(overrides, "cost", "activation@output")
    return [*keys, "activation@output=identity", "cost=half_squared_error"]


def _too_high(rng: np.random.Generator, common: list[str]) -> Drawn:
    """Draw a network with bounded outputs. Unbounded outputs would overflow."""
    for _ in range(TRIES):
        net, why = _healthy_net(rng, pick(rng, *SIGMAS))
        if "activation@output=identity" not in net.overrides:
            break
    keys, rate = _trained(rng, net, common, int(rng.integers(4, 7)), 1e3, 1e5)
    return [*net.overrides, *keys], f"{why}; rate {rate:g}, over 1000 times the largest stable one"


def _too_low(rng: np.random.Generator, common: list[str]) -> Drawn:
    net, why = _healthy_net(rng, pick(rng, *SIGMAS))
    keys, rate = _trained(rng, net, common, int(rng.integers(4, 7)), 1e-7, 1e-5)
    return [*net.overrides, *keys], f"{why}; rate {rate:g}, at most 1e-5 of the largest stable one"


# Faults of the config, in networks that are healthy otherwise.


def _of_config(*keys: str, epochs: tuple[int, int] = (2, 5)) -> Callable[[np.random.Generator, list[str]], Drawn]:
    """Return a planter that adds overrides to a healthy net with 0.1 to 0.3 of the largest stable rate."""

    def draw(rng: np.random.Generator, common: list[str]) -> Drawn:
        net, why = _healthy_net(rng, pick(rng, *SIGMAS))
        trained, _ = _trained(rng, net, common, int(rng.integers(*epochs)), 0.1, 0.3)
        return [*net.overrides, *trained, *keys], f"{why}; {' '.join(keys)}"

    return draw


def _constant_weights(rng: np.random.Generator, common: list[str], low: float, high: float) -> Drawn:
    net, _ = _healthy_net(rng, pick(rng, *(name for name in SIGMAS if name != "relu")))
    value = between(rng, low, high) if high else 0.0
    keys = [*_without(net.overrides, "init"), "init=he_normal", "init.weights._target_=engine.initializers.Constant"]
    return [*keys, f"+init.weights.value={value}", *_untrained(rng)], f"all weights are {value}"


def _zero_weights(rng: np.random.Generator, common: list[str]) -> Drawn:
    return _constant_weights(rng, common, 0.0, 0.0)


def _symmetric(rng: np.random.Generator, common: list[str]) -> Drawn:
    return _constant_weights(rng, common, 0.01, 0.1)


def _clipped(rng: np.random.Generator, common: list[str]) -> Drawn:
    bound = f"{between(rng, 1e-10, 1e-8):g}"
    keys = ("clipping@optimizer.clipping=global_norm", f"optimizer.clipping.max_norm={bound}")
    return _of_config(*keys)(rng, common)


def _undamped(rng: np.random.Generator, common: list[str]) -> Drawn:
    """Draw trainings in which momentum carries the weights far away, as the parameters show."""
    for _ in range(TRIES):
        net, why = _healthy_net(rng, pick(rng, *SIGMAS))
        size, momentum = f"batching.size={_batches(rng)}", float(pick(rng, "0.995", "0.998", "0.999"))
        stable = min(stable_rate([*net.overrides, *common, size]), net.output_rate())
        rate = float(f"{between(rng, 1.2, 1.8) * stable:.3g}")
        keys = [*net.overrides, f"epochs={int(rng.integers(12, 17))}", size, f"optimizer.learning_rate={rate:g}"]
        keys = [*keys, "optimizer=momentum", f"optimizer.momentum={momentum}"]
        before, after = _weight_norms([*keys, *common])
        if not (after.max(axis=0) < 6 * before.max(axis=0)).any():  # NaN counts as far away
            return keys, f"{why}; momentum {momentum} makes the weights of a layer at least six times as large"
    raise RuntimeError("no network that momentum carries away")


def _decaying(rng: np.random.Generator, common: list[str]) -> Drawn:
    """Draw weight decay that takes most of the weights of every layer, as the parameters show."""
    for _ in range(TRIES):
        net, why = _healthy_net(rng, pick(rng, *SIGMAS))
        trained, rate = _trained(rng, net, common, int(rng.integers(3, 6)), 0.05, 0.2)
        size = int(next(text for text in trained if text.startswith("batching.size=")).split("=")[1])
        epochs = int(trained[0].split("=")[1])
        decay = float(f"{between(rng, 4, 8) / (rate * epochs * (100 // size)):.3g}")
        keys = [*net.overrides, *trained, f"optimizer.weight_decay={decay:g}"]
        before, after = _weight_norms([*keys, *common])
        if (after < 0.1 * before).all():
            return keys, f"{why}; weight decay {decay:g} leaves less than a tenth of the weights of each layer"
    raise RuntimeError("no network that weight decay empties")


def _killed(rng: np.random.Generator, common: list[str]) -> Drawn:
    """Draw ReLU networks whose steps are so long that a layer has no active unit afterwards, as its parameters show."""
    for _ in range(TRIES):
        depth, width, rate = int(rng.integers(3, 6)), int(rng.integers(16, 31)), between(rng, 2, 8)
        keys = [*_noise(int(rng.integers(10, 40))), "activation=relu", "init=he_normal", "architecture=deep"]
        keys += [f"architecture.depth={depth}", f"architecture.width={width}"]
        keys += ["epochs=null", "steps=30", f"batching.size={_batches(rng)}", f"optimizer.learning_rate={rate}"]
        if _has_died([*keys, *common]):
            return keys, f"after 30 steps at rate {rate:g}, a layer has no active unit"
    raise RuntimeError("no network that dies")


class _Observer:
    """Keeps copies of the parameters at the first and the last step."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.networks: list[list[tuple[Array, Array]]] = []

    def due(self, step: int) -> bool:
        return step in (0, self.last)

    def on_step(self, step: int, network: Network, rows: Array) -> None:
        self.networks.append([(layer.W.copy(), layer.b.copy()) for layer in network.layers])


def _parameters(overrides: Sequence[str]) -> tuple[list[list[tuple[Array, Array]]], Array]:
    """Return W and b of all layers before and after a training, and the training inputs [R, n_0, N]."""
    run = prepare_run(_config(overrides))
    observer = _Observer(run.length.last_step)
    for _ in train(run, Callbacks(observer=observer)):
        pass
    return observer.networks, run.data.x[run.data.train].mT


def _weight_norms(overrides: Sequence[str]) -> tuple[Array, Array]:
    networks, _ = _parameters(overrides)
    if len(networks) < 2:  # it diverged before the last step
        networks = [*networks, [(W * np.nan, b) for W, b in networks[0]]]
    before, after = (np.array([np.linalg.norm(W, axis=(-2, -1)) for W, _ in layers]) for layers in networks)
    return before, after


@np.errstate(over="ignore", invalid="ignore")
def _has_died(overrides: Sequence[str]) -> bool:
    """Return whether in each replicate a ReLU layer has an active unit before the training, and none after it."""
    networks, x = _parameters(overrides)
    if len(networks) < 2:
        return False  # it diverged
    dead = []
    for layers in networks:
        a, is_dead = x, np.zeros(len(x), bool)
        for W, b in layers[:-1]:
            a = np.maximum(W @ a + b, 0)
            is_dead |= (a == 0).all(axis=(-2, -1))
        dead.append(is_dead)
    return bool(dead[1].all() and not dead[0].any())


# Faults of the data.


def _with_data(net: DrawnNetwork, **chosen: float | None) -> list[str]:
    """Return the overrides of a network with other noise: what is not chosen is as it was."""
    given = dict(text.split("=", 1) for text in net.overrides if text.startswith("data.source."))
    std = math.sqrt(float(given["data.source.variance"]))
    values: dict[str, float | None] = {"std": std, "offset": 0.0, "varying": net.sizes[0], "largest": 0.0}
    if "scale" in chosen:
        values["std"] = std * float(chosen.pop("scale") or 0)
    values |= {key: value for key, value in chosen.items() if key != "classes"}
    keys = [*_without(net.overrides, "data.source.variance"), "~data.source.variance"]
    keys.append("data.source._target_=experiments.verdicts.sources.FaultyNoise")
    return [*keys, *(f"+data.source.{key}={value}" for key, value in values.items())]


def _equal_inputs(rng: np.random.Generator, common: list[str], offset: float) -> Drawn:
    net, _ = _healthy_net(rng, pick(rng, *SIGMAS), NOISE)
    trained, _ = _trained(rng, net, common, int(rng.integers(1, 4)), 0.1, 0.3)
    return [*_with_data(net, offset=offset, varying=0), *trained], f"all inputs are {offset:g}"


def _zero_inputs(rng: np.random.Generator, common: list[str]) -> Drawn:
    return _equal_inputs(rng, common, 0.0)


def _constant_inputs(rng: np.random.Generator, common: list[str]) -> Drawn:
    return _equal_inputs(rng, common, between(rng, 0.3, 3))


def _one_class(rng: np.random.Generator, common: list[str]) -> Drawn:
    net, _ = _healthy_net(rng, pick(rng, *SIGMAS), NOISE)
    trained, _ = _trained(rng, net, common, int(rng.integers(1, 4)), 0.1, 0.3)
    return [*_with_data(net, largest=1), *trained], "all examples are of one class"


def _constant_target(rng: np.random.Generator, common: list[str]) -> Drawn:
    net, _ = _healthy_net(rng, pick(rng, *SIGMAS), NOISE)
    trained, _ = _trained(rng, net, common, int(rng.integers(1, 4)), 0.1, 0.3)
    keys = [*_without(_with_data(net, largest=1), "data.source.classes"), "data.source.classes=null"]
    return [*_regression(keys), *trained], "all targets are 0.5"


def _flat_by_inputs(rng: np.random.Generator, common: list[str]) -> Drawn:
    """Draw inputs so large that a healthy network saturates."""
    for _ in range(TRIES):
        net, why = _healthy_net(rng, pick(rng, *FLAT), NOISE)
        scale = between(rng, 30, 1000)
        scaled = replace(net, squares=_scaled(net.squares, scale))
        reach = FLAT[net.sigma] / math.sqrt(2 * float(scaled.profile().z_mean_square[0]))
        if 1 - math.erf(reach) >= 0.65 and float(scaled.profile().z_mean_square[0]) > 0:
            share = f"{1 - math.erf(reach):.0%} of the first layer"
            return [*_with_data(net, scale=scale), *_untrained(rng)], f"{why}; inputs {scale:g} times as large: {share}"
    raise RuntimeError("no network that large inputs saturate")


def _scaled(squares: tuple[float, float, float], scale: float) -> tuple[float, float, float]:
    low, middle, high = (square * scale**2 for square in squares)
    return low, middle, high


def _long_by_inputs(rng: np.random.Generator, common: list[str]) -> Drawn:
    """Draw inputs so large that a rate that was stable is far too high."""
    net, why = _healthy_net(rng, pick(rng, "relu", "leaky_relu"), NOISE)  # curvature grows as the square of the inputs
    net = replace(net, overrides=tuple(_regression(net.overrides)))  # a cost whose curvature does not level off
    trained, rate = _trained(rng, net, common, int(rng.integers(4, 7)), 0.3, 0.8)
    scale = between(rng, 50, 1000)
    return [*_with_data(net, scale=scale), *trained], f"{why}; rate {rate:g} is stable for inputs 1/{scale:g} as large"


# Faults of size: width, depth and type.


def _narrow(rng: np.random.Generator, common: list[str]) -> Drawn:
    """Draw narrow and deep networks at χ = 1, measured with one example, where finite width costs its whole term."""
    alpha = 0.5
    sigma = activations.LeakyRelu(alpha)
    for _ in range(TRIES):
        width, depth = int(rng.integers(4, 9)), int(rng.integers(30, 61))
        inputs = int(rng.integers(10, 40))
        keys = [*_noise(inputs), "activation=leaky_relu", f"activation.alpha={alpha}", "init=matched"]
        keys += ["architecture=deep", f"architecture.depth={depth}", f"architecture.width={width}"]
        squares = (0.8 * inputs, 1.0 * inputs, 1.2 * inputs)
        sizes, weights = [inputs, *[width] * depth, 3], initializers.Matched(sigma)
        net = DrawnNetwork("leaky_relu", sizes, squares, weights, initializers.Constant(0.0), tuple(keys), sigma)
        least, most = net.decades(1)
        half = 2.3 * net.decades_std() / math.sqrt(10)  # of the interval of ten replicates
        if abs(least) < PLAIN and most - 2.2 * half > 1:
            why = f"theory expects {most:.2g} ± {half:.2g} decades by finite width, {least:.2g} without it"
            return [*keys, "epochs=0", "batching.size=1", "replicates=10"], why
    raise RuntimeError("no narrow network")


def _noise(inputs: int) -> list[str]:
    return ["data=gaussian_noise", "data.source.examples=250", f"data.source.inputs={inputs}", "data.source.classes=3"]


def _beyond_float32(rng: np.random.Generator, common: list[str]) -> Drawn:
    """Draw sigmoid networks so deep that δ leaves the range of float32, 10⁻⁴⁵."""
    for _ in range(TRIES):
        depth, width, inputs = int(rng.integers(75, 121)), int(rng.integers(16, 60)), int(rng.integers(10, 40))
        keys = [*_noise(inputs), "activation=sigmoid", "init=glorot_normal", "dtype=float32"]
        keys += ["architecture=deep", f"architecture.depth={depth}", f"architecture.width={width}"]
        squares = (0.8 * inputs, 1.0 * inputs, 1.2 * inputs)
        sizes, weights = [inputs, *[width] * depth, 3], initializers.GlorotNormal()
        net = DrawnNetwork("sigmoid", sizes, squares, weights, initializers.Constant(0.0), tuple(keys))
        if min(net.decades(1)) > 48:
            return [*keys, *_untrained(rng)], f"theory expects {min(net.decades(1)):.0f} decades"
    raise RuntimeError("no network beyond float32")


def _single_examples(planter: Callable[[np.random.Generator, list[str]], Drawn]) -> Callable[..., Drawn]:
    """Return a planter of the same networks, measured at the start with batches of one example.

    Large weights make most units of a hard tanh flat on that example, and then they count as dead: not a clear case.
    They also make a softmax certain, and where it is right about that example, δ is 0 in all layers. The error of a
    squared cost is never 0.
    """

    def draw(rng: np.random.Generator, common: list[str]) -> Drawn:
        for _ in range(TRIES):
            keys, why = planter(rng, common)
            if "activation=hard_tanh" not in keys:
                break
        keys = _regression(_without(keys, "epochs", "batching", "optimizer"))
        return [*keys, "epochs=0", "batching.size=1", "replicates=5"], f"{why}; batches of one example"

    return draw


# Healthy networks that resemble faulty ones.


def _averaged(rng: np.random.Generator, common: list[str]) -> Drawn:
    """Draw ReLU networks whose batch gradient falls towards the input while δ does not, as one pass shows."""
    for _ in range(TRIES):
        depth, width = int(rng.integers(25, 41)), int(rng.integers(80, 121))
        keys = ["data=digits", "data.subset=200", "architecture=deep", f"architecture.depth={depth}"]
        keys += [f"architecture.width={width}", "activation=relu", "init=he_normal"]
        keys += ["epochs=0", f"batching.size={int(rng.integers(80, 161))}"]
        if (fall := _bias_decades([*keys, *common])) > 0.3:
            return keys, f"χ = 1 in {depth} layers of {width} units; the batch's mean of δ falls by {fall:.2g} decades"
    raise RuntimeError("no network whose examples disagree")


def _bias_decades(overrides: Sequence[str]) -> float:
    """Return log10 of ‖mean δ‖ in the last hidden layer over the first at the start, a mean over replicates."""
    run = prepare_run(_config(overrides))
    norms: list[Array] = []

    class Observer:
        def due(self, step: int) -> bool:
            return step == 0

        def on_step(self, step: int, network: Network, rows: Array) -> None:
            del step, rows
            flat = network.grad
            norms.extend(np.linalg.norm(_bias_gradient(network, flat, number), axis=-1) for number in (0, -2))

    list(train(run, Callbacks(observer=Observer())))
    return float(np.log10(norms[1] / norms[0]).mean())


def _bias_gradient(network: Network, flat: Array, number: int) -> Array:
    layer = network.layers[number]
    place = next(p.place for p in layer.parameters if p.name == "b")
    return flat[..., place]


def _scaled_inputs(rng: np.random.Generator, common: list[str]) -> Drawn:
    """Draw rectifier networks, whose flow does not depend on the scale of the inputs."""
    net, why = _healthy_net(rng, pick(rng, "relu", "leaky_relu"), NOISE)
    scale = between(rng, 2, 100)
    return [*_with_data(net, scale=scale), *_untrained(rng)], f"{why} for inputs of any size; {scale:g} times as large"


def _unbalanced(rng: np.random.Generator, common: list[str]) -> Drawn:
    net, why = _healthy_net(rng, pick(rng, *SIGMAS), NOISE)
    trained, _ = _trained(rng, net, common, int(rng.integers(1, 4)), 0.1, 0.3)
    return [*_with_data(net, largest=0.8), *trained], f"{why}; four fifths of the examples are of one class"


def _some_inputs_constant(rng: np.random.Generator, common: list[str]) -> Drawn:
    """Draw networks in which a tenth of the inputs is 0: ‖x‖² changes by as much."""
    net, why = _healthy_net(rng, pick(rng, *SIGMAS), NOISE)
    varying = math.ceil(0.9 * net.sizes[0])
    return [*_with_data(net, varying=varying), *_untrained(rng)], f"{why}; {net.sizes[0] - varying} inputs are 0"


def _wide(rng: np.random.Generator, common: list[str]) -> Drawn:
    depth, width = int(rng.integers(20, 41)), int(rng.integers(100, 151))
    keys = ["data=digits", "data.subset=200", "architecture=deep", f"architecture.depth={depth}"]
    keys += [f"architecture.width={width}", "activation=leaky_relu", "init=matched", *_untrained(rng)]
    return keys, f"χ = 1 in {depth} layers of {width} units"


_decay_of_use = _of_config("optimizer.weight_decay=0.0001", epochs=(1, 4))
_momentum_of_use = _of_config("optimizer.momentum=0.5", epochs=(1, 4))
_clipping_of_use = _of_config(
    "clipping@optimizer.clipping=global_norm", "optimizer.clipping.max_norm=1000", epochs=(1, 4)
)

KINDS = (
    Kind("healthy", _healthy, (HEALTHY,)),
    Kind("vanishing by weights", _vanishing, (VANISHING,)),
    Kind("exploding by weights", _exploding, (EXPLODING,)),
    Kind("healthy, constant offset of some inputs", _some_inputs_constant, (HEALTHY,)),
    Kind("diverged by weights", _overflowing_weights, (DIVERGED,), "before the first step"),
    Kind("diverged by rate", _overflowing_steps, (DIVERGED,), "The steps of the training"),
    Kind("healthy, scaled inputs", _scaled_inputs, (HEALTHY,)),
    Kind("dead by biases", _dead, (DEATH,), "dead from the start"),
    Kind("dead by rate", _killed, (DEATH,), "died in training"),
    Kind("healthy, unbalanced classes", _unbalanced, (HEALTHY,)),
    Kind("saturated by weights", _saturated, (SATURATION,), "weights or biases are too large"),
    Kind("saturated by inputs", _flat_by_inputs, (SATURATION,), "The inputs are large"),
    Kind("averaging only", _averaged, (HEALTHY,), "That is averaging, not vanishing"),
    Kind("steps too long by inputs", _long_by_inputs, (TOO_HIGH, DIVERGED, DEATH), "The inputs are large"),
    Kind("rate too high", _too_high, (TOO_HIGH, DIVERGED)),
    Kind("healthy, one example", _single_examples(_healthy), (HEALTHY,)),
    Kind("rate too low", _too_low, (TOO_LOW,)),
    Kind("rate zero", _of_config("optimizer.learning_rate=0"), (TOO_LOW,), "The rate is 0."),
    Kind("healthy, wide and deep", _wide, (HEALTHY,)),
    Kind("momentum too high", _undamped, (TOO_HIGH, DIVERGED, DEATH), "adds up about"),
    Kind("clipped to nothing", _clipped, (TOO_LOW,), "Clipping shortens"),
    Kind("healthy, weight decay", _decay_of_use, (HEALTHY,)),
    Kind("weight decay too strong", _decaying, (DECAY,)),
    Kind("zero weights", _zero_weights, (BLOCKED,)),
    Kind("healthy, momentum", _momentum_of_use, (HEALTHY,)),
    Kind("equal weights", _symmetric, (IDENTICAL,)),
    Kind("zero inputs", _zero_inputs, (EQUAL_INPUTS,)),
    Kind("healthy, clipping", _clipping_of_use, (HEALTHY,)),
    Kind("constant inputs", _constant_inputs, (EQUAL_INPUTS,)),
    Kind("one class", _one_class, (EQUAL_TARGETS,)),
    Kind("constant target", _constant_target, (EQUAL_TARGETS,)),
    Kind("width too small", _narrow, (VANISHING,), "The layers are narrow"),
    Kind("vanishing, one example", _single_examples(_vanishing), (VANISHING,)),
    Kind("depth beyond float32", _beyond_float32, (VANISHING,), "below the range of float32"),
    Kind("exploding, one example", _single_examples(_exploding), (EXPLODING,)),
)
CYCLE = (*KINDS, KINDS[0])  # the order in which networks are drawn
