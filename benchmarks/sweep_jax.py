"""Time a stack of 32 networks: the engine's step, JAX (jit, scan over steps, vmap over networks), and PyTorch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from benchmarks import peer
from benchmarks.contenders import Problem, our_step
from benchmarks.nets import DTYPES, NETS, Net
from benchmarks.sweep_page import BrokenError, Goal, Outcome, UnavailableError, markdown_table
from benchmarks.timing import Step, Times, interleaved
from engine.arrays import Array

NETWORKS = 32
SMALL = NETS[:3]  # the networks with a goal
LEAST_SPEED = 0.8  # of JAX's
INSTALL = ".venv/bin/python -m pip install 'jax>=0.6'"
TOLERANCE = {"float32": 1e-3, "float64": 1e-10}  # relative to the largest entry of a layer's gradient
WORK_OF_CALL = 2e9  # multiplications and additions in one call of JAX, about 0.1 s


def version() -> str | None:
    """Return the version of JAX, or None if it is not installed."""
    try:
        return metadata.version("jax")
    except metadata.PackageNotFoundError:
        return None


@contextmanager
def one_core() -> Iterator[None]:
    """Limit this process to one core. JAX starts as many threads as there are cores when it is first used."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class JaxStack:
    """JAX's training of a stack.

    Attributes:
        gradient: Returns ∂C/∂W [networks, n, m] of every layer at initialisation.
        train: Makes ``steps`` steps from the initialisation and waits for the result.
        steps: The steps of one call.
    """

    gradient: Callable[[], list[Array]]
    train: Step
    steps: int


def jax_stack(problem: Problem, networks: int, steps: int) -> JaxStack:
    """Compile the training of a stack: the same steps as :func:`benchmarks.contenders.our_step`.

    Args:
        problem: The network and the batch.
        networks: The number of networks.
        steps: The steps of one call.
    """
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)  # has no effect on float32 arrays
    sigma = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu}[problem.net.activation]
    rate = problem.config.optimizer.learning_rate

    def cost(parameters: Any, x: Any, labels: Any) -> Any:
        a = x
        for W, b in parameters[:-1]:
            a = sigma(a @ W.T + b)
        W, b = parameters[-1]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(a @ W.T + b), labels[:, None], axis=1))

    def step(parameters: Any, x: Any, labels: Any) -> tuple[Any, Any]:
        gradient = jax.grad(cost)(parameters, x, labels)
        norms = jnp.stack([jnp.linalg.norm(dW) for dW, _ in gradient])
        return jax.tree.map(lambda p, g: p - rate * g, parameters, gradient), norms

    def train(parameters: Any, x: Any, labels: Any) -> Any:
        return jax.lax.scan(lambda p, _: step(p, x, labels), parameters, None, length=steps)

    layers = problem.network(networks).layers
    parameters = [(jnp.asarray(layer.W), jnp.asarray(layer.b[..., 0])) for layer in layers]
    x, labels = (jnp.asarray(np.repeat(v[None], networks, axis=0)) for v in (problem.rows, problem.labels))
    compiled = jax.jit(jax.vmap(train))

    def gradient() -> list[Array]:
        return [np.asarray(dW) for dW, _ in jax.jit(jax.vmap(jax.grad(cost)))(parameters, x, labels)]

    return JaxStack(gradient, lambda: jax.block_until_ready(compiled(parameters, x, labels)), steps)


def steps_of_call(net: Net, networks: int) -> int:
    """Return how many steps one call of JAX makes, 2 to 200."""
    products = sum(n * m for m, n in zip(net.sizes[:-1], net.sizes[1:], strict=True))
    return int(np.clip(WORK_OF_CALL / (6 * products * net.batch * networks), 2, 200))


OURS, JAX, PYTORCH = "ours", "JAX", "PyTorch"


def time_net(net: Net, dtype: str, networks: int, seconds: float, rounds: int) -> Times:
    """Return the seconds per network and step of each side.

    Args:
        net: The network.
        dtype: The name of the dtype.
        networks: The number of networks of the stack.
        seconds: The approximate time of all rounds.
        rounds: The least number of rounds.

    Raises:
        BrokenError: The sides compute different gradients.
    """
    problem = Problem.of(net, dtype)
    compiled = jax_stack(problem, networks, steps_of_call(net, networks))
    _require_same_gradients(problem, networks, compiled)
    sides: dict[str, Step] = {OURS: our_step(problem, networks), JAX: compiled.train}
    divisors = {OURS: networks, JAX: networks * compiled.steps, PYTORCH: 1}
    if peer.version():
        sides[PYTORCH] = peer.fastest_peer_step(problem, seconds / 4, peer.WAYS if rounds > 1 else peer.WAYS[:1])[1]
    times = interleaved(sides, seconds, rounds)
    return {name: values / divisors[name] for name, values in times.items()}


def _require_same_gradients(problem: Problem, networks: int, compiled: JaxStack) -> None:
    """Check that the stack's gradient is JAX's, and that the one of its first network is PyTorch's."""
    network, (x, y) = problem.network(networks), problem.batch()
    network.forward(np.broadcast_to(x, (networks, *x.shape[1:])))
    network.backward(np.broadcast_to(y, (networks, *y.shape[1:])), problem.config.cost)
    ours = [layer.dW for layer in network.layers]
    peers = {JAX: compiled.gradient()}
    if peer.version():
        peers[PYTORCH] = [dW[None] for dW in peer.peer_gradient(problem)]
    for name, gradient in peers.items():
        for own, other in zip(ours, gradient, strict=True):
            if np.abs(own[: len(other)] - other).max() > TOLERANCE[problem.dtype] * np.abs(own).max():
                raise BrokenError(f"{problem.net.name} {problem.dtype}: our gradient differs from that of {name}")


def speed_goal(net: Net, dtype: str) -> Goal:
    """Return the goal of a network: our speed relative to JAX's."""
    return Goal(f"{net.name}, {dtype}: our speed / JAX's", least=LEAST_SPEED if net in SMALL else None)


JAX_GOALS = tuple(speed_goal(net, dtype) for net in NETS for dtype in DTYPES)


def time_jax(quick: bool) -> Outcome:
    """Compare stacks of 32 networks, one core for each side."""
    if version() is None:
        raise UnavailableError(f"JAX is not installed (`{INSTALL}`)")
    networks, seconds, rounds = (2, 0.0, 1) if quick else (NETWORKS, 8.0, 5)
    values, rows = {}, []
    with one_core():
        for net in NETS:
            for dtype in DTYPES:
                times = time_net(net, dtype, networks, seconds, rounds if net in SMALL else min(rounds, 3))
                values[speed_goal(net, dtype).quantity] = times[JAX] / times[OURS]
                rows.append([net.name, str(net.batch), dtype, *_microseconds(times)])
    section = f"""\
## A stack of {networks} networks on one core

Microseconds per network and step, medians. A step is forward, backward, the norms of the weights' gradients and the
SGD update. Ours is the engine's step of the stack. JAX compiles the same step with `jit`, `lax.scan` over the steps and
`vmap` over the networks. PyTorch steps one network at a time, in its fastest way (`benchmarks/peer.py`). Each network
has its own copy of one batch. All sides compute the same gradients."""
    return Outcome(values, [section, markdown_table(["net", "B", "dtype", OURS, JAX, PYTORCH], rows)])


def _microseconds(times: Times) -> list[str]:
    return [f"{np.median(times[name]) * 1e6:.1f}" if name in times else "-" for name in (OURS, JAX, PYTORCH)]
