"""NumPy steps to time: the engine's, the pipeline's measured one, one written inline, and the bare matrix products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.nets import Net
from benchmarks.timing import Step
from engine.arrays import Array, norm
from engine.initializers import initialize
from engine.network import Network
from engine.probes import Probe, traits_of
from engine.probes import Step as TrainingStep
from pipeline.config.compose import compose_run
from pipeline.config.schema import Config, build
from pipeline.training.measure import measure

# So low that thousands of steps on one batch hardly change the numbers: nothing converges, dies or underflows.
LEARNING_RATE = 1e-5


@dataclass(frozen=True)
class Problem:
    """A network at initialisation and one batch, the same for all contenders.

    Attributes:
        net: The sizes, the activation and the batch size.
        config: The composed default config with the net's activation.
        dtype: The name of the dtype.
        rows: Inputs [B, n_0], one example in each row.
        labels: Class numbers [B].
    """

    net: Net
    config: Config
    dtype: str
    rows: Array
    labels: Array

    @classmethod
    def of(cls, net: Net, dtype: str) -> Problem:
        """Return the problem in a dtype. The numbers of all dtypes agree up to rounding."""
        overrides = [f"activation={net.activation}", f"dtype={dtype}", f"optimizer.learning_rate={LEARNING_RATE}"]
        rng = np.random.default_rng(0)
        rows = rng.random((net.batch, net.sizes[0])).astype(dtype)
        labels = rng.integers(net.sizes[-1], size=net.batch)
        return cls(net, build(compose_run(overrides)), dtype, rows, labels)

    def network(self, replicates: int = 1) -> Network:
        """Return a new stack as the pipeline builds it, with the same parameters at each call."""
        sigmas = self.config.activations(len(self.net.sizes) - 1)
        network = Network.mlp(self.net.sizes, sigmas, (replicates,), self.dtype)
        rngs = [np.random.default_rng(1 + k) for k in range(replicates)]
        initialize(network, self.config.init.weights, self.config.init.biases, rngs)
        return network

    def batch(self, networks: int = 1) -> tuple[Array, Array]:
        """Return x and y as the pipeline passes them: columns are examples, and x is a transposed view of rows.

        Args:
            networks: The number of networks; each has its own copy.
        """
        y = np.ascontiguousarray(np.eye(self.net.sizes[-1], dtype=self.dtype)[self.labels].T)
        return np.repeat(self.rows[None], networks, axis=0).mT, np.repeat(y[None], networks, axis=0)


def our_step(problem: Problem, networks: int = 1) -> Step:
    """Return the engine's step of a stack: forward, backward, SGD update and ‖∂C/∂W‖ of every layer."""
    network, (x, y) = problem.network(networks), problem.batch(networks)
    cost, optimizer = problem.config.cost, problem.config.optimizer
    velocity = optimizer.start(network)

    def step() -> list[Array]:
        network.forward(x)
        network.backward(y, cost)
        norms = [norm(layer.dW) for layer in network.layers]
        optimizer.propose(network, velocity, 0, 1)
        network.theta += network.update
        return norms

    return step


def measured_step(problem: Problem, probes: Mapping[str, Probe], replicates: int = 1) -> Step:
    """Return the pipeline's step: forward, backward, the proposed update, and the records of all probes.

    Args:
        problem: The network and the batch.
        probes: Probes to record in every layer. Empty for none.
        replicates: The number of networks in the stack.
    """
    network, config = problem.network(replicates), problem.config
    x, y = (np.repeat(v.mT, replicates, axis=0).mT for v in problem.batch())
    velocity = config.optimizer.start(network)
    needs_previous = any(traits_of(probe).needs_previous for probe in probes.values())
    previous = np.ones_like(network.grad) if needs_previous else None

    def generators(use: int) -> list[np.random.Generator]:
        return [np.random.default_rng(use)] * replicates

    def step() -> None:
        network.forward(x)
        network.backward(y, config.cost)
        config.optimizer.propose(network, velocity, 0, 1)
        if probes:
            measure(TrainingStep(network, y, config.cost, previous, generators), probes, 0)
        if previous is not None:
            previous[...] = network.grad
        network.theta += network.update

    return step


