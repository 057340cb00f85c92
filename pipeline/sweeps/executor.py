"""Executors: run the stacks of a sweep in this process, or each in a process of its own.

A process can die without harm to the others: the cells of its stack are repeated one by one, and the death costs each
of them one attempt. Processes end when the driver ends, however it ends.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait as wait_for_process
from types import ModuleType
from typing import Any, Protocol

from pebble import ProcessExpired
from pebble.concurrent import process

from pipeline import signals
from pipeline.data.shared import DataFiles, SharedData, shared_data
from pipeline.errors import ConfigError, DeletedError
from pipeline.profiling import OTHER, PROFILE, WAITING
from pipeline.progress import Bars, bars
from pipeline.runs.artifacts import remove_checkpoints
from pipeline.runs.cell import CellResult, close_stale_runs, runs_of_cell
from pipeline.runs.job import CellJob, RunOptions, Stack
from pipeline.runs.result import ERROR_TAG, UNTRACKED, RunResult
from pipeline.runs.stack import without_run
from pipeline.threads import one_thread_in_new_processes
from pipeline.tracking.locks import RunLocks
from pipeline.tracking.retry import ignore_store_errors
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.wording import option

ATTEMPTS = 2  # of a cell whose process dies
GRACE = 2.0  # seconds in which interrupted processes close their runs
PAUSE = 0.5  # seconds between two queries of a cell that another process works on
WATCHDOG_EXIT_CODE = 1
PROCESS_NAME = "gradvitals-cell"
STDERR = 2  # file descriptor
TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP)
LONGEST_SOCKET_FOLDER = 107 - len("/pymp-12345678/listener-12345678")  # characters

Results = Generator[tuple[CellJob, CellResult], None, None]
messages = logging.getLogger("gradvitals.user")
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["pipeline.sweeps.preload"])


def start_server() -> None:
    """Start the server that forks processes. It imports for seconds, so it starts before the driver needs it.

    The address of its socket is a file in the folder for temporary files. An address has room for 107 characters; a
    folder of a longer name, as clusters give, is replaced by ``/tmp``. A terminal's signals are blocked in the server
    and in its processes: the driver receives them, too, and ends the processes.
    """
    chosen = tempfile.tempdir
    allowed = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    resource_tracker.ensure_running()  # the server would start it, and it unblocks Ctrl-C
    signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_SOCKET_FOLDER:
        tempfile.tempdir = "/tmp"  # noqa: S108 (multiprocessing makes a folder in it that is the user's own)
    try:
        with one_thread_in_new_processes():
            forkserver.ensure_running()
    except OSError as refused:
        raise ConfigError(f"JOBS: no process can be started ({refused}); allowed: {option('jobs', '1')}") from refused
    finally:
        tempfile.tempdir = chosen
        signal.pthread_sigmask(signal.SIG_SETMASK, allowed)


class RunStack(Protocol):
    """The function that runs the cells of a stack: :func:`pipeline.runs.stack.run_stack`."""

    def __call__(
        self, stack: Stack, store: Store, options: RunOptions, bars: Bars
    ) -> Iterator[tuple[CellJob, CellResult | None]]:
        """Yield each cell with its result; None if another process works on the cell."""


class Executor(Protocol):
    """Runs stacks of cells."""

    def map(self, run: RunStack, stacks: Iterable[Stack | None]) -> Results:
        """Yield each cell with its result, as soon as the result is known.

        A stack is drawn from ``stacks`` when there is capacity to run it. None means that no stack is available at the
        moment. Closing the generator ends all work.

        Args:
            run: Runs one stack.
            stacks: The stacks.
        """


class _Backlog:
    """Stacks that wait: new ones, and single cells that another process works on or whose process died."""

    def __init__(self, stacks: Iterable[Stack | None]) -> None:
        self._source = iter(stacks)
        self._deferred: list[tuple[float, Stack]] = []
        self._is_exhausted = False
        self._reported: set[str] = set()

    @property
    def is_empty(self) -> bool:
        """Whether no stack is left."""
        return self._is_exhausted and not self._deferred

    def draw(self) -> Stack | None:
        """Return a stack to run, new ones first; None if none is available at the moment."""
        if not self._is_exhausted:
            try:
                stack = next(self._source)
            except StopIteration:
                self._is_exhausted = True
            else:
                if stack is not None:
                    return stack
        if self._deferred and self._deferred[0][0] <= time.monotonic():
            return self._deferred.pop(0)[1]
        return None

    def defer(self, job: CellJob) -> None:
        """Return a job whose cell another process works on."""
        if job.cell_id not in self._reported:
            self._reported.add(job.cell_id)
            forced = option("force")
            messages.info("%s: another process works on it; waiting (if its machine is gone: %s)", job.name, forced)
        self._deferred.append((time.monotonic() + PAUSE, [job]))

    def retry(self, jobs: Iterable[CellJob]) -> None:
        """Return the cells whose process died, to be run one by one."""
        self._deferred[:0] = [(time.monotonic(), [job]) for job in jobs]


@dataclass(frozen=True)
class SerialExecutor:
    """Runs one stack after another in this process."""

    store: Store
    options: RunOptions
    bars: Bars

    def map(self, run: RunStack, stacks: Iterable[Stack | None]) -> Results:
        """See :class:`Executor`."""
        backlog = _Backlog(stacks)
        while not backlog.is_empty:
            stack = backlog.draw()
            if stack is None:
                time.sleep(0 if backlog.is_empty else PAUSE)
                continue
            for job, result in run(stack, self.store, self.options, self.bars):
                if result is None:
                    backlog.defer(job)
                    continue
                self.bars.advance()
                yield job, result


@dataclass(frozen=True)
class ProcessExecutor:
    """Runs each stack in a process of its own, a bounded number at a time.

    Args:
        processes: Number of stacks at a time.
        tracking: The store; each process opens it.
    """

    processes: int
    tracking: TrackingConfig
    store: Store
    options: RunOptions
    bars: Bars

    def map(self, run: RunStack, stacks: Iterable[Stack | None]) -> Results:
        """See :class:`Executor`."""
        with shared_data() as shared:
            yield from self._map(run, stacks, shared)

    def _map(self, run: RunStack, stacks: Iterable[Stack | None], shared: SharedData) -> Results:
        start_server()
        backlog, deaths = _Backlog(stacks), Counter[str]()
        running: dict[Future[Any], tuple[Stack, float]] = {}
        try:
            while running or not backlog.is_empty:
                while len(running) < self.processes and (stack := backlog.draw()) is not None:
                    with PROFILE.activity("start processes"):
                        running[self._start(run, stack, shared)] = stack, time.monotonic()
                if not running:
                    time.sleep(0 if backlog.is_empty else PAUSE)
                with PROFILE.activity(WAITING):
                    ended = wait(running, timeout=PAUSE, return_when=FIRST_COMPLETED).done
                for future in ended:
                    stack, start_time = running.pop(future)
                    for job, result in self._results(future, stack, start_time, deaths, backlog):
                        self.bars.advance()
                        yield job, result
        except (SystemExit, KeyboardInterrupt):
            signals.acknowledge()  # nothing more interrupts the end of the processes
            raise
        finally:
            self._end(running)

    def _results(
        self, future: Future[Any], stack: Stack, start_time: float, deaths: Counter[str], backlog: _Backlog
    ) -> Iterator[tuple[CellJob, CellResult]]:
        """Yield the results of a stack whose process has ended; cells without one return to the backlog."""
        try:
            results, seconds = future.result()
            PROFILE.add_worker(seconds)
        except ProcessExpired as death:
            deaths.update(job.cell_id for job in stack)
            reason = self._limit_exceeded(death, start_time) if len(stack) == 1 else None
            if reason is None and (len(stack) > 1 or deaths[stack[0].cell_id] < ATTEMPTS):
                backlog.retry(stack)
                return
            reason = reason or f"its process ended {ATTEMPTS} times ({_ending(death)})"
            results = [fail_cell(self.store, stack[0], reason)]
        for job, result in zip(stack, results, strict=True):
            if result is None:
                backlog.defer(job)
            elif result.action == "skipped" and job.cell_id in deaths:  # it finished before its process died
                yield job, CellResult(result.result, "new")
            else:
                yield job, result

    def _start(self, run: RunStack, stack: Stack, shared: SharedData) -> Future[Any]:
        stack = [replace(job, run=job.run.with_shared_data(shared)) for job in stack]
        # pebble documents the argument context, but annotates mp_context.
        run_in_process = process(name=PROCESS_NAME, context=_context)(_run_in_process)  # type: ignore[call-overload]
        try:
            with _without_main_module():
                future: Future[Any] = run_in_process(run, stack, self.tracking, self.options, dict(os.environ))
        except (pickle.PicklingError, AttributeError, TypeError) as unpicklable:
            raise ConfigError(
                f"{stack[0].name}: its config cannot be sent to another process ({unpicklable}); "
                f"allowed: {option('jobs', '1')}"
            ) from unpicklable
        return future

    def _limit_exceeded(self, death: ProcessExpired, start_time: float) -> str | None:
        """Return the limit for which the process's watchdog ended it; None if it died otherwise."""
        if death.exitcode != WATCHDOG_EXIT_CODE:
            return None
        elapsed = time.monotonic() - start_time
        return self.options.limits.exceeded(elapsed, elapsed)

    def _end(self, running: Iterable[Future[Any]]) -> None:
        """End all processes: they close their runs as KILLED, or are killed and their runs closed here."""
        for future in running:
            future.cancel()  # ends its process with SIGTERM
        deadline, killed = time.monotonic() + GRACE, False
        for child in multiprocessing.active_children():
            if child.name == PROCESS_NAME:
                child.join(max(0.0, deadline - time.monotonic()))
                if child.is_alive():
                    child.kill()
                    child.join(1)
                    killed = True
        if killed:
            with ignore_store_errors("runs of processes that were killed are closed by the next command"):
                close_stale_runs(self.store)


