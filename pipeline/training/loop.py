"""run(config) -> records: mini-batch SGD on a stack of cells. A pure function: no files and no clock.

Step t comes after t updates. Each step draws a batch, passes it forward and backward, takes the scheduled measurements
and adds the update. The last step only measures, on the batch that would come next. Early stopping makes another step
the last one.

A replicate with a value that is not finite has diverged. θ is checked every ``keep_steps`` steps and every record when
it is taken. When either is not finite, the last steps are replayed with all intermediate values checked, to locate the
first one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine.arrays import Array
from engine.network import Network
from engine.probes import Probe, traits_of
from pipeline.config.schedules import ProbeScheduler, Schedule
from pipeline.config.schema import Config
from pipeline.training.divergence import Divergence, DivergenceMonitor
from pipeline.training.evaluate import evaluate
from pipeline.training.measure import measure
from pipeline.training.patience import Patience
from pipeline.training.prepare import PreparedRun, prepare_run
from pipeline.training.records import Record
from pipeline.training.timing import Timer
from pipeline.training.trainer import Trainer, TrainerState, TrainingState


class TrajectoryObserver(Protocol):
    """Reads the trajectory at the steps it chooses, and where training stops early, and changes nothing."""

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
        is_stopped: Called after the records of each step but the last: whether the training of the cell ends here.
        on_end: Called with the network [R] that the last records describe, when the training of the cell has ended. The
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
        due = probes.due(step)
        records = measure(computed, {name: config.probes[name] for name in due}, step, timer)
        stopping = _evaluate(step, members, trainer, records, timer)
        if stopping:
            others = {name: probe for name, probe in _probes_at_end(cells[0].run).items() if name not in due}
            more = measure(computed, others, step, timer)
            for cell in stopping:
                records[cell] += more[cell]
        if _observe(step, members, trainer, stopping):
            timer.mark("chain")
        _check(step, members, trainer, records)
        timer.mark("watch")
        for member, own in zip(members, records, strict=True):
            for record in own:
                yield member.number, record
        kept = [place for place, member in enumerate(members) if not (step == length.last_step or member.has_ended())]
        _end(trainer, members, sorted(set(range(len(members))) - set(kept)))
        if not kept:
            return
        trainer.apply()
        if len(kept) < len(members):
            trainer.keep(kept)
            members = [members[place] for place in kept]
            previous = None if previous is None else previous[kept]


class _Member:
    """A cell in training: its place among the cells of the stack, and what is done for it alone."""

    def __init__(self, number: int, cell: StackCell, step: int) -> None:
        self.number, self.callbacks = number, cell.callbacks
        self.evaluations = ProbeScheduler({"evaluation": cell.run.config.evaluation.schedule}, cell.run.length, step)
        self.monitor = DivergenceMonitor(cell.run, cell.start, cell.callbacks.on_trace)
        self.patience = _patience(cell)
        self._stops = cell.run.config.divergence.stop

    def has_ended(self) -> bool:
        """Return whether the training of the cell ends at this step."""
        return (self._stops and not self.monitor.active) or self.stops_early() or self.callbacks.is_stopped()

    def stops_early(self) -> bool:
        """Return whether the validation cost no longer falls."""
        return self.patience is not None and self.patience.is_over()

    def state(self, now: TrainerState, previous: Array | None) -> TrainingState:
        """Return the state of the cell's training before a step."""
        patience = None if self.patience is None else self.patience.state()
        return TrainingState(now, previous, *self.monitor.state(), patience)


def _patience(cell: StackCell) -> Patience | None:
    config, start = cell.run.config, cell.start
    if config.early_stopping is None:
        return None
    return Patience(config.early_stopping, config.replicates, None if start is None else start.patience)


def _end(trainer: Trainer, members: Sequence[_Member], ended: Iterable[int]) -> None:
    """Pass on the networks of the members whose training has ended, by their places, before the update is added."""
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
            checkpointer.save(member.state(now, None if previous is None else previous[cell]))
    return True


def _evaluate(
    step: int, members: Sequence[_Member], trainer: Trainer, records: Sequence[list[Record]], timer: Timer
) -> list[int]:
    """Add the evaluations that are due to the records.

    Returns:
        The cells that stop early at this step. It is the last one for them, so they are tested on the whole test set.
    """
    due = [cell for cell, member in enumerate(members) if member.evaluations.due(step)]
    if not due:
        return []

    def add(evaluated: Mapping[int, Sequence[Record]]) -> None:
        for cell, more in evaluated.items():
            records[cell].extend(more)

    add(evaluate(trainer, due, ("train", "validation")))
    is_last = step == trainer.runs[0].length.last_step
    stopping = [] if is_last else [cell for cell in due if _has_waited(members[cell], records[cell])]
    for cells, is_their_last in ((stopping, True), ([cell for cell in due if cell not in stopping], is_last)):
        add(evaluate(trainer, cells, ("test",), is_their_last))
    timer.mark("evaluation")
    return stopping


def _has_waited(member: _Member, records: Sequence[Record]) -> bool:
    """Count an evaluation. Return whether the training of the cell stops early."""
    if member.patience is None:
        return False
    (costs,) = (record.values[0] for record in records if record.probe == "cost/validation")
    member.patience.add(costs)
    return member.stops_early()


def _observe(step: int, members: Sequence[_Member], trainer: Trainer, stopping: Collection[int]) -> bool:
    """Call the observers that are due, and those of cells that stop here. Return whether there was one."""
    is_due = False
    for cell, member in enumerate(members):
        observer = member.callbacks.observer
        if observer is not None and (observer.due(step) or cell in stopping):
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


def _probe_schedules(config: Config) -> dict[str, Schedule]:
    return {name: config.probe_schedules.get(name, config.schedule) for name in config.probes}


def _probes_at_end(run: PreparedRun) -> dict[str, Probe]:
    """Return the probes that the run's schedules measure at its last step."""
    schedules, length = _probe_schedules(run.config), run.length
    return {n: run.config.probes[n] for n, schedule in schedules.items() if schedule.due(length.last_step, length)}


def _schedulers(run: PreparedRun, start: int) -> tuple[ProbeScheduler, ProbeScheduler]:
    """Return the schedulers of all probes, and of those that compare with the step before."""
    config, schedules = run.config, _probe_schedules(run.config)
    comparing = {name: s for name, s in schedules.items() if traits_of(config.probes[name]).needs_previous}
    return ProbeScheduler(schedules, run.length, start), ProbeScheduler(comparing, run.length, start)
