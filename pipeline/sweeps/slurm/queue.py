"""Slurm's queue as one sweep uses it: submit an array, see which tasks live, read their results, cancel them."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from pipeline.errors import ConfigError
from pipeline.reproducibility.environment import Provenance
from pipeline.reproducibility.fingerprint import SourceFiles
from pipeline.runs.cell import CellResult
from pipeline.sweeps.slurm.config import NOTICE, SlurmConfig
from pipeline.sweeps.slurm.environment import check_environment, own_environment, task_variables
from pipeline.sweeps.slurm.task import StackTask
from pipeline.tracking.file_systems import check_shareable
from pipeline.tracking.store import Store, TrackingConfig

COMMAND_SECONDS = 60.0  # for a command of Slurm to answer
MOST_TASKS = 1000  # of an array, where Slurm does not say
PENDING = "PENDING"
IGNORING = (
    f'trap "" {NOTICE.name.removeprefix("SIG")}; exec "$0" "$@"'  # until the task handles it: it would end Python
)
PYTHON = f"sh -c {shlex.quote(IGNORING)} {shlex.quote(sys.executable)}"


class RefusedError(ConfigError):
    """Slurm refuses a submission, or does not answer."""


def check_cluster(tracking: TrackingConfig) -> None:
    """Check that submitit and Slurm's commands are there, and that several machines can share the store.

    Raises:
        ConfigError: Something is missing, or the store is an SQLite file on a network file system.
    """
    check_shareable(tracking.resolved_uri())
    try:
        import submitit
    except ImportError:
        raise ConfigError("executor=slurm: needs submitit; pip install 'gradvitals[slurm]'") from None
    if submitit.SlurmExecutor.affinity() < 0:
        raise ConfigError("executor=slurm: Slurm's command srun is not on the PATH; start this on a login node")


@dataclass(frozen=True)
class Queue:
    """The tasks of one sweep.

    Args:
        folder: A folder that all nodes share, of this sweep alone.
        name: The name of its jobs.
        config: Options of the tasks.
    """

    folder: Path
    name: str
    config: SlurmConfig

    @classmethod
    def of_sweep(cls, sweep_id: str, config: SlurmConfig, store: Store) -> Queue:
        """Return the queue of a sweep, with its folder next to the store or, for a server, in the checkout."""
        folder = store.sidecar_dir("slurm") / sweep_id
        folder.mkdir(mode=0o700, exist_ok=True)  # a task's file holds the store's address, with its password
        return cls(folder, f"gradvitals-{sweep_id}", config)

    def check_environment(self, files: SourceFiles, here: Provenance | None) -> Provenance:
        """Check that the tasks will have the code and the packages of this process, and return its environment.

        Args:
            files: The files of the code.
            here: The environment that an earlier call returned.

        Raises:
            ConfigError: They differ, or a task's Python does not start.
        """
        if here is None:
            with threadpool_limits(1):
                here = own_environment(files)
        check_environment(here, files, task_variables())
        return here

    def submit(self, tasks: Sequence[StackTask], at_a_time: int) -> list[str]:
        """Submit an array of tasks and return their ids.

        Args:
            tasks: The tasks.
            at_a_time: The most tasks of the array that run at the same time.

        Raises:
            RefusedError: Slurm refuses.
        """
        import submitit
        from submitit.core.utils import FailedJobError

        executor = submitit.SlurmExecutor(self.folder, python=PYTHON)
        executor.update_parameters(
            **self.config.sbatch_options(),
            job_name=self.name,
            array_parallelism=at_a_time,
            stderr_to_stdout=True,
            setup=[f"export {name}={shlex.quote(value)}" for name, value in task_variables().items()],
        )
        before = set(self.folder.iterdir())
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what sbatch says
                jobs = executor.submit_array(tasks)
        except FailedJobError as refused:
            for path in set(self.folder.iterdir()) - before:  # they hold the store's address
                path.unlink(missing_ok=True)
            lines = [line for line in str(refused).splitlines() if "sbatch:" in line] or [str(refused)]
            raise RefusedError(f"executor=slurm: {' '.join(lines)}") from None
        ids = [str(job.job_id) for job in jobs]
        cells = {task_id: [job.cell_id for job in task.stack] for task_id, task in zip(ids, tasks, strict=True)}
        path = self.folder / f"cells-{ids[0].partition('_')[0]}.json"
        path.with_suffix(".part").write_text(json.dumps(cells), encoding="utf-8")
        path.with_suffix(".part").replace(path)
        return ids

    def cells(self) -> dict[str, list[str]]:
        """Return the cells of every task that was submitted for this sweep, by task id."""
        submitted: dict[str, list[str]] = {}
        for path in self.folder.glob("cells-*.json"):
            submitted |= json.loads(path.read_text(encoding="utf-8"))
        return submitted

    def living(self) -> dict[str, str] | None:
        """Return the state and the reason of each task that waits or runs; None if Slurm does not answer."""
        output = _output("squeue", "--noheader", "--array", "--me", "--name", self.name, "--format", "%F|%K|%T|%r")
        if output is None:
            return None
        rows = (line.strip().split("|", 3) for line in output.splitlines() if line.count("|") >= 3)
        return {
            f"{job}_{index}" if index.isdigit() else job: state if state != PENDING else f"{state} {reason}"
            for job, index, state, reason in rows
        }

    def with_result(self) -> set[str]:
        """Return the tasks that have written a result."""
        names = (re.fullmatch(r"(\d+(?:_\d+)?)_0_result\.pkl", path.name) for path in self.folder.iterdir())
        return {name[1] for name in names if name is not None}

    def result(self, task_id: str) -> list[CellResult | None] | str:
        """Return the results of a task that has ended, or how it failed in one line."""
        import submitit

        failure = (job := submitit.SlurmJob[Any](self.folder, task_id)).exception()
        if failure is None:
            return list(job.result())
        trace = str(failure).partition("\n----------------------\n")[2].partition("\n----------------------\n")[0]
        return (trace.strip() or str(failure)).splitlines()[-1]

    def ending(self, task_id: str) -> str:
        """Return how a task without a result ended, by Slurm's accounting if there is one; and where its log is."""
        output = _output("sacct", "-n", "-X", "-P", "-j", task_id, "-o", "State,ExitCode")
        rows = [line.split("|") for line in (output or "").splitlines() if "|" in line]
        state = f"{rows[-1][0]}, exit code {rows[-1][1]}" if rows else "it wrote no result"
        return f"{state}; its log: {self.log(task_id)}"

    def log(self, task_id: str) -> Path:
        """Return the file with a task's output."""
        return self.folder / f"{task_id}_0_log.out"

    def most_tasks(self) -> int:
        """Return the most tasks that an array may have."""
        found = re.search(r"MaxArraySize\s*=\s*(\d+)", _output("scontrol", "show", "config") or "")
        return max(1, int(found[1]) - 1) if found else MOST_TASKS

    def cancel(self, task_ids: Collection[str]) -> None:
        """Cancel tasks: those that run close their runs."""
        for some in _parts(sorted(task_ids), MOST_TASKS):
            _output("scancel", *some)


def _parts(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _output(*command: str) -> str | None:
    """Return the output of one of Slurm's commands, None if it fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
