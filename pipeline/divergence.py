"""When numbers blow up: which value was the first, where it was made, and by what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from engine.arrays import Array
from engine.network import Dense
from engine.probes import Step
from pipeline.records import Record


@dataclass(frozen=True)
class DivergenceConfig:
    """What to do when a replicate diverges.

    Args:
        stop: end the run as soon as every replicate has diverged; otherwise train on to the end.
        keep_steps: how many steps before the first non-finite value to measure again and keep; also how often the
            parameters are looked at (measured values are, whenever they are measured).
    """

    stop: bool
    keep_steps: int

    def __post_init__(self) -> None:
        if self.keep_steps < 1:
            raise ValueError(f"keep_steps={self.keep_steps}: must be >= 1")


@dataclass(frozen=True)
class Finding:
    """The first value of one replicate that is not finite.

    Attributes:
        replicate, step: whose and when; the update of step t leads from θ_t to θ_{t+1}.
        layer: 1 ... L, or None for the cost.
        quantity: z, a, C, δ, ∂C/∂W, ∂C/∂b, ΔW, Δb, W or b.
        operation: what made it.
        operands: the largest magnitude of each thing that went in.
        count: how many entries are not finite.
    """

    replicate: int
    step: int
    layer: int | None
    quantity: str
    operation: str
    operands: Mapping[str, float]
    count: int

    def sentence(self) -> str:
        """In words."""
        where = f" of layer {self.layer}" if self.layer else ""
        entries = "1 entry" if self.count == 1 else f"{self.count} entries"
        sizes = ", ".join(f"max|{name}| = {value:.3g}" for name, value in self.operands.items())
        return (
            f"replicate {self.replicate} diverged at step {self.step}: {self.quantity}{where} = {self.operation} "
            f"was the first to be not finite ({entries}), with {sizes}"
        )


@dataclass(frozen=True)
class Divergence:
    """A finding, and the vitals of the last steps up to it, measured at every one of them."""

    finding: Finding
    last_steps: list[Record]


@np.errstate(all="ignore")
def first_non_finite(computed: Step, replicate: int, step: int) -> Finding | None:
    """The first non-finite value of a replicate in the order of computing; None if there is none."""
    for layer, quantity, operation, value, operands in _computed(computed, replicate):
        wrong = int(np.count_nonzero(~np.isfinite(value)))
        if wrong:
            sizes = {name: float(np.abs(x).max()) for name, x in operands.items()}
            return Finding(replicate, step, layer, quantity, operation, sizes, wrong)
    return None


Computed = tuple[int | None, str, str, Array, Mapping[str, Array]]


def _computed(step: Step, k: int) -> Iterator[Computed]:
    """Everything a step computes for member k, in order: layer, quantity, operation, value, operands."""
    network, layers = step.network, step.network.layers
    for layer in layers:
        a_in = layer.a_in[k] if layer.a_in.ndim > 2 else layer.a_in
        yield layer.number, "z", "W a + b", layer.z[k], {"W": layer.W[k], "a": a_in, "b": layer.b[k]}
        yield layer.number, "a", "σ(z)", layer.a[k], {"z": layer.z[k]}
    top = layers[-1]
    if step.y is not None and step.cost is not None:
        yield None, "C", "C(a, y)", network.cost(step.y, step.cost)[k], {"a": top.a[k], "z": top.z[k]}
    yield top.number, "δ", "∂C/∂z", top.delta[k], {"a": top.a[k], "z": top.z[k]}
    for layer, above in zip(layers[-2::-1], layers[:0:-1], strict=True):
        yield layer.number, "δ", "Wᵀδ ⊙ σ'(z)", layer.delta[k], {"W": above.W[k], "δ": above.delta[k]}
    for layer in reversed(layers):
        yield from _gradients(layer, k)
    for layer in layers:
        for parameter in layer.parameters:
            name, x, change = parameter.name, parameter.value[k], parameter.update[k]
            made = f"the optimizer's step from ∂C/∂{name}"
            yield layer.number, f"Δ{name}", made, change, {f"∂C/∂{name}": parameter.grad[k]}
            yield layer.number, name, f"{name} + Δ{name}", x + change, {name: x, f"Δ{name}": change}


def _gradients(layer: Dense, k: int) -> Iterator[Computed]:
    a_in = layer.a_in[k] if layer.a_in.ndim > 2 else layer.a_in
    yield layer.number, "∂C/∂b", "⟨δ⟩", layer.db[k], {"δ": layer.delta[k]}
    yield layer.number, "∂C/∂W", "⟨δ aᵀ⟩", layer.dW[k], {"δ": layer.delta[k], "a": a_in}
