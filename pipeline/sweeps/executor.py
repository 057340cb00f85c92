"""Cells in parallel: a bounded number of worker processes, each of which can die without taking the sweep with it.

The driver hands out one cell at a time and watches; a worker's death costs its cell one more try. Workers end when the
driver does, however it ends.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from pipeline import signals
from pipeline.errors import ConfigError
from pipeline.progress import bars
from pipeline.runs.artifacts import forget
from pipeline.runs.cell import CellJob, CellPolicy, CellResult, close_stale_runs, run_cell, runs_of_cell
from pipeline.runs.execute import ERROR_TAG
from pipeline.runs.result import RunResult
from pipeline.tracking.locks import RunLocks
from pipeline.tracking.retry import ignore_store_errors
from pipeline.tracking.store import Store, TrackingConfig

TRIES = 2  # of a cell whose worker dies
GRACE = 2.0  # seconds for workers to close their runs when the sweep is interrupted
BUSY_PAUSE = 0.5  # seconds before asking again about a cell that another process is at
SLACK = 5.0  # seconds beyond a limit before a worker that does not end itself is ended

_context = multiprocessing.get_context("forkserver")  # which imports what takes seconds once, for all workers
_context.set_forkserver_preload(
    ["pipeline.sweeps.executor", "mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store"]
)


@dataclass
class Worker:
    """A process and what it is doing."""

    process: BaseProcess
    pipe: Connection
    times: Any  # two shared doubles: when its cell began, and when its last step did
    task: int | None = None


@dataclass
class Pool:
    """Settles tasks in ``jobs`` processes.

    Args:
        tracking: where; every worker opens the store itself.
        on_settled: told each task's number and how it was settled, as soon as it is known.
        on_busy: told the number of a task that another process is at.
    """

    jobs: int
    tracking: TrackingConfig
    store: Store
    policy: CellPolicy
    on_settled: Callable[[int, CellResult], None]
    on_busy: Callable[[int], None] = lambda number: None
    _workers: list[Worker] = field(default_factory=list)

    def run(self, tasks: Sequence[CellJob], fail_fast: bool) -> None:
        """All tasks; with ``fail_fast`` none is begun, and those going on are ended, once one has failed."""
        left, tries, settled = deque(range(len(tasks))), dict.fromkeys(range(len(tasks)), 0), 0
        not_before = dict.fromkeys(range(len(tasks)), 0.0)
        with self._open():
            while settled < len(tasks):
                self._hand_out(tasks, left, not_before)
                for number, told in self._heard(tasks, left, tries, not_before):
                    settled += 1
                    self.on_settled(number, told)
                    if fail_fast and told.outcome.status == "FAILED":
                        return

    def _heard(
        self, tasks: Sequence[CellJob], left: deque[int], tries: dict[int, int], not_before: dict[int, float]
    ) -> Iterator[tuple[int, CellResult]]:
        """Tasks that were settled, or failed with their workers; the others that came back are left to be done."""
        for worker, message in self._messages():
            if isinstance(message, ConfigError):  # the store is gone, the code has changed: no other cell can go on
                raise message
            number = worker.task
            worker.task = None
            if number is None:
                if message is None:  # it died idle
                    self._bury(worker)
                continue
            if message is None:  # it died
                tries[number] += 1
                reason = self._bury(worker)
                if tries[number] < TRIES and reason.startswith("its process"):
                    left.appendleft(number)
                    continue
                outcome = self._failed(tasks[number], reason)
                message = "busy" if outcome is None else CellResult(outcome, "new")
            if message == "busy":
                self.on_busy(number)
                not_before[number] = time.monotonic() + BUSY_PAUSE
                left.append(number)
                continue
            yield number, message

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._end()

    def _hand_out(self, tasks: Sequence[CellJob], left: deque[int], not_before: dict[int, float]) -> None:
        now = time.monotonic()
        for _ in range(len(left)):
            if not_before[left[0]] > now:
                left.rotate(-1)
                continue
            worker = next((w for w in self._workers if w.task is None), None)
            if worker is None and len(self._workers) < self.jobs:
                worker = self._start()
            if worker is None:
                return
            worker.task = left.popleft()
            worker.times[:] = [math.inf, math.inf]  # until it has the cell in hand
            with contextlib.suppress(OSError):  # a worker that died is noticed by its pipe
                worker.pipe.send(tasks[worker.task])

    def _start(self) -> Worker:
        ours, theirs = _context.Pipe()
        times = _context.Array("d", [math.inf, math.inf], lock=False)
        arguments = (theirs, times, self.tracking, self.policy, list(sys.path), dict(os.environ))
        process = _context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        worker = Worker(process, ours, times)
        self._workers.append(worker)
        return worker

    def _messages(self) -> list[tuple[Worker, Any]]:
        """What came within half a second; None of a worker that died, or was ended since it passed a limit."""
        ready = wait([w.pipe for w in self._workers], timeout=0.5)
        told = []
        for worker in list(self._workers):
            if worker.pipe in ready:
                try:
                    told.append((worker, worker.pipe.recv()))
                except (EOFError, OSError):
                    told.append((worker, None))
            elif worker.task is not None and self._exceeded(worker):
                worker.process.kill()
                told.append((worker, None))
        return told

    def _exceeded(self, worker: Worker) -> str | None:
        late = time.monotonic() - SLACK
        return self.policy.limits.exceeded(*(late - then for then in worker.times))

    def _bury(self, worker: Worker) -> str:
        """Forget a worker; returns why its cell came to nothing."""
        reason = self._exceeded(worker)
        worker.process.join(5)
        self._workers.remove(worker)
        worker.pipe.close()
        code = worker.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return reason or f"its process ended twice ({how})"

    def _failed(self, task: CellJob, reason: str) -> RunResult | None:
        """The outcome of a cell whose worker is gone; its run, if it has one, is closed so.

        None if another process is at the cell by now.
        """
        with RunLocks.of(self.store).acquire(task.cell) as free:
            if not free:
                return None
            open_runs = [r for r in runs_of_cell(self.store, task.cell) if r.info.status == "RUNNING"]
            for run in open_runs:
                note = {ERROR_TAG: reason, "mlflow.note.content": f"**Failed:** {reason}."}
                self.store.end(run.info.run_id, "FAILED", note)
                forget(self.store, run.info.run_id)
        run_id = open_runs[0].info.run_id if open_runs else "none"
        return RunResult(task.name, run_id, task.swept, status="FAILED", error=reason)

    def _end(self) -> None:
        """End all workers: those at work close their runs as KILLED, or are killed and their runs closed here."""
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.pipe.send(None) if worker.task is None else worker.process.terminate()
        until, killed = time.monotonic() + GRACE, False
        for worker in self._workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join(1)
                killed = True
        self._workers.clear()
        if killed:
            with ignore_store_errors("runs of workers that had to be killed are left to the next command"):
                close_stale_runs(self.store)


def _work(
    pipe: Connection,
    times: Any,
    tracking: TrackingConfig,
    policy: CellPolicy,
    path: list[str],
    environment: dict[str, str],
) -> None:
    """A worker's life."""
    sys.path[:] = path
    os.environ.update(environment)
    signals.install(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver hears it too, and tells us
    threading.Thread(target=_end_with_driver, daemon=True).start()
    try:
        store = Store.open(tracking, wait=True)  # it was there a moment ago
    except ConfigError as gone:
        pipe.send(gone)
        return

    def step() -> None:
        times[1] = time.monotonic()

    with bars(1, quiet=True) as shown:
        while True:
            try:
                task = pipe.recv()
            except (EOFError, OSError):
                return
            if task is None:
                return
            times[:] = [time.monotonic()] * 2
            pipe.send(_settled(task, store, policy, shown, step))


def _settled(
    task: CellJob, store: Store, policy: CellPolicy, shown: Any, step: Callable[[], None]
) -> CellResult | ConfigError | str:
    try:
        done = run_cell(task, store, policy, shown, step)
    except ConfigError as wrong:
        return wrong
    if done is None:
        return "busy"
    done.outcome.summary = None
    return done


def _end_with_driver() -> None:
    """Interrupt this process when the driver is gone; end it if that is not heard."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        wait([driver.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2 * GRACE)
        os.kill(os.getpid(), signal.SIGKILL)
