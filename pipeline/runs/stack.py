"""Run the cells of a stack: those without a result are trained together, each with a run of its own."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from threadpoolctl import threadpool_limits

from pipeline.errors import DeletedError, StoreError
from pipeline.profiling import PROFILE, STEPS
from pipeline.progress import Bars
from pipeline.runs.cell import CellResult, CellTask, decide
from pipeline.runs.execute import Execution
from pipeline.runs.job import CellJob, RunOptions, Stack
from pipeline.runs.limits import Limits, enforce_limits
from pipeline.runs.result import UNTRACKED, RunResult
from pipeline.tracking.locks import RunLocks
from pipeline.tracking.store import Store
from pipeline.training.loop import StackCell, train_stack
from pipeline.training.timing import Timer

Results = Iterator[tuple[CellJob, CellResult | None]]
log = logging.getLogger("gradvitals")


def run_stack(stack: Stack, store: Store, options: RunOptions, bars: Bars) -> Results:
    """Yield each cell with its result; train those together that have none and start at the same step.

    A stack that fails, or exceeds its limits, is repeated cell by cell, so that only the cell at fault fails. The
    others resume from their checkpoints.

    Yields:
        The result is None if another process works on the cell.

    Raises:
        ConfigError: The code has changed since the cells were prepared.
    """
    repeated: list[CellTask] = []
    with contextlib.ExitStack() as held:
        tasks: list[CellTask] = []
        for job in stack:
            try:
                decision = _lock_and_decide(job, store, options, held)
            except DeletedError as deleted:
                decision = without_run(job, deleted)
            if isinstance(decision, CellTask):
                tasks.append(decision)
            else:
                yield job, decision
        executions = []
        for task in tasks:
            try:
                executions.append(held.enter_context(Execution(task, store, options)))
            except DeletedError as deleted:  # its run, or the experiment
                yield task.job, without_run(task.job, deleted)
        ready, failed = _prepare(executions, options.limits)
        yield from failed
        for group in ready:
            name = group[0].job.name if len(group) == 1 else f"{len(group)} cells"
            timer = Timer(time.perf_counter)
            for execution in group:
                execution.checkpoints.cells = len(group)
            try:
                with (
                    PROFILE.activity(STEPS),
                    threadpool_limits(1),
                    enforce_limits(options.limits.of_stack(len(group))) as heartbeat,
                    bars.run(name, group[0].run.length.last_step) as show_step,
                ):
                    cells = [StackCell(e.run, e.callbacks(show_step, heartbeat), e.start) for e in group]
                    for number, record in train_stack(cells, timer):
                        group[number].add(record)
                        timer.mark("tracking")
            except Exception as failure:
                if len(group) > 1 and not isinstance(failure, StoreError):
                    log.exception("the stack failed; its cells are repeated one by one")
                    for execution in group:
                        execution.abandon()
                    repeated += [execution.task for execution in group]
                else:
                    yield from [(e.task.job, CellResult(e.fail(failure), e.task.action)) for e in group]
                continue
            PROFILE.split_training(timer.seconds)
            seconds = {activity: spent / len(group) for activity, spent in timer.seconds.items()}
            yield from [(e.task.job, CellResult(e.finish(seconds), e.task.action)) for e in group]
    for task in repeated:
        for job, result in run_stack([task.job], store, options, bars):
            yield job, result and replace(result, action=task.action)


def without_run(job: CellJob, failure: StoreError) -> CellResult:
    """Return the result of a cell that failed before it had a run."""
    return CellResult(RunResult(job.name, UNTRACKED, job.swept, "FAILED", error=str(failure)), "new")


def _lock_and_decide(
    job: CellJob, store: Store, options: RunOptions, held: contextlib.ExitStack
) -> CellTask | CellResult | None:
    """Decide what to do about a cell. Its lock stays held if it is to be trained."""
    locks = RunLocks.of(store)
    with contextlib.ExitStack() as own:
        if not own.enter_context(locks.acquire(job.cell_id)):
            return None
        decision = decide(job, store, options, locks)
        if isinstance(decision, CellTask):
            held.push(own.pop_all())
        return decision


def _prepare(
    executions: Sequence[Execution], limits: Limits
) -> tuple[list[list[Execution]], list[tuple[CellJob, CellResult]]]:
    """Return the runs that can be trained together, by the step at which they start, and those that failed."""
    groups: dict[int, list[Execution]] = defaultdict(list)
    failed = []
    for execution in executions:
        try:
            with enforce_limits(limits):
                execution.prepare()
        except Exception as failure:  # noqa: BLE001 (logged by fail)
            failed.append((execution.task.job, CellResult(execution.fail(failure), execution.task.action)))
        else:
            groups[execution.start.now.step if execution.start else 0].append(execution)
    return list(groups.values()), failed
