"""Slurm without Slurm: what is checked before anything is submitted, and what the driver does about lost tasks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from support.commands import NO_FIGURES, invoke
from support.stores import opened, uri

from pipeline.config.compose import compose_run, compose_sweep
from pipeline.errors import ConfigError
from pipeline.progress import bars
from pipeline.reproducibility.environment import Provenance
from pipeline.reproducibility.fingerprint import SourceFiles
from pipeline.runs.cell import CellResult
from pipeline.runs.job import CellJob, RunOptions, Stack
from pipeline.runs.stack import run_stack
from pipeline.sweeps.plan import plan_sweep
from pipeline.sweeps.slurm import executor as slurm_executor
from pipeline.sweeps.slurm.config import SlurmConfig, slurm_of
from pipeline.sweeps.slurm.environment import check_environment, difference, own_environment, task_variables
from pipeline.sweeps.slurm.executor import Leaving, SlurmExecutor
from pipeline.sweeps.slurm.queue import Queue, RefusedError
from pipeline.sweeps.slurm.task import StackTask
from pipeline.tracking.file_systems import check_shareable
from pipeline.tracking.locks import RunLocks
from pipeline.tracking.store import Store, TrackingConfig

HERE = Provenance({"code.sha256": "c", "python": "3.11.7", "git.commit": "1"}, "", "numpy==2.4.6\nmlflow==3.17.2\n")
CELLS = ("data=iris", "architecture.hidden=[4]", "epochs=0", "probes=none", "seed=0,1", "name=small", NO_FIGURES)


def chosen(*overrides: str) -> SlurmConfig:
    """Return the config of an executor."""
    config = slurm_of(compose_run(["executor=slurm", *overrides]))
    assert config is not None
    return config


def test_config_has_the_options_of_sbatch() -> None:
    assert slurm_of(compose_run([])) is None
    config = chosen("executor.partition=cpu", "executor.time=2-12", "executor.mem=4G", "+executor.options.nice=100")
    options = config.sbatch_options()
    assert {"partition": "cpu", "time": "2-12", "mem": "4G", "cpus_per_task": 1}.items() <= options.items()
    assert options["additional_parameters"] == {"requeue": True, "signal": "USR2@90", "nice": 100}
    assert "account" not in options


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("executor.time=soon", "executor.time=soon: must be minutes"),
        ("executor.time=0", "executor.time=0: must be at least 3 minutes"),
        ("executor.time=2", "executor.time=2: must be at least 3 minutes"),
        ('executor.time="00:01:00"', "executor.time=00:01:00: must be at least 3 minutes"),
        ("+executor.options.array=0-3", "executor.options.array=0-3: is set by the driver"),
        ("+executor.options.exclusive=false", "executor.options.exclusive=False: must be an option of sbatch"),
        ("executor.mem=much", "executor.mem=much: must be MiB"),
        ("executor.array_parallelism=0", "executor.array_parallelism=0: must be >= 1"),
        ("+executor.options={A B: 1}", "executor.options.A B=1: must be an option of sbatch"),
    ],
)
def test_wrong_options_are_refused(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{says}"):
        chosen(override)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("run", "executor=slurm"), "executor=slurm: runs sweeps only"),
        (("search", "executor=slurm"), "executor=slurm: runs sweeps only"),
        (("sweep", "executor=slurm", "executor.time=1,2"), "executor: must be the same in every cell"),
        (("sweep", "--detach", "--cancel"), "--detach --cancel: give one of them"),
        (("sweep", "--detach", "data=iris", "seed=0,1"), "--detach, --cancel: need executor=slurm"),
    ],
)
def test_commands_refuse_what_they_cannot_do(argv: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = invoke(*argv, f"tracking.uri={uri(tmp_path)}")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert says in done.err


def test_sqlite_on_a_network_file_system_is_refused(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("disk / ext4 rw 0 0\nserver:/data /data nfs4 rw 0 0\ndisk2 /data/node ext4 rw 0 0\n")
    with pytest.raises(ConfigError, match=r"sqlite:////data/me/store.db: an SQLite file on a network file system"):
        check_shareable("sqlite:////data/me/store.db", mounts)
    check_shareable("sqlite:////data/node/store.db", mounts)
    check_shareable("sqlite:////other/store.db", mounts)
    check_shareable("http://data:5000", mounts)


def test_locks_of_a_shared_folder_are_the_same_on_all_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "node1")
    alone, shared = RunLocks(tmp_path).host, RunLocks(tmp_path, is_shared=True).host
    monkeypatch.setattr("platform.node", lambda: "node2")
    assert RunLocks(tmp_path).host != alone
    assert RunLocks(tmp_path, is_shared=True).host == shared
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "name").write_text((tmp_path / "name").read_text())
    assert RunLocks(copy, is_shared=True).host != shared


def test_differences_of_code_packages_and_python_are_one_line() -> None:
    assert difference(HERE, replace(HERE, facts=HERE.facts | {"git.commit": "2", "platform": "another"})) == ""
    other = Provenance(HERE.facts | {"code.sha256": "d", "python": "3.12.1"}, "", "numpy==2.3.0\n")
    assert difference(HERE, other) == (
        "the code differs; package mlflow was 3.17.2, is not installed; package numpy was 2.4.6, is 2.3.0; "
        "Python was 3.11.7, is 3.12.1"
    )


def test_environment_of_tasks_is_compared_before_anything_is_submitted(tmp_path: Path) -> None:
    (job, _) = jobs_of(tmp_path)
    driver = own_environment(job.code_files)
    check_environment(driver, job.code_files, task_variables())
    another = replace(driver, packages=driver.packages + "some-package==1.0\n")
    with pytest.raises(ConfigError, match=r"the tasks would not run .*: package some-package was 1.0"):
        check_environment(another, job.code_files, task_variables())
    with pytest.raises(ConfigError, match="executor=slurm: a task's Python does not start"):
        check_environment(driver, job.code_files, {**task_variables(), "PYTHONHOME": str(tmp_path)})


def jobs_of(folder: Path) -> Sequence[CellJob]:
    """Return the jobs of a small sweep."""
    return plan_sweep(compose_sweep([*CELLS, f"tracking.uri={uri(folder)}"]), quiet=True).jobs


@dataclass(frozen=True)
class FakeQueue(Queue):
    """A queue that runs its tasks at once, in this process. Some of them die.

    Attributes:
        store: The store.
        dies: For each task in the order of submission, whether it dies before it starts.
        submitted: The stacks that were submitted.
        refuses: For each submission, whether Slurm refuses it.
    """

    store: Store | None = None
    dies: Sequence[bool] = ()
    submitted: list[Stack] = field(default_factory=list)
    outcomes: dict[str, Any] = field(default_factory=dict)
    refuses: list[bool] = field(default_factory=list)

    def check_environment(self, files: SourceFiles, here: Provenance | None) -> Provenance:
        assert here in (None, HERE)
        return HERE

    def most_tasks(self) -> int:
        return 1000

    def submit(self, tasks: Sequence[StackTask], at_a_time: int) -> list[str]:
        assert self.store is not None
        if self.refuses and self.refuses.pop(0):
            raise RefusedError("executor=slurm: sbatch: error: Socket timed out")
        ids = []
        for task in tasks:
            number = len(self.submitted)
            self.submitted.append(task.stack)
            ids.append(f"{number}_0")
            if number >= len(self.dies) or not self.dies[number]:
                with bars(1, quiet=True) as hidden:
                    results = {id(j): r for j, r in task.run(task.stack, self.store, task.options, hidden)}
                self.outcomes[ids[-1]] = [results[id(job)] for job in task.stack]
        return ids

    def living(self) -> dict[str, str] | None:
        return {}

    def with_result(self) -> set[str]:
        return set(self.outcomes)

    def result(self, task_id: str) -> list[CellResult | None] | str:
        return self.outcomes[task_id]

    def ending(self, task_id: str) -> str:
        return "OUT_OF_MEMORY"

    def cancel(self, task_ids: Collection[str]) -> None:
        """Do nothing."""


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL", "SHORTEST", "LONGEST", "LATE"):
        monkeypatch.setattr(slurm_executor, name, 0.01)


def run_jobs(
    folder: Path, jobs: Sequence[CellJob], dies: Sequence[bool] = (), refuses: Sequence[bool] = ()
) -> tuple[FakeQueue, list[Any]]:
    """Run cells as one stack on a fake queue; return it and (action, status, error) of each cell."""
    store = opened(folder)
    queue = FakeQueue(folder, "small", chosen(), store=store, dies=dies, refuses=list(refuses))
    with bars(1, quiet=True) as hidden:
        tracking, options = TrackingConfig(uri(folder), "gradvitals"), RunOptions(command="sweep", figures=False)
        executor = SlurmExecutor(queue, tracking, store, options, hidden, False, Leaving())
        done = {id(job): result for job, result in executor.map(run_stack, [jobs])}
    return queue, [(done[id(j)].action, done[id(j)].result.status, done[id(j)].result.error) for j in jobs]


def test_lost_task_is_submitted_again_and_finished_cells_are_not_submitted(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path)
    queue, ends = run_jobs(tmp_path, jobs, dies=[True])
    assert [len(stack) for stack in queue.submitted] == [2, 2]
    assert ends == [("new", "FINISHED", None)] * 2
    queue, ends = run_jobs(tmp_path, [*jobs, replace(jobs[0])])
    assert queue.submitted == []
    assert ends == [("skipped", "FINISHED", None)] * 3


def test_cell_fails_alone_when_its_tasks_are_lost_again_and_again(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path)
    queue, ends = run_jobs(tmp_path, jobs, dies=[True, True, True])
    assert [len(stack) for stack in queue.submitted] == [2, 2, 1, 1]
    assert ends == [("new", "FAILED", "its task ended 3 times: OUT_OF_MEMORY"), ("new", "FINISHED", None)]


def test_refused_submission_ends_a_command_that_has_no_tasks_and_is_repeated_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = jobs_of(tmp_path)
    with pytest.raises(RefusedError, match="Socket timed out"):
        run_jobs(tmp_path, jobs, refuses=[True])
    queue, ends = run_jobs(tmp_path, jobs, dies=[True], refuses=[False, True, True])
    assert [len(stack) for stack in queue.submitted] == [2, 2]
    assert ends == [("new", "FINISHED", None)] * 2
    assert caplog.text.count("Socket timed out; trying again") == 1


def test_only_ctrl_c_asks_what_becomes_of_the_tasks() -> None:
    asking = Leaving(ask=lambda: True)
    assert asking.cancels(KeyboardInterrupt())
    assert not asking.cancels(SystemExit(143))
    assert not Leaving().cancels(KeyboardInterrupt())
    assert not Leaving(cancel=False, ask=lambda: True).cancels(KeyboardInterrupt())
    assert Leaving(cancel=True).cancels(SystemExit(143))
