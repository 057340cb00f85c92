"""One task of Slurm: it trains the cells of a stack and returns their results."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from threadpoolctl import threadpool_limits

from pipeline import signals
from pipeline.errors import ConfigError
from pipeline.progress import bars
from pipeline.reproducibility.environment import Provenance
from pipeline.reproducibility.fingerprint import SourceFiles
from pipeline.runs.cell import CellResult
from pipeline.runs.job import RunOptions, Stack
from pipeline.sweeps.executor import RunStack
from pipeline.sweeps.slurm.config import NOTICE
from pipeline.sweeps.slurm.environment import difference, own_environment, with_code_of
from pipeline.tracking.store import Store, TrackingConfig

JOB_TAG, LOG_TAG = "slurm.job", "slurm.log"
REQUEUES = 20  # how many times a task returns to the queue, at its time limit or because its node failed
REQUEUE_SECONDS = 60.0  # for Slurm to answer


@dataclass(frozen=True)
class StackTask:
    """A stack to be trained on some node. Called there, once for each attempt.

    Attributes:
        run: Runs the stack.
        stack: The cells.
        tracking: The store, with an absolute address.
        options: What the user chose.
        driver: The environment of the command that submits the task.
        files: The files of the code that the two compare.
    """

    run: RunStack
    stack: Stack
    tracking: TrackingConfig
    options: RunOptions
    driver: Provenance
    files: SourceFiles

    def __call__(self) -> list[CellResult | None]:
        """Train the cells. At the time limit write checkpoints, close the runs and return to the queue.

        Returns:
            The result of each cell, None for a cell that another process works on.

        Raises:
            ConfigError: This node does not see the store, or has other code or packages.
        """
        from submitit import JobEnvironment

        _log_to_output()
        signals.install(signal.SIGTERM)
        signals.leave_after_checkpoint(NOTICE)
        place = JobEnvironment()
        with threadpool_limits(1):
            node = own_environment(self.files)
        if text := difference(self.driver, node):
            raise ConfigError(f"node {place.hostname}: {text}")
        self.tracking.existing_uri()
        options = replace(
            self.options,
            origin=with_code_of(self.driver, node),
            task={JOB_TAG: place.job_id, LOG_TAG: str(place.paths.stdout)},
        )
        try:
            store = Store.open(self.tracking, wait=True)
            with bars(1, quiet=True) as hidden:
                results = {id(job): result for job, result in self.run(self.stack, store, options, hidden)}
        except SystemExit:
            if signals.is_leaving():
                self._requeue(place.job_id)
            raise
        return [results[id(job)] for job in self.stack]

    def _requeue(self, job_id: str) -> None:
        """Return this task to the queue.

        Raises:
            ConfigError: It has been there too often.
        """
        if restarts(os.environ) >= REQUEUES:
            raise ConfigError(f"the task has returned to the queue {REQUEUES} times; it needs a longer executor.time")
        subprocess.run(["scontrol", "requeue", "Incomplete", job_id], timeout=REQUEUE_SECONDS, check=True)


def restarts(variables: Mapping[str, str]) -> int:
    """Return how many times Slurm has started this task before."""
    return int(variables.get("SLURM_RESTART_COUNT", "0"))


def _log_to_output() -> None:
    """Send the messages of the runs to the task's log, too."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("gradvitals").addHandler(handler)
