"""run(config) -> records: mini-batch SGD on a stack of cells. A pure function: no files and no clock.

Step t comes after t updates. Each step draws a batch, passes it forward and backward, takes the scheduled measurements
and adds the update. The last step only measures, on the batch that would come next.

A replicate with a value that is not finite has diverged. θ is checked every ``keep_steps`` steps and every record when
it is taken. When either is not finite, the last steps are replayed with all intermediate values checked, to locate the
first one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

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
        """Observe θ and ∇C of the network [R] at this step, and the batch's row numbers [R, B]."""


class Checkpointer(Protocol):
    """Saves states of training, from which an interrupted run resumes."""

    def due(self, step: int) -> bool:
        """Return whether to save the state before this step. Steps come in ascending order."""

    def save(self, state: TrainingState) -> None:
        """Save a state. Its arrays are copies."""


def _ignore(event: object) -> None:
    pass


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Callbacks:
    """What the training of a cell calls on its way. By default, nothing happens.

    Attributes:
        on_step: Called with the step number before each step.
        on_divergence: Called for each replicate that has diverged, before the records of that step.
        on_trace: Called with each step that is replayed to locate a divergence, so that limits on silence see progress.
        observer: Receives θ, ∇C and the batch at the steps it chooses.
        checkpointer: Receives the state of training at the steps it chooses, after all records of earlier steps. In a
            stack, the state of all cells with a checkpointer is saved when one is due, so that they resume together.
        is_stopped: Called before each step: whether the training of the cell is to end here.
        on_end: Called with the trained network [R] when the training of the cell has ended, after its last record. The
            network is overwritten afterwards.
    """

    on_step: Callable[[int], None] = _ignore
    on_divergence: Callable[[Divergence], None] = _ignore
    on_trace: Callable[[int], None] = _ignore
    observer: TrajectoryObserver | None = None
    checkpointer: Checkpointer | None = None
    is_stopped: Callable[[], bool] = _never
    on_end: Callable[[Network], None] | None = None


NO_CALLBACKS = Callbacks()


@dataclass(frozen=True)
class StackCell:
    """One cell of a stack.

    Attributes:
        run: The checked config and its data.
        callbacks: What to call on the way.
        start: A saved state from which to resume, bit for bit. All cells of a stack start at the same step.
    """

    run: PreparedRun
    callbacks: Callbacks = NO_CALLBACKS
    start: TrainingState | None = None


def run(config: Config) -> Iterator[Record]:
    """Yield all records of a run, in order of step. They depend on the config alone."""
    return train(prepare_run(config))


def train(
    run: PreparedRun,
    callbacks: Callbacks = NO_CALLBACKS,
    timer: Timer | None = None,
    start: TrainingState | None = None,
) -> Iterator[Record]:
    """Train one cell alone: a stack of one. The arguments are those of :class:`StackCell` and :func:`train_stack`."""
    return (record for _, record in train_stack([StackCell(run, callbacks, start)], timer))


def train_stack(cells: Sequence[StackCell], timer: Timer | None = None) -> Iterator[tuple[int, Record]]:
    """Train all cells of a stack together. The records of each cell are those of the cell alone.

    Args:
        cells: Cells that share shapes, probes and schedules (:func:`pipeline.sweeps.stacks.stack_key`).
        timer: Receives the time spent on "initialise", "step", each probe, "evaluation", "watch", "chain" and
            "checkpoints".

    Yields:
        The place of a cell in ``cells`` and a record of it, at the record's step.
    """
    timer = timer or Timer(None)
    config, length = cells[0].run.config, cells[0].run.length
    trainer, previous = _start(cells)
    members = [_Member(number, cell, trainer.step) for number, cell in enumerate(cells)]
    probes, comparing = _schedulers(cells[0].run, trainer.step)
    timer.mark("initialise")
    for step in range(trainer.step, length.last_step + 1):
        kept = [place for place, member in enumerate(members) if not member.has_ended()]
        if len(kept) < len(members):
            _end(trainer, members, sorted(set(range(len(members))) - set(kept)))
        if not kept:
            return
        if len(kept) < len(members):
            trainer.keep(kept)
            members = [members[place] for place in kept]
            previous = None if previous is None else previous[kept]
        if _save_checkpoints(step, members, trainer, previous):
            timer.mark("checkpoints")
        for member in members:
            member.callbacks.on_step(step)
        comparing.due(step)
        if step % config.divergence.keep_steps == 0:
            for member, state in zip(members, trainer.snapshot(), strict=True):
                member.monitor.keep(state)
        x, y = trainer.next_batch()
        trainer.network.forward(x)
        trainer.network.backward(y, config.cost)
        trainer.optimizer.propose(trainer.network, trainer.optimizer_state, step, trainer.total_steps)
        computed = trainer.computed(y, previous)
        previous = trainer.network.grad.copy() if comparing.next_step == step + 1 else None
        timer.mark("step")
        records = measure(computed, {name: config.probes[name] for name in probes.due(step)}, step, timer)
        if _observe(step, members, trainer):
            timer.mark("chain")
        if evaluated := [cell for cell, member in enumerate(members) if member.evaluations.due(step)]:
            for cell, more in evaluate(trainer, evaluated).items():
                records[cell] += more
            timer.mark("evaluation")
        _check(step, members, trainer, records)
        timer.mark("watch")
        for member, own in zip(members, records, strict=True):
            for record in own:
                yield member.number, record
        if step < length.last_step:
            trainer.apply()
    _end(trainer, members, range(len(members)))


