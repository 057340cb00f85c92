"""PyTorch steps to time: eager mode, in the fastest of several usual ways to write the step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from benchmarks.contenders import Problem
from benchmarks.timing import Step, interleaved
from engine.arrays import Array

try:
    import torch
except ImportError:
    torch = None

INSTALL = ".venv/bin/python -m pip install 'torch>=2.9'"
WAYS = tuple(product(("fused", "foreach", "single"), ("foreach", "each")))  # kinds of SGD and of norms


def version() -> str | None:
    """Return PyTorch's version, or None if it is not installed. Limit PyTorch to one thread."""
    if torch is None:
        return None
    torch.set_num_threads(1)
    return str(torch.__version__)


def tutorial_step(problem: Problem) -> Step:
    """Return the step as PyTorch's own tutorials write it: default SGD, and each norm fetched as a number."""
    model = _model(problem)
    x, target = torch.from_numpy(problem.rows), torch.from_numpy(problem.labels)
    cost = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=problem.config.optimizer.learning_rate)
    weights = [module.weight for module in model if isinstance(module, torch.nn.Linear)]

    def step() -> list[float]:
        optimizer.zero_grad()
        loss = cost(model(x), target)
        loss.backward()
        norms = [w.grad.norm().item() for w in weights]
        optimizer.step()
        return norms

    return step


def _model(problem: Problem) -> Any:
    """Return an nn.Linear stack with our initial parameters."""
    sigmas = {"sigmoid": torch.nn.Sigmoid, "tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
    modules: list[Any] = []
    for layer in problem.network().layers:
        n, m = layer.W.shape[-2:]
        linear = torch.nn.Linear(m, n, dtype=getattr(torch, problem.dtype))
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(layer.W[0]))
            linear.bias.copy_(torch.from_numpy(layer.b[0, :, 0]))
        modules += [linear, sigmas[problem.net.activation]()]
    return torch.nn.Sequential(*modules[:-1])


def peer_step(problem: Problem, optimizer_kind: str, norm_kind: str) -> Step:
    """Return a step: zero_grad, forward, backward, norms of the weights' gradients, SGD step.

    Args:
        problem: The network and the batch.
        optimizer_kind: "single", "foreach" or "fused".
        norm_kind: "foreach" or "each".
    """
    model = _model(problem)
    x, target = torch.from_numpy(problem.rows), torch.from_numpy(problem.labels)
    cost = torch.nn.CrossEntropyLoss()
    flags = {"single": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}[optimizer_kind]
    optimizer = torch.optim.SGD(model.parameters(), lr=problem.config.optimizer.learning_rate, **flags)
    weights = [module.weight for module in model if isinstance(module, torch.nn.Linear)]

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        cost(model(x), target).backward()
        if norm_kind == "foreach":
            norms = torch._foreach_norm([w.grad for w in weights])
        else:
            norms = [w.grad.norm() for w in weights]
        optimizer.step()
        return norms

    return step


def fastest_peer_step(problem: Problem, seconds: float, ways: Sequence[tuple[str, str]] = WAYS) -> tuple[str, Step]:
    """Time several ways to write the step. Return the fastest with its name."""
    steps = {f"{optimizer} SGD, {norm} norm": peer_step(problem, optimizer, norm) for optimizer, norm in ways}
    times = interleaved(steps, seconds, least_rounds=3) if len(steps) > 1 else {}
    name = min(steps, key=lambda way: float(np.median(times[way])) if times else 0.0)
    return name, steps[name]


def peer_products(problem: Problem) -> Step:
    """Return PyTorch's W a, Wᵀ δ and δ aᵀ of every layer into buffers, with examples as rows.

    It corresponds to :func:`benchmarks.contenders.bare_products`.
    """
    B, layers = len(problem.rows), []
    a = torch.from_numpy(problem.rows)
    for layer in problem.network().layers:
        W = torch.from_numpy(layer.W[0].copy())
        z, delta = a.new_zeros(B, len(W)), torch.rand(B, len(W), dtype=W.dtype)
        layers.append((W, a, z, delta, torch.empty_like(W), torch.empty_like(a)))
        a = torch.rand(B, len(W), dtype=W.dtype)

    def step() -> None:
        with torch.no_grad():
            for W, a, z, _, _, _ in layers:
                torch.mm(a, W.T, out=z)
            for i, (W, a, _, delta, dW, below) in reversed(list(enumerate(layers))):
                torch.mm(delta.T, a, out=dW)
                if i:
                    torch.mm(delta, W, out=below)

    return step


def peer_gradient(problem: Problem) -> list[Array]:
    """Return ∂C/∂W of every layer at initialisation."""
    model = _model(problem)
    cost = torch.nn.CrossEntropyLoss()
    cost(model(torch.from_numpy(problem.rows)), torch.from_numpy(problem.labels)).backward()
    return [m.weight.grad.numpy().copy() for m in model if isinstance(m, torch.nn.Linear)]
