"""When numbers blow up: which value was the first, where it was made, and by what."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.arrays import Array
from engine.network import Dense
from engine.probes import Step, traits_of
from pipeline.training.measure import measure
from pipeline.training.prepare import PreparedRun
from pipeline.training.records import Record, non_finite
from pipeline.training.trainer import Trainer, TrainerState, TrainingState


@dataclass(frozen=True)
class FirstNonFinite:
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

    finding: FirstNonFinite
    last_steps: list[Record]


@np.errstate(all="ignore")
def first_non_finite(computed: Step, replicate: int, step: int) -> FirstNonFinite | None:
    """The first non-finite value of a replicate in the order of computing; None if there is none."""
    for layer, quantity, operation, value, operands in _computed(computed, replicate):
        wrong = int(np.count_nonzero(~np.isfinite(value)))
        if wrong:
            sizes = {name: float(np.abs(x).max()) for name, x in operands.items()}
            return FirstNonFinite(replicate, step, layer, quantity, operation, sizes, wrong)
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


class DivergenceMonitor:
    """Notices replicates whose numbers are no longer finite, and finds out how it began.

    Attributes:
        active: replicates that have not diverged.
    """

    def __init__(self, run: PreparedRun, start: TrainingState | None, on_trace: Callable[[int], None]) -> None:
        self.run = run
        self._on_trace = on_trace
        self.active = set(start.active if start else range(run.config.replicates))
        self._every = run.config.divergence.keep_steps
        # so many that the oldest is from before the last steps to be kept
        self._snapshots: deque[TrainerState] = deque(start.recent if start else (), maxlen=4)
        # what was not finite in whom though nothing in the network was
        self._known_harmless: set[tuple[str, int]] = set(start.known_harmless if start else ())

    def state(self) -> tuple[tuple[int, ...], tuple[tuple[str, int], ...], tuple[TrainerState, ...]]:
        """The active, what is known_harmless, the snapshots."""
        return tuple(sorted(self.active)), tuple(sorted(self._known_harmless)), tuple(self._snapshots)

    def begin(self, trainer: Trainer) -> None:
        """Before a step is computed."""
        if trainer.step % self._every == 0:
            self._snapshots.append(trainer.snapshot())

    def check(self, trainer: Trainer, found: Sequence[Record]) -> list[Divergence]:
        """New divergences, given what was measured at this step; before the update is applied."""
        step = trainer.step
        suspicious = self._non_finite(found)
        suspects = {k for _, k in suspicious}
        if step % self._every == 0 or step == self.run.length.last_step:
            broken = np.flatnonzero(~np.isfinite(trainer.network.theta).all(axis=-1))
            suspects |= self.active & set(broken.tolist())
        if not suspects:
            return []
        divergences = self._trace_back(suspects, step)
        diverged = {d.finding.replicate for d in divergences}
        self._known_harmless |= {(probe, k) for probe, k in suspicious if k not in diverged}
        self.active -= diverged
        return divergences

    def _non_finite(self, found: Sequence[Record]) -> set[tuple[str, int]]:
        """What is not finite in which of the active, and was never found to be known_harmless."""
        suspicious: set[tuple[str, int]] = set()
        for record in found:
            if record.bins is None and non_finite([record]):
                lost = np.flatnonzero(~np.isfinite(record.values).all(axis=0)).tolist()
                suspicious |= {(record.probe, k) for k in lost if k in self.active}
        return suspicious - self._known_harmless

    def _trace_back(self, suspects: Collection[int], until: int) -> list[Divergence]:
        """Train again from the oldest snapshot to this step, looking at every number of the suspects.

        What is not finite from the first step on may be older (an overflowing cost reaches neither θ nor, unmeasured, a
        record): then from the very beginning.
        """
        start = self._snapshots[0]
        divergences = self._train_again(suspects, start, until)
        older = {d.finding.replicate for d in divergences if d.finding.step == start.step > 0}
        if older:
            divergences = [d for d in divergences if d.finding.replicate not in older]
            divergences += self._train_again(older, None, until)
        return divergences

    def _train_again(self, suspects: Collection[int], start: TrainerState | None, until: int) -> list[Divergence]:
        config = self.run.config
        probes = {name: probe for name, probe in config.probes.items() if not traits_of(probe).costly}
        trainer = Trainer(self.run, start)
        last: deque[list[Record]] = deque(maxlen=config.divergence.keep_steps + 1)
        previous, divergences, left = None, [], sorted(suspects)
        while trainer.step <= until and left:
            self._on_trace(trainer.step)
            computed = trainer.compute(previous)
            previous = trainer.network.grad.copy()
            last.append(measure(computed, probes, trainer.step))
            for k in list(left):
                finding = first_non_finite(computed, k, trainer.step)
                if finding is not None:
                    left.remove(k)
                    divergences.append(Divergence(finding, [record for step in last for record in step]))
            trainer.apply()
        return divergences
