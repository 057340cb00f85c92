"""Networks, activations, costs and steps shared by the tests of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from engine import activations as act
from engine import costs, probes
from engine.activations import Activation
from engine.arrays import Array
from engine.blocks import Block
from engine.initializers import Gaussian, GaussianFanIn, initialize
from engine.network import Dense, Network
from engine.normalisation import BatchNorm, LayerNorm
from engine.probes import Measurement, Probe, Step
from engine.residual import Residual

ELEMENTWISE: list[Activation] = [
    act.Sigmoid(),
    act.Tanh(),
    act.Relu(),
    act.LeakyRelu(0.1),
    act.Elu(1.3),
    act.Selu(),
    act.Gelu(),
    act.Silu(),
    act.Softplus(),
    act.Softsign(),
    act.HardTanh(),
    act.Identity(),
]
ALL: list[Activation] = [*ELEMENTWISE, act.Softmax()]
PAIRS: list[tuple[Activation, costs.Cost]] = [
    *[(sigma, cost) for sigma in ALL for cost in (costs.SquaredError(), costs.HalfSquaredError())],
    (act.Sigmoid(), costs.CrossEntropy()),
    (act.Softmax(), costs.LogLikelihood()),
]
ENSEMBLES: list[tuple[int, ...]] = [(), (3,), (2, 2)]


def name(part: object) -> str:
    """Return the pytest id of a parameter."""
    return str(part) if isinstance(part, tuple) and not part else getattr(type(part), "__name__", str(part))


def network(
    sizes: list[int], sigmas: list[Activation], ensemble: tuple[int, ...] = (), dtype: str = "float64", seed: int = 0
) -> Network:
    """Return a random network with biases; the seed of member k is seed + k."""
    net = Network.mlp(sizes, sigmas, ensemble, dtype)
    rngs = [np.random.default_rng(seed + k) for k in range(net.members)]
    initialize(net, GaussianFanIn(1.3), Gaussian(0.4), rngs)
    return net


def batch(net: Network, examples: int, seed: int = 0) -> tuple[Array, Array]:
    """Return inputs [E..., n_0, B] and targets [E..., n_L, B] in (0, 1) that sum to one."""
    rng = np.random.default_rng(seed + 1000)
    x = rng.standard_normal((*net.ensemble, net.blocks[0].n_in, examples)).astype(net.dtype)
    y = rng.random((*net.ensemble, net.output.n_out, examples)) + 0.1
    return x, (y / y.sum(axis=-2, keepdims=True)).astype(net.dtype)


def member(net: Network, index: tuple[int, ...]) -> Network:
    """Return a copy of one member of a stack as a single network."""
    alone = Network([block.twin() for block in net.blocks], (), net.dtype)
    alone.theta[...] = net.theta[index]
    return alone


def sizes_of(net: Network) -> list[int]:
    """Return n_0, ..., n_L."""
    return [net.blocks[0].n_in, *(layer.n_out for layer in net.layers)]


def views(net: Network, flat: Array) -> list[tuple[Array, Array]]:
    """Return (W [E..., n, m], b [E..., n, 1]) of every layer as views into flat [E..., P]."""
    pairs = [[parameter.view(flat) for parameter in layer.parameters] for layer in net.layers]
    return [(W, b) for W, b in pairs]


def weights(net: Network, flat: Array) -> list[Array]:
    """Return W [E..., n, m] of every layer as views into flat [E..., P]."""
    return [W for W, _ in views(net, flat)]


def gradient(net: Network, x: Array, y: Array, cost: costs.Cost) -> Array:
    """Return ∂C/∂θ after a forward and a backward pass."""
    net.forward(x)
    return net.backward(y, cost)


def build_probe(raw_config: dict[str, Any]) -> Probe:
    """Return the probe that a file of conf/probe describes."""
    target = getattr(probes, raw_config["_target_"].rpartition(".")[2])
    options = {k: build_probe(v) if isinstance(v, dict) else v for k, v in raw_config.items() if not k.startswith("_")}
    probe: Probe = partial(target, **options) if raw_config.get("_partial_") else target(**options)
    return probe


CONF = Path(__file__).parents[2] / "conf"
PROBES: dict[str, Probe] = {
    f.stem: build_probe(yaml.safe_load(f.read_text())) for f in sorted(CONF.glob("probe/*.yaml"))
}


def step_of(net: Network, x: Array, y: Array, cost: costs.Cost, seed: int = 0) -> Step:
    """Return a step with random update and previous gradient; a whole pass is three batches of other sizes."""

    def generators(stream: int) -> list[np.random.Generator]:
        return [np.random.default_rng([seed, k, stream]) for k in range(net.members)]

    gradient(net, x, y, cost)
    net.update[...], previous = np.random.default_rng(seed).standard_normal((2, *net.theta.shape)).astype(net.dtype)
    inputs = [batch(net, examples, seed + examples)[0] for examples in (3, 1, 4)]
    return Step(net, y, cost, previous, generators, lambda: iter(inputs))


def step_alone(stacked: Step, k: tuple[int, ...]) -> Step:
    """Return the same step for member k as a single network."""
    net, index = member(stacked.network, k), int(np.ravel_multi_index(k, stacked.network.ensemble)) if k else 0
    assert stacked.y is not None
    assert stacked.cost is not None
    assert stacked.previous_grad is not None
    gradient(net, stacked.network.x[k], stacked.y[k], stacked.cost)
    net.update[...] = stacked.network.update[k]
    fields = stacked.y[k], stacked.cost, stacked.previous_grad[k], lambda stream: [stacked.generators(stream)[index]]
    return Step(net, *fields, lambda: (x[k] for x in stacked.inputs()))


def measured(step: Step, probes_: dict[str, Probe], k: tuple[int, ...] = ()) -> dict[str, list[Any]]:
    """Return the measurements of one member as bytes, without histogram bins of value 0."""

    def of_member(m: Measurement) -> Any:
        index: Any = (slice(None), *k)
        values = np.where(np.isnan(m.values), np.nan, m.values)[index]  # the bits of a NaN have no meaning
        if m.bins is None:
            return m.layers, m.part, values.tobytes()
        kept = (values != 0).any(axis=0) if m.sparse else slice(None)
        return m.layers, m.part, np.array(m.bins)[kept].tolist(), values[..., kept].tobytes()

    return {key: [of_member(m) for m in probes.measure(step, probe)] for key, probe in probes_.items()}


def block_network(
    kinds: Sequence[str],
    sizes: tuple[int, int, int],
    sigma: Activation,
    output: Activation,
    ensemble: tuple[int, ...] = (),
    dtype: str = "float64",
    seed: int = 0,
) -> Network:
    """Return a random network with n_in, n, n_out units and blocks of these kinds (``BLOCKS``) in the middle."""
    n_in, n, n_out = sizes
    middle = [BLOCKS[kind](n, sigma) for kind in kinds]
    net = Network([Dense(n_in, n, sigma), *middle, Dense(n, n_out, output)], ensemble, dtype)
    rngs = [np.random.default_rng(seed + k) for k in range(net.members)]
    initialize(net, GaussianFanIn(1.3), Gaussian(0.4), rngs)
    rest = net.theta.reshape(net.members, -1)[:, net.n_weights :]
    for k, rng in enumerate(rngs):
        rest[k] += 0.3 * rng.standard_normal(rest.shape[1])
    return net


def _branch(n: int, sigma: Activation) -> list[Block]:
    return [Dense(n, 3, sigma), LayerNorm(3, 1e-5, learned=True), Dense(3, n, act.Identity())]


BLOCKS: dict[str, Any] = {
    "dense": lambda n, sigma: Dense(n, n, sigma),
    "residual": lambda n, sigma: Residual(_branch(n, sigma), 0.7),
    "nested residual": lambda n, sigma: Residual([Residual(_branch(n, sigma), -0.5), Dense(n, n, sigma)]),
    "batch norm": lambda n, sigma: BatchNorm(n, 1e-5, 0.1, learned=True),
    "fixed batch norm": lambda n, sigma: BatchNorm(n, 1e-3, 0.3, learned=False),
    "layer norm": lambda n, sigma: LayerNorm(n, 1e-5, learned=True),
    "fixed layer norm": lambda n, sigma: LayerNorm(n, 1e-3, learned=False),
}
