"""Our side: the step as who uses the engine would write it, with every default probe as the pipeline takes it, and the
bare matrix products.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.nets import Net
from benchmarks.timing import Step
from engine.arrays import Array, aligned
from engine.initializers import initialize
from engine.moment import Moment
from engine.network import Network
from engine.probes import GradientNorm, Probe
from engine.sums import Of, Sums
from pipeline.composing import compose_run
from pipeline.config import Config, build
from pipeline.measuring import Ledger
from pipeline.stopwatch import Stopwatch

# So low that thousands of steps on one batch leave the numbers as they are: nothing converges, dies or underflows.
LEARNING_RATE = 1e-5


@dataclass(frozen=True)
class Problem:
    """A net at initialisation and one batch, for all contenders alike.

    Attributes:
        config: the composed default config with this net's activation.
        rows: inputs [B, n_0], one example a row.
        labels: class numbers [B].
    """

    net: Net
    config: Config
    dtype: str
    rows: Array
    labels: Array

    @classmethod
    def of(cls, net: Net, dtype: str) -> Problem:
        """The problem in this dtype; the numbers are the same in both, up to rounding."""
        overrides = [f"activation={net.activation}", f"dtype={dtype}", f"optimizer.learning_rate={LEARNING_RATE}"]
        rng = np.random.default_rng(0)
        rows = aligned((net.batch, net.sizes[0]), dtype)
        rows[...] = rng.random(rows.shape)
        labels = rng.integers(net.sizes[-1], size=net.batch)
        return cls(net, build(compose_run(overrides)), dtype, rows, labels)

    def network(self) -> Network:
        """A fresh stack of one, as the pipeline makes it for ``replicates=1``; equal every time."""
        network = Network(self.net.sizes, self.config.activations(len(self.net.sizes) - 1), (1,), self.dtype)
        initialize(network, self.config.init.weights, self.config.init.biases, [np.random.default_rng(1)])
        return network

    def batch(self) -> tuple[Array, Array]:
        """x and y as the pipeline hands them over: columns are examples, those of x a transposed view of rows."""
        y = np.eye(self.net.sizes[-1], dtype=self.dtype)[self.labels]
        return self.rows[None].mT, np.ascontiguousarray(y.T)[None]


def our_step(problem: Problem) -> Step:
    """Forward, backward, SGD update, ‖∂C/∂W‖ of every layer."""
    network, (x, y), config = problem.network(), problem.batch(), problem.config
    optimizer, cost, wanted = config.optimizer, config.cost, GradientNorm().wanted
    state = optimizer.start(network)
    network.forward(x)
    sums = Sums.along(network, wanted)

    @np.errstate(all="ignore")
    def step() -> list[list[float]]:
        network.take_gradient(x, y, cost, sums)
        norms: list[list[float]] = sums.norm(Of.GRADIENT).tolist()
        optimizer.propose(network, state, 0, 1).apply()
        return norms

    return step


def measured_step(problem: Problem, probes: Mapping[str, Probe]) -> Step:
    """A step as the pipeline takes it, with these probes (or none) in every layer.

    Forward, backward, what is measured, the records told, SGD update; and the gradient of the step before is kept for
    probes that compare.
    """
    network, (x, y), config = problem.network(), problem.batch(), problem.config
    state = config.optimizer.start(network)
    ledger, names = Ledger(probes, prompt=False, stopwatch=Stopwatch(None)), list(probes)
    comparing = any(p.needs_previous for p in probes.values())
    previous = np.ones_like(network.grad) if comparing else None

    def generators(use: int) -> list[np.random.Generator]:
        return [np.random.default_rng(use)]

    def step() -> None:
        network.gradient(x, y, config.cost, ledger.onlooker(names))
        proposal = config.optimizer.propose(network, state, 0, 1)
        ledger.take(Moment(network, proposal, y, config.cost, previous, generators), names, 0)
        deque(ledger.tell(), maxlen=0)
        if previous is not None:
            previous[...] = network.grad
        with np.errstate(all="ignore"):
            proposal.apply()

    return step


def cycle(problem: Problem, probes: Mapping[str, Probe]) -> int:
    """After how many measured steps all that belongs to them has been done: they are worked out several at once."""
    network, (x, _) = problem.network(), problem.batch()
    network.forward(x)
    return Ledger(probes, prompt=False, stopwatch=Stopwatch(None)).together(network, list(probes))


def bare_products(problem: Problem) -> Step:
    """W a, Wᵀ δ and δ aᵀ of every layer into buffers, and nothing else: what no NumPy program can undercut."""
    network, (x, y) = problem.network(), problem.batch()
    network.forward(x)
    network.backward(y, problem.config.cost)
    layers = [(q.W[0], q.a_in[0], q.z[0], q.dC_da[0], q.delta[0], q.dW[0]) for q in network.layers]

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
    """∂C/∂W of every layer at initialisation, to compare with the peer's."""
    network, (x, y) = problem.network(), problem.batch()
    network.forward(x)
    network.backward(y, problem.config.cost)
    return [layer.dW[0].copy() for layer in network.layers]
