"""Executor for Slurm: each stack is a task of a job array, on any node that shares the folders of this one.

The driver submits, waits and concludes. The tasks write to the store themselves, so they go on when the driver ends,
however it ends. The same command finds the tasks that live by the name of their jobs, and waits for them. What a task
has finished is in the store; its result file only saves the driver from reading it there.

A task that ends without results costs each of its cells one attempt. They are submitted again: together at first, since
most deaths come from outside, then one by one, so that only the cell at fault fails. A node that fails, and a time
limit, return the task to the queue: Slurm starts it again under its old id, and its runs resume from their checkpoints.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline import signals
from pipeline.errors import StoreError
from pipeline.profiling import PROFILE, WAITING
from pipeline.progress import Bars
from pipeline.reproducibility.environment import Provenance
from pipeline.reproducibility.fingerprint import SourceFiles
from pipeline.runs.cell import CellResult, choose_action, close_stale_runs, decide, is_busy, runs_of_cell
from pipeline.runs.job import CellJob, RunOptions, Stack
from pipeline.sweeps.executor import ATTEMPTS, Results, RunStack, fail_cell
from pipeline.sweeps.slurm.queue import PENDING, Queue, RefusedError
from pipeline.sweeps.slurm.task import StackTask
from pipeline.tracking.locks import RunLocks
from pipeline.tracking.retry import ignore_store_errors
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.wording import counted, option

POLL = 1.0  # seconds between two looks for results
SHORTEST, LONGEST = 2.0, 60.0  # seconds between two questions to Slurm: more for more tasks
TASKS_PER_SECOND = 50.0
USUAL = {"", "None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime"}  # reasons to wait
LATE = 2.0  # seconds after which the result of a task that has ended is visible here
CANCELLING = 60.0  # seconds for cancelled tasks to close their runs
messages = logging.getLogger("gradvitals.user")


@dataclass(frozen=True)
class Leaving:
    """What becomes of the tasks when the driver is interrupted.

    Args:
        cancel: Cancel them, or let them go on. None asks after Ctrl-C, and lets them go on otherwise.
        ask: Asks the user whether to cancel the tasks.
    """

    cancel: bool | None = None
    ask: Callable[[], bool] = lambda: False

    def cancels(self, interruption: BaseException) -> bool:
        """Return whether to cancel the tasks."""
        if self.cancel is not None:
            return self.cancel
        return isinstance(interruption, KeyboardInterrupt) and self.ask()


@dataclass(frozen=True)
class SlurmExecutor:
    """Runs each stack in a task of Slurm.

    Args:
        queue: The tasks of the sweep.
        tracking: The store, with an absolute address; each task opens it.
        store: The same store, as this process uses it.
        options: What the user chose.
        bars: The display of progress.
        ends_early: Whether the sweep stops at the first failure, which cancels the other tasks.
        leaving: What becomes of the tasks when the driver is interrupted.
    """

    queue: Queue
    tracking: TrackingConfig
    store: Store
    options: RunOptions
    bars: Bars
    ends_early: bool
    leaving: Leaving

    def map(self, run: RunStack, stacks: Iterable[Stack | None]) -> Results:
        """See :class:`pipeline.sweeps.executor.Executor`."""
        work = _Work(self, run)
        try:
            for job, result in work.results([stack for stack in stacks if stack is not None]):
                self.bars.advance()
                yield job, result
        except (SystemExit, KeyboardInterrupt) as interruption:
            signals.acknowledge()
            if self.leaving.cancels(interruption):
                self._cancel(work.tasks)
            elif work.tasks:
                count = counted(len(work.tasks), "task")
                messages.info("%s of Slurm go on (scancel --name %s ends them)", count, self.queue.name)
            raise
        except GeneratorExit:
            if self.ends_early:
                self._cancel(work.tasks)
            raise

    def _cancel(self, tasks: Iterable[str]) -> None:
        """Cancel tasks, wait until they have closed their runs, and close those of tasks that did not."""
        remaining = {*tasks, *(self.queue.living() or {})}
        self.queue.cancel(remaining)
        deadline = time.monotonic() + CANCELLING
        while remaining and time.monotonic() < deadline:
            time.sleep(POLL)
            living = self.queue.living()
            remaining = remaining if living is None else remaining & living.keys()
        with ignore_store_errors("runs of tasks that were killed are closed by the next command"):
            close_stale_runs(self.store)


class _Work:
    """The cells of one command that are on their way.

    Attributes:
        tasks: The cells of each task that has not ended, by the task's id.
    """

    def __init__(self, executor: SlurmExecutor, run: RunStack) -> None:
        self.tasks: dict[str, Stack] = {}
        self._executor, self._run = executor, run
        self._queue, self._store, self._options = executor.queue, executor.store, executor.options
        self._unsubmitted: list[Stack] = []
        self._later: list[CellJob] = []  # cells that another process works on
        self._deaths: Counter[str] = Counter()
        self._ended: dict[str, float] = {}  # when a task without a result was missed first, by the monotonic clock
        self._started: set[str] = set()
        self._reported: set[str] = set()  # what the user has read
        self._next_question = self._next_submission = 0.0
        self._most_tasks = 0
        self._has_submitted = False
        self._environment: Provenance | None = None
        self._files: SourceFiles = ()

    def results(self, stacks: Sequence[Stack]) -> Iterator[tuple[CellJob, CellResult]]:
        """Yield each cell with its result."""
        self._files = tuple(dict.fromkeys(file for stack in stacks for job in stack for file in job.code_files))
        yield from self._begin(stacks)
        while self.tasks or self._unsubmitted or self._later:
            self._submit()
            with PROFILE.activity(WAITING):
                time.sleep(POLL)
            for task_id in self._with_result():
                yield from self._conclude(task_id)
            for task_id in self._without_result():
                yield from self._replace(task_id, self._queue.ending(task_id))
            yield from self._look_again()
        with ignore_store_errors("runs of tasks that gave up on the store are closed by the next command"):
            close_stale_runs(self._store)

    def _begin(self, stacks: Sequence[Stack]) -> Iterator[tuple[CellJob, CellResult]]:
        """Yield the cells that have a result; find the tasks of an earlier command; the others are to be submitted."""
        self._find_tasks([job for stack in stacks for job in stack])
        found = {id(job) for stack in self.tasks.values() for job in stack}
        seen = {job.cell_id for stack in self.tasks.values() for job in stack}
        for stack in stacks:
            fresh: list[CellJob] = []
            for job in stack:
                if id(job) in found:
                    continue
                if job.cell_id in seen:  # a cell that occurs twice
                    self._later.append(job)
                    continue
                seen.add(job.cell_id)
                state = self._look(job)
                if isinstance(state, CellResult):
                    yield job, state
                elif state:
                    fresh.append(job)
                else:
                    self._defer(job)
            if fresh:
                self._unsubmitted.append(fresh)

    def _find_tasks(self, jobs: Sequence[CellJob]) -> None:
        """Find the tasks of an earlier command that wait or run."""
        if not (submitted := self._queue.cells()):
            return
        while (living := self._queue.living()) is None:
            self._report("squeue", "Slurm does not answer; waiting, since tasks of an earlier command may live")
            time.sleep(SHORTEST)
        with_result = self._queue.with_result()
        by_id = {job.cell_id: job for job in reversed(jobs)}
        for task_id, cells in submitted.items():
            if task_id in living and task_id not in with_result and all(cell in by_id for cell in cells):
                self.tasks[task_id] = [by_id[cell] for cell in cells]
        if self.tasks:
            messages.info("%s of an earlier command found in Slurm's queue", counted(len(self.tasks), "task"))

    def _look(self, job: CellJob) -> CellResult | bool:
        """Return a cell's result if it has one; otherwise whether it is free to be trained."""
        locks = RunLocks.of(self._store)
        try:
            with locks.acquire(job.cell_id) as acquired:
                if not acquired:
                    return False
                action, run = choose_action(runs_of_cell(self._store, job.cell_id), self._options)
                if action in ("skipped", "skipped (failed)"):
                    decision = decide(job, self._store, self._options, locks)
                    return decision if isinstance(decision, CellResult) else True
                return action != "resumed" or not is_busy(run, locks, job.cell_id)
        except StoreError:
            return True  # its task reports it

    def _submit(self) -> None:
        """Submit what waits as one array. While other tasks live, it waits until all can run at the same time."""
        if not self._unsubmitted or time.monotonic() < self._next_submission:
            return
        at_a_time = self._queue.config.array_parallelism
        if self.tasks and len(self._unsubmitted) > at_a_time - len(self.tasks):
            return
        with PROFILE.activity("check"):
            self._environment = self._queue.check_environment(self._files, self._environment)
            room = self._most_tasks = self._most_tasks or self._queue.most_tasks()
        now = self._unsubmitted[:room]
        tasks = [
            StackTask(self._run, stack, self._executor.tracking, self._options, self._environment, self._files)
            for stack in now
        ]
        try:
            with PROFILE.activity("start processes"), signals.delayed():
                ids = self._queue.submit(tasks, at_a_time)
                self.tasks |= dict(zip(ids, now, strict=True))
        except RefusedError as refused:
            if not self._has_submitted and not self.tasks:
                raise
            self._report(str(refused), f"{refused}; trying again each {LONGEST:.0f} s")
            self._next_submission = time.monotonic() + LONGEST
            return
        self._has_submitted = True
        self._unsubmitted = self._unsubmitted[room:]
        self._next_question = time.monotonic() + SHORTEST
        messages.info("%s submitted to Slurm as job %s", counted(len(ids), "task"), ids[0].partition("_")[0])

    def _with_result(self) -> list[str]:
        return sorted(self._queue.with_result() & self.tasks.keys())

    def _conclude(self, task_id: str) -> Iterator[tuple[CellJob, CellResult]]:
        """Yield the results of a task that has ended."""
        outcome = self._queue.result(task_id)
        if isinstance(outcome, str):
            yield from self._replace(task_id, f"{outcome}; its log: {self._queue.log(task_id)}")
            return
        for job, result in zip(self.tasks.pop(task_id), outcome, strict=True):
            if result is None:
                self._later.append(job)
            elif result.action == "skipped":  # an earlier attempt of the task finished it
                yield job, CellResult(result.result, "new")
            else:
                yield job, result

    def _without_result(self) -> list[str]:
        """Return the tasks that Slurm no longer has and that have written no result."""
        now = time.monotonic()
        if now >= self._next_question:
            self._next_question = now + min(LONGEST, max(SHORTEST, len(self.tasks) / TASKS_PER_SECOND))
            living = self._queue.living()
            if living is None:
                self._report("squeue", "Slurm does not answer; waiting")
            else:
                self._note_states(living)
                missing = self.tasks.keys() - living.keys()
                self._ended = {task_id: self._ended.get(task_id, now) for task_id in missing}
        late = [task_id for task_id, since in self._ended.items() if task_id in self.tasks and now - since >= LATE]
        return sorted(set(late) - self._queue.with_result()) if late else []

    def _report(self, subject: str, text: str) -> None:
        """Report something once."""
        if subject not in self._reported:
            self._reported.add(subject)
            messages.info("%s", text)

    def _defer(self, job: CellJob) -> None:
        """Keep a cell that another process works on for later."""
        self._report(
            job.cell_id,
            f"{job.name}: another process works on it; waiting (if its machine is gone: {option('force')})",
        )
        self._later.append(job)

    def _note_states(self, living: dict[str, str]) -> None:
        """Close the runs of tasks that wait again because their node failed; report unusual reasons to wait."""
        waiting = {task_id for task_id in self.tasks.keys() & living.keys() if living[task_id].startswith(PENDING)}
        if waiting & self._started:
            with ignore_store_errors("runs of tasks whose node failed are closed by the next command"):
                close_stale_runs(self._store)
        self._started = (self.tasks.keys() & living.keys()) - waiting
        for task_id in sorted(waiting):
            reason = living[task_id].removeprefix(PENDING).strip()
            if reason not in USUAL:
                release = f" (scontrol release {task_id})" if "held" in reason.lower() else ""
                self._report(reason, f"task {task_id} waits: {reason}{release}")

    def _replace(self, task_id: str, reason: str) -> Iterator[tuple[CellJob, CellResult]]:
        """Take the cells of a task that failed or was killed from the store, or submit each alone, or give it up."""
        stack = self.tasks.pop(task_id)
        self._ended.pop(task_id, None)
        with ignore_store_errors("runs of tasks that were killed are closed by the next command"):
            close_stale_runs(self._store)
        retried: list[CellJob] = []
        for job in stack:
            deaths = self._deaths[job.cell_id] = self._deaths[job.cell_id] + 1
            state = self._look(job)
            if isinstance(state, CellResult):
                yield job, replace(state, action="new") if state.action == "skipped" else state
            elif not state:
                self._defer(job)
            elif len(stack) > 1 or deaths < ATTEMPTS:
                retried.append(job)
            elif (result := fail_cell(self._store, job, f"its task ended {deaths} times: {reason}")) is not None:
                yield job, result
            else:
                self._later.append(job)
        if retried:
            cells = counted(len(retried), "cell")
            messages.info("task %s ended without results: %s; %s submitted again", task_id, reason, cells)
        together = all(self._deaths[job.cell_id] < ATTEMPTS for job in retried)
        self._unsubmitted[:0] = [retried] if together and retried else [[job] for job in retried]

    def _look_again(self) -> Iterator[tuple[CellJob, CellResult]]:
        """Yield the results of cells that other processes have finished; those that are free are submitted."""
        busy = {job.cell_id for stack in [*self.tasks.values(), *self._unsubmitted] for job in stack}
        later, self._later = self._later, []
        for job in later:
            state = False if job.cell_id in busy else self._look(job)
            if isinstance(state, CellResult):
                yield job, state
            elif state:
                self._unsubmitted.append([job])
            else:
                self._later.append(job)
