"""Divergence: locate the first value that is not finite, and the operation and operands that produced it."""

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
        replicate: Number of the replicate.
        step: Number of the step. The update of step t leads from θ_t to θ_{t+1}.
        layer: 1 ... L, or None for the cost.
        quantity: z, a, C, δ, ∂C/∂W, ∂C/∂b, ΔW, Δb, W or b.
        operation: The operation that produced it; "" if it is not known.
        operands: Largest magnitude of each operand; empty without an operation.
        count: Number of entries that are not finite.
    """

    replicate: int
    step: int
    layer: int | None
    quantity: str
    operation: str
    operands: Mapping[str, float]
    count: int

    def sentence(self) -> str:
        """Return a description in one sentence."""
        where = f" of layer {self.layer}" if self.layer else ""
        entries = "1 entry" if self.count == 1 else f"{self.count} entries"
        made = f" = {self.operation}" if self.operation else ""
        sizes = ", ".join(f"max|{name}| = {value:.3g}" for name, value in self.operands.items())
        return (
            f"replicate {self.replicate} diverged at step {self.step}: {self.quantity}{where}{made} was the first to "
            f"be not finite ({entries})" + (f", with {sizes}" if sizes else "")
        )


@dataclass(frozen=True)
class Divergence:
    """The first non-finite value of a replicate, and the records of every one of the last steps up to it."""

    finding: FirstNonFinite
    last_steps: list[Record]


@np.errstate(all="ignore")
def first_non_finite(computed: Step, replicate: int, step: int) -> FirstNonFinite | None:
    """Return the first non-finite value of a replicate in the order of computation, or None.

    Args:
        computed: The step of one cell [1, R] after its backward pass.
        replicate: Number of the replicate.
        step: Number of the step.
    """
    for layer, quantity, operation, value, operands in _computed(computed, replicate):
        count = int(np.count_nonzero(~np.isfinite(value)))
        if count:
            sizes = {name: float(np.abs(x).max()) for name, x in operands.items()}
            return FirstNonFinite(replicate, step, layer, quantity, operation, sizes, count)
    return None


Computed = tuple[int | None, str, str, Array, Mapping[str, Array]]  # layer, quantity, operation, value, operands


def _computed(step: Step, k: int) -> Iterator[Computed]:
    """Yield every value that a step computes for replicate k, in the order of computation."""
    network, layers, own = step.network, step.network.layers, (0, k)
    for layer in layers:
        operands = {"W": layer.W[own], "a": layer.a_in[own], "b": layer.b[own]}
        yield layer.number, "z", "W a + b", layer.z[own], operands
        yield layer.number, "a", "σ(z)", layer.a[own], {"z": layer.z[own]}
    top = layers[-1]
    if step.y is not None and step.cost is not None:
        yield None, "C", "C(a, y)", network.cost(step.y, step.cost)[own], {"a": top.a[own], "z": top.z[own]}
    yield top.number, "δ", "∂C/∂z", top.delta[own], {"a": top.a[own], "z": top.z[own]}
    for layer, above in zip(layers[-2::-1], layers[:0:-1], strict=True):
        yield layer.number, "δ", "Wᵀδ ⊙ σ'(z)", layer.delta[own], {"W": above.W[own], "δ": above.delta[own]}
    for layer in reversed(layers):
        yield from _gradients(layer, own)
    for layer in layers:
        for parameter in layer.parameters:
            name, x, change = parameter.name, parameter.value[own], parameter.update[own]
            operation = f"the optimizer's step from ∂C/∂{name}"
            yield layer.number, f"Δ{name}", operation, change, {f"∂C/∂{name}": parameter.grad[own]}
            yield layer.number, name, f"{name} + Δ{name}", x + change, {name: x, f"Δ{name}": change}


def _gradients(layer: Dense, own: tuple[int, int]) -> Iterator[Computed]:
    yield layer.number, "∂C/∂b", "⟨δ⟩", layer.db[own], {"δ": layer.delta[own]}
    yield layer.number, "∂C/∂W", "⟨δ aᵀ⟩", layer.dW[own], {"δ": layer.delta[own], "a": layer.a_in[own]}


class DivergenceMonitor:
    """Detects replicates with values that are not finite, and locates the first such value.

    Args:
        run: The run in training.
        start: The saved state that training resumes from, if any.
        on_trace: Called with each step that is replayed.

    Attributes:
        active: Replicates that have not diverged.
    """

    def __init__(self, run: PreparedRun, start: TrainingState | None, on_trace: Callable[[int], None]) -> None:
        self.run = run
        self._on_trace = on_trace
        self.active = set(start.active if start else range(run.config.replicates))
        # Four snapshots, so that the oldest precedes the last steps to be kept.
        self._snapshots: deque[TrainerState] = deque(start.recent if start else (), maxlen=4)
        # Probe and replicate of records that are not finite although every value of the network is.
        self._known_harmless: set[tuple[str, int]] = set(start.known_harmless if start else ())

    def state(self) -> tuple[tuple[int, ...], tuple[tuple[str, int], ...], tuple[TrainerState, ...]]:
        """Return the last three fields of a :class:`TrainingState`: active, known_harmless and recent."""
        return tuple(sorted(self.active)), tuple(sorted(self._known_harmless)), tuple(self._snapshots)

    def keep(self, state: TrainerState) -> None:
        """Keep a state from which steps can be replayed. It is due every ``keep_steps`` steps."""
        self._snapshots.append(state)

    def check(self, step: int, broken: Collection[int], records: Sequence[Record]) -> list[Divergence]:
        """Return new divergences. Call it before the update is applied.

        Args:
            step: Number of the step.
            broken: Replicates whose θ is not finite.
            records: The records of this step.
        """
        suspicious = self._non_finite(records)
        suspects = {k for _, k in suspicious} | (self.active & set(broken))
        if not suspects:
            return []
        divergences = self._locate(suspects, step)
        diverged = {d.finding.replicate for d in divergences}
        self._known_harmless |= {(probe, k) for probe, k in suspicious if k not in diverged}
        self.active -= diverged
        return divergences

    def _non_finite(self, records: Sequence[Record]) -> set[tuple[str, int]]:
        """Return probe and replicate of the non-finite values of active replicates that are not known as harmless."""
        suspicious: set[tuple[str, int]] = set()
        for record in records:
            if record.bins is None and non_finite([record]):
                replicates = np.flatnonzero(~np.isfinite(record.values).all(axis=0)).tolist()
                suspicious |= {(record.probe, k) for k in replicates if k in self.active}
        return suspicious - self._known_harmless

    def _locate(self, suspects: Collection[int], until: int) -> list[Divergence]:
        """Replay the steps since the oldest snapshot and check every value of the suspects.

        A value that is not finite from the first replayed step on may be older. An overflowing cost, for example, does
        not reach θ, and reaches a record only when it is measured. Such a replicate is replayed from step 0.
        """
        start = self._snapshots[0]
        divergences = self._replay(suspects, start, until)
        older = {d.finding.replicate for d in divergences if d.finding.step == start.step > 0}
        if older:
            divergences = [d for d in divergences if d.finding.replicate not in older]
            divergences += self._replay(older, None, until)
        return divergences

    def _replay(self, suspects: Collection[int], start: TrainerState | None, until: int) -> list[Divergence]:
        config = self.run.config
        probes = {name: probe for name, probe in config.probes.items() if not traits_of(probe).costly}
        trainer = Trainer([self.run], None if start is None else [start])
        last: deque[list[Record]] = deque(maxlen=config.divergence.keep_steps + 1)
        previous, divergences, remaining = None, [], sorted(suspects)
        while trainer.step <= until and remaining:
            self._on_trace(trainer.step)
            x, y = trainer.next_batch()
            trainer.network.forward(x)
            trainer.network.backward(y, config.cost)
            trainer.optimizer.propose(trainer.network, trainer.optimizer_state, trainer.step, trainer.total_steps)
            computed = trainer.computed(y, previous)
            previous = trainer.network.grad.copy()
            last.append(measure(computed, probes, trainer.step)[0])
            for k in list(remaining):
                finding = first_non_finite(computed, k, trainer.step)
                if finding is not None:
                    remaining.remove(k)
                    divergences.append(Divergence(finding, [record for records in last for record in records]))
            trainer.apply()
        return divergences