def inline_step(problem: Problem) -> Step:
    """Return the step of :func:`our_step` written inline in NumPy, for a softmax network and allocated arrays."""
    network, rate = problem.network(), problem.config.optimizer.learning_rate
    x, y = (v[0] for v in problem.batch())
    size = x.shape[-1]
    network.forward(x)
    W, b, dW, db = ([getattr(layer, name)[0].copy() for layer in network.layers] for name in ("W", "b", "dW", "db"))
    z, a, delta, slope, average, update = (
        [np.empty_like(v) for v in like] for like in [[layer.z[0] for layer in network.layers]] * 5 + [W]
    )
    inputs = [x, *a[:-1]]
    forward, derivative = BY_HAND[problem.net.activation]
    top = len(W) - 1

    @np.errstate(all="ignore")
    def step() -> list[float]:
        for i in range(top + 1):
            np.matmul(W[i], inputs[i], out=z[i])
            np.add(z[i], b[i], out=z[i])
            if i < top:
                forward(z[i], a[i])
        np.exp(z[top] - z[top].max(axis=0), out=a[top])
        np.divide(a[top], a[top].sum(axis=0), out=a[top])
        np.subtract(a[top], y, out=delta[top])
        for i in range(top, -1, -1):
            np.multiply(delta[i], 1 / size, out=average[i])
            np.add.reduce(average[i], axis=1, keepdims=True, out=db[i])
            np.matmul(average[i], inputs[i].T, out=dW[i])
            if i:
                np.matmul(W[i].T, delta[i], out=delta[i - 1])
                derivative(z[i - 1], a[i - 1], slope[i - 1])
                np.multiply(delta[i - 1], slope[i - 1], out=delta[i - 1])
        norms = [float(np.linalg.norm(g)) for g in dW]
        for i in range(top + 1):
            np.multiply(dW[i], -rate, out=update[i])
            np.add(W[i], update[i], out=W[i])
            db[i] *= -rate
            np.add(b[i], db[i], out=b[i])
        return norms

    return step


def _sigmoid(z: Array, a: Array) -> None:
    np.negative(z, out=a)
    np.exp(a, out=a)
    np.add(a, 1, out=a)
    np.reciprocal(a, out=a)


def _sigmoid_slope(z: Array, a: Array, out: Array) -> None:
    np.subtract(1, a, out=out)
    np.multiply(out, a, out=out)


def _tanh_slope(z: Array, a: Array, out: Array) -> None:
    np.multiply(a, a, out=out)
    np.subtract(1, out, out=out)


BY_HAND: dict[str, tuple[Callable[..., object], Callable[..., object]]] = {
    "sigmoid": (_sigmoid, _sigmoid_slope),
    "tanh": (np.tanh, _tanh_slope),
    "relu": (lambda z, a: np.maximum(z, 0, out=a), lambda z, a, out: np.greater(z, 0, out=out)),
}


def bare_products(problem: Problem) -> Step:
    """Return W a, Wᵀ δ and δ aᵀ of every layer into buffers: a lower bound for any NumPy program."""
    network, (x, y) = problem.network(), problem.batch()
    network.forward(x)
    network.backward(y, problem.config.cost)
    layers = [(q.W[0], q.a_in[0], q.z[0], np.empty_like(q.z[0]), q.delta[0], q.dW[0]) for q in network.layers]

    def step() -> None:
        for W, a_in, z, _, _, _ in layers:
            np.matmul(W, a_in, out=z)
        for i in range(len(layers) - 1, -1, -1):
            W, a_in, _, _, delta, dW = layers[i]
            np.matmul(delta, a_in.mT, out=dW)
            if i:
                np.matmul(W.mT, delta, out=layers[i - 1][3])

    return step


def our_gradient(problem: Problem) -> list[Array]:
    """Return ∂C/∂W of every layer at initialisation, to compare with PyTorch's."""
    network, (x, y) = problem.network(), problem.batch()
    network.forward(x)
    network.backward(y, problem.config.cost)
    return [layer.dW[0].copy() for layer in network.layers]