def fail_cell(store: Store, job: CellJob, reason: str) -> CellResult | None:
    """Close the run of a cell whose process died, if it has one, as FAILED; None if another process works on it."""
    with RunLocks.of(store).acquire(job.cell_id) as acquired:
        if not acquired:
            return None
        newest, *older = runs_of_cell(store, job.cell_id) or [None]
        open_runs = [r for r in older if r.info.status == "RUNNING"]
        if newest is not None and newest.info.status in ("RUNNING", "KILLED"):  # others closed it as KILLED, perhaps
            open_runs.insert(0, newest)
        for run in open_runs:
            note = {ERROR_TAG: reason, "mlflow.note.content": f"**Failed:** {reason}."}
            store.end(run.info.run_id, "FAILED", note)
            remove_checkpoints(store, run.info.run_id)
    run_id = open_runs[0].info.run_id if open_runs else UNTRACKED
    return CellResult(RunResult(job.name, run_id, job.swept, "FAILED", error=reason), "new")


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Let a process start without the driver's script, which Python would run in it: the process does not need it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _ending(death: ProcessExpired) -> str:
    code = death.exitcode
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _run_in_process(
    run: RunStack, stack: Stack, tracking: TrackingConfig, options: RunOptions, environment: dict[str, str]
) -> tuple[list[CellResult | None], dict[str, float]]:
    """Run a stack in a process of its own.

    Returns:
        The result of each cell, None for a cell that another process works on; and the seconds by activity.
    """
    PROFILE.restart(OTHER)
    os.environ.update(environment)
    previous_handler = signal.getsignal(signal.SIGTERM)
    signals.install(signal.SIGTERM)
    for number in TERMINAL_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the driver receives it, too, and ends this process
    threading.Thread(target=_end_with_driver, args=(stack[0].run.files,), daemon=True).start()
    try:
        results: dict[int, CellResult | None]
        try:
            store = Store.open(tracking, wait=True)  # the driver has just opened it
        except DeletedError as deleted:
            results = {id(job): without_run(job, deleted) for job in stack}
        else:
            with bars(1, quiet=True) as hidden:
                results = {id(job): result for job, result in run(stack, store, options, hidden)}
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
    return [results[id(job)] for job in stack], PROFILE.taken()


def _end_with_driver(files: DataFiles | None) -> None:
    """Interrupt this process when the driver has ended; kill it if it does not respond."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        wait_for_process([driver.sentinel])
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)  # nobody waits for the result or its failure
        if files is not None:
            files.remove()  # the driver removes them unless it was killed
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2 * GRACE)
        os.kill(os.getpid(), signal.SIGKILL)
