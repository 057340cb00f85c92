"""run(config) -> records: mini-batch SGD on a stack of replicates. A pure function: no files and no clock.

Step t comes after t updates. Each step draws a batch, passes it forward and backward, takes the scheduled measurements
and adds the update. The last step only measures, on the batch that would come next.

A replicate with a value that is not finite has diverged. θ is checked every ``keep_steps`` steps and every record when
it is taken. When either is not finite, the last steps are replayed with all intermediate values checked, to locate the
first one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from engine.arrays import Array
from engine.network import Network
from engine.probes import traits_of
from pipeline.config.schedules import ProbeScheduler
from pipeline.config.schema import Config
from pipeline.training.divergence import Divergence, DivergenceMonitor
from pipeline.training.evaluate import evaluate
from pipeline.training.measure import measure
from pipeline.training.prepare import PreparedRun, prepare_run
from pipeline.training.records import Record
from pipeline.training.timing import Timer
from pipeline.training.trainer import Trainer, TrainingState


class TrajectoryObserver(Protocol):
    """Reads the trajectory at the steps it chooses and changes nothing."""

    def due(self, step: int) -> bool:
        """Return whether to observe this step. Steps come in ascending order."""

    def on_step(self, step: int, network: Network, rows: Array) -> None:
        """Observe θ and ∇C of the network at this step, and the batch's row numbers [R, B]."""


class Checkpointer(Protocol):
    """Saves states of training, from which an interrupted run resumes."""

    def due(self, step: int) -> bool:
        """Return whether to save the state before this step. Steps come in ascending order."""

    def save(self, state: TrainingState) -> None:
        """Save a state. Its arrays are copies."""


def _ignore(event: object) -> None:
    pass


@dataclass(frozen=True)
class Callbacks:
    """What training calls on its way. By default, nothing happens.

    Attributes:
        on_step: Called with the step number before each step.
        on_divergence: Called for each replicate that has diverged, before the records of that step.
        on_trace: Called with each step that is replayed to locate a divergence, so that limits on silence see progress.
        observer: Receives θ, ∇C and the batch at the steps it chooses.
        checkpointer: Receives the state of training at the steps it chooses, after all records of earlier steps.
    """

    on_step: Callable[[int], None] = _ignore
    on_divergence: Callable[[Divergence], None] = _ignore
    on_trace: Callable[[int], None] = _ignore
    observer: TrajectoryObserver | None = None
    checkpointer: Checkpointer | None = None


NO_CALLBACKS = Callbacks()


def run(config: Config) -> Iterator[Record]:
    """Yield all records of a run, in order of step. They depend on the config alone."""
    return train(prepare_run(config))


def train(
    run: PreparedRun,
    callbacks: Callbacks = NO_CALLBACKS,
    timer: Timer | None = None,
    start: TrainingState | None = None,
) -> Iterator[Record]:
    """Train, and yield each record at its step.

    Args:
        run: The checked config and its data.
        callbacks: What to call on the way.
        timer: Receives the time spent on "step", each probe, "evaluation", "watch", "chain" and "checkpoints".
        start: A saved state from which to resume, bit for bit. Records of earlier steps are not repeated.
    """
    config, length = run.config, run.length
    timer = timer or Timer(None)
    trainer = Trainer(run, start.now if start else None)
    monitor = DivergenceMonitor(run, start, callbacks.on_trace)
    probes, comparing, evaluations = _schedulers(run, trainer.step)
    previous = start.previous if start else None
    for step in range(trainer.step, length.last_step + 1):
        if callbacks.checkpointer is not None and callbacks.checkpointer.due(step):
            callbacks.checkpointer.save(TrainingState(trainer.snapshot(), previous, *monitor.state()))
            timer.mark("checkpoints")
        callbacks.on_step(step)
        comparing.due(step)
        monitor.begin(trainer)
        computed = trainer.compute(previous)
        previous = trainer.network.grad.copy() if comparing.next_step == step + 1 else None
        timer.mark("step")
        records = measure(computed, {name: config.probes[name] for name in probes.due(step)}, step, timer)
        if callbacks.observer is not None and callbacks.observer.due(step):
            callbacks.observer.on_step(step, trainer.network, trainer.rows)
            timer.mark("chain")
        if evaluations.due(step):
            records += evaluate(trainer.network, trainer.data, config, step)
            timer.mark("evaluation")
        for divergence in monitor.check(trainer, records):
            callbacks.on_divergence(divergence)
        timer.mark("watch")
        yield from records
        if config.divergence.stop and not monitor.active:
            break
        if step < length.last_step:
            trainer.apply()


def _schedulers(run: PreparedRun, start: int) -> tuple[ProbeScheduler, ProbeScheduler, ProbeScheduler]:
    """Return the schedulers of all probes, of those that compare with the step before, and of the evaluation."""
    config = run.config
    schedules = {name: config.probe_schedules.get(name, config.schedule) for name in config.probes}
    comparing = {name: s for name, s in schedules.items() if traits_of(config.probes[name]).needs_previous}
    evaluations = {"evaluation": config.evaluation.schedule}
    probes, comparisons, evaluation = (
        ProbeScheduler(each, run.length, start) for each in (schedules, comparing, evaluations)
    )
    return probes, comparisons, evaluation