class _Member:
    """A cell in training: its place among the cells of the stack, and what is done for it alone."""

    def __init__(self, number: int, cell: StackCell, step: int) -> None:
        self.number, self.callbacks = number, cell.callbacks
        self.evaluations = ProbeScheduler({"evaluation": cell.run.config.evaluation.schedule}, cell.run.length, step)
        self.monitor = DivergenceMonitor(cell.run, cell.start, cell.callbacks.on_trace)
        self._stops = cell.run.config.divergence.stop

    def has_ended(self) -> bool:
        """Return whether the training of the cell is to end before the next step."""
        return (self._stops and not self.monitor.active) or self.callbacks.is_stopped()


def _end(trainer: Trainer, members: Sequence[_Member], ended: Iterable[int]) -> None:
    """Pass on the trained networks of the members whose training has ended, by their places."""
    for place in ended:
        if (on_end := members[place].callbacks.on_end) is not None:
            on_end(trainer.cell_network(place))


def _start(cells: Sequence[StackCell]) -> tuple[Trainer, Array | None]:
    """Return the trainer and the gradient of the step before [C, R, P], if the saved states have it."""
    runs, starts = [cell.run for cell in cells], [cell.start for cell in cells if cell.start is not None]
    gradients = [start.previous for start in starts if start.previous is not None]
    return Trainer(runs, [start.now for start in starts] or None), np.stack(gradients) if gradients else None


def _save_checkpoints(step: int, members: Sequence[_Member], trainer: Trainer, previous: Array | None) -> bool:
    """Save the state of all cells if one is due. Return whether anything was saved."""
    checkpointers = [member.callbacks.checkpointer for member in members]
    if not any(checkpointer is not None and checkpointer.due(step) for checkpointer in checkpointers):
        return False
    states = zip(members, checkpointers, trainer.snapshot(), strict=True)
    for cell, (member, checkpointer, now) in enumerate(states):
        if checkpointer is not None:
            before = None if previous is None else previous[cell]
            checkpointer.save(TrainingState(now, before, *member.monitor.state()))
    return True


def _observe(step: int, members: Sequence[_Member], trainer: Trainer) -> bool:
    """Call the observers that are due. Return whether one was."""
    is_due = False
    for cell, member in enumerate(members):
        observer = member.callbacks.observer
        if observer is not None and observer.due(step):
            is_due = True
            network = trainer.cell_network(cell)
            network.grad[...] = trainer.network.grad[cell]
            observer.on_step(step, network, trainer.rows_of(cell))
    return is_due


def _check(step: int, members: Sequence[_Member], trainer: Trainer, records: Sequence[Sequence[Record]]) -> None:
    """Find and report the replicates that have diverged."""
    run = trainer.runs[0]
    is_due = step % run.config.divergence.keep_steps == 0 or step == run.length.last_step
    for cell, (member, own) in enumerate(zip(members, records, strict=True)):
        theta = trainer.network.theta[cell]
        broken = np.flatnonzero(~np.isfinite(theta).all(axis=-1)).tolist() if is_due else []
        for divergence in member.monitor.check(step, broken, own):
            member.callbacks.on_divergence(divergence)


def _schedulers(run: PreparedRun, start: int) -> tuple[ProbeScheduler, ProbeScheduler]:
    """Return the schedulers of all probes, and of those that compare with the step before."""
    config = run.config
    schedules = {name: config.probe_schedules.get(name, config.schedule) for name in config.probes}
    comparing = {name: s for name, s in schedules.items() if traits_of(config.probes[name]).needs_previous}
    return ProbeScheduler(schedules, run.length, start), ProbeScheduler(comparing, run.length, start)
