"""Networks, activations and costs that the engine's tests share."""

from __future__ import annotations

import numpy as np

from engine import activations as act
from engine import costs
from engine.activations import Activation
from engine.arrays import Array
from engine.initializers import Gaussian, GaussianFanIn, initialize
from engine.network import Network

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
    """For pytest's ids."""
    return str(part) if isinstance(part, tuple) and not part else getattr(type(part), "__name__", str(part))


def network(
    sizes: list[int], sigmas: list[Activation], ensemble: tuple[int, ...] = (), dtype: str = "float64", seed: int = 0
) -> Network:
    """A random network with biases; member k of the stack is seeded with seed + k."""
    made = Network(sizes, sigmas, ensemble, dtype)
    rngs = [np.random.default_rng(seed + k) for k in range(made.members)]
    initialize(made, GaussianFanIn(1.3), Gaussian(0.4), rngs)
    return made


def batch(net: Network, examples: int, seed: int = 0) -> tuple[Array, Array]:
    """Inputs [E..., n_0, B] and targets [E..., n_L, B] in (0, 1) that sum to one."""
    rng = np.random.default_rng(seed + 1000)
    x = rng.standard_normal((*net.ensemble, net.sizes[0], examples)).astype(net.theta.dtype)
    y = rng.random((*net.ensemble, net.sizes[-1], examples)) + 0.1
    return x, (y / y.sum(axis=-2, keepdims=True)).astype(net.theta.dtype)


def member(net: Network, index: tuple[int, ...]) -> Network:
    """One member of a stack, as a network of its own."""
    alone = Network(net.sizes, [layer.sigma for layer in net.layers], (), net.theta.dtype)
    alone.theta[...] = net.theta[index]
    return alone
