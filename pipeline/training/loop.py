"""run(config) -> records: mini-batch SGD on a stack of replicates, measured on the way. Pure: no files, no length.

Step t is after t updates. At each step a batch is drawn, passed forward and backward and, if scheduled, measured;
then the update is added. At the last step only the measurement is made, on the batch that would have come next.

A replicate whose numbers are no longer finite has diverged. That shows late (in θ, which is looked at now and then) or
by chance (in a measurement); the first such value is then found by training the last steps again with open eyes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


def run(config: Config) -> Iterator[Record]:
    """All records of a run, in order of step. A function of the config alone."""
    return train(prepare_run(config))


def train(
    run: PreparedRun,
    on_step: Callable[[int], None] = lambda step: None,
    on_divergence: Callable[[Divergence], None] = lambda divergence: None,
    timer: Timer | None = None,
    observer: TrajectoryObserver | None = None,
    checkpointer: Checkpointer | None = None,
    start: TrainingState | None = None,
    on_trace: Callable[[int], None] = lambda step: None,
) -> Iterator[Record]:
    """Train, and yield each record at its step.

    Args:
        run: ready to train.
        on_step: called with the step number before each step.
        on_divergence: called for each replicate that has diverged, before the records of that step.
        timer: receives the time spent on "step", each probe, "evaluation", "watch", "chain" and "checkpoints".
        observer: shown θ, ∇C and the batch at the steps it asks for.
        checkpointer: given the state of training at the steps it asks for, after all records of earlier steps.
        start: a kept state to resume from, bit for bit; records of earlier steps are not made again.
        on_trace: called with each step that is repeated to find how a divergence began (a sign of life).
    """
    config, length = run.config, run.length
    timer = timer or Timer(None)
    trainer, monitor = Trainer(run, start.now if start else None), DivergenceMonitor(run, start, on_trace)
    schedules = {name: config.probe_schedules.get(name, config.schedule) for name in config.probes}
    comparing_schedules = {n: s for n, s in schedules.items() if traits_of(config.probes[n]).needs_previous}
    agenda = ProbeScheduler(schedules, length, trainer.step)
    comparing = ProbeScheduler(comparing_schedules, length, trainer.step)
    evaluations = ProbeScheduler({"": config.evaluation.schedule}, length, trainer.step)
    previous = start.previous if start else None
    for step in range(trainer.step, length.last_step + 1):
        if checkpointer is not None and checkpointer.due(step):
            checkpointer.save(TrainingState(trainer.snapshot(), previous, *monitor.state()))
            timer.mark("checkpoints")
        on_step(step)
        comparing.due(step)
        monitor.begin(trainer)
        computed = trainer.compute(previous)
        previous = trainer.network.grad.copy() if comparing.next_step == step + 1 else None
        timer.mark("step")
        records = measure(computed, {name: config.probes[name] for name in agenda.due(step)}, step, timer)
        if observer is not None and observer.due(step):
            observer.on_step(step, trainer.network, trainer.rows)
            timer.mark("chain")
        if evaluations.due(step):
            records += evaluate(trainer.network, run.data, config, step)
            timer.mark("evaluation")
        for divergence in monitor.check(trainer, records):
            on_divergence(divergence)
        timer.mark("watch")
        yield from records
        if config.divergence.stop and not monitor.active:
            break
        if step < length.last_step:
            trainer.apply()


class TrajectoryObserver(Protocol):
    """Sees the trajectory at the steps it asks for; it changes nothing."""

    def due(self, step: int) -> bool:
        """Whether it wants to see this step; asked in ascending order."""

    def on_step(self, step: int, network: Network, rows: Array) -> None:
        """θ and ∇C of the network at this step, and the batch's row numbers [R, B]; only to be read."""


class Checkpointer(Protocol):
    """Keeps states of training, to go on from one after an interruption."""

    def due(self, step: int) -> bool:
        """Whether it wants the state at the beginning of this step; asked in ascending order."""

    def save(self, state: TrainingState) -> None:
        """A state; its arrays are copies."""
