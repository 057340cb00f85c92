"""Sweeps on a private Slurm: tasks, nodes, the controller and the driver are killed, and every cell is run once.

The cells are small, and train for some seconds as a stack. A task needs most of its time to import MLflow. Each test
prints the figures of docs/cluster.md: ``pytest -rP tests/end_to_end/test_slurm.py --slow`` shows them.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.commands import NO_FIGURES, sweep_command
from support.configs import require
from support.pause import PAUSE
from support.servers import CuttingProxy, Postgres, Server, postgres_binaries, until
from support.slurm import PACKAGES, Slurm, missing_programs
from support.stores import assert_same, content, empty, opened, uri

from pipeline.paths import PROJECT

pytestmark = [pytest.mark.thorough, pytest.mark.xdist_group("slurm")]
PROBE = "+probes.pause={_target_: support.pause.pause, _partial_: true}"
CELLS = (
    "experiment=smoke", "activation=relu,tanh", "epochs=null", "steps=60", "replicates=1", "probes=none", PROBE,
    "schedule=every", "schedule@chain.schedule=every", "schedule@evaluation.schedule=first_and_last",
    "checkpoints.seconds=0.2", NO_FIGURES,
)  # fmt: skip
SIXTY, FOUR, TWO = (*CELLS, f"seed={','.join(map(str, range(30)))}"), (*CELLS, "seed=0,1"), (*CELLS, "seed=0")
PATIENCE = 240.0  # seconds


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    missing = missing_programs()
    require(not missing, f"Slurm is not installed ({', '.join(missing)} of {PACKAGES})")
    cluster = Slurm()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def local_content(factory: pytest.TempPathFactory, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Run a sweep in this process and return the content of its store."""
    folder = factory.mktemp("local")
    assert sweep_command(*overrides, f"tracking.uri={empty(uri(folder))}").code == 0
    return content(folder)


@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the content of the store of the local sweep of 60 cells."""
    return local_content(tmp_path_factory, SIXTY)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the content of the store of the local sweep of 4 cells."""
    return local_content(tmp_path_factory, FOUR)


@dataclass
class Driver:
    """A sweep on the cluster, whose driver can be killed and started again."""

    slurm: Slurm
    folder: Path
    overrides: tuple[str, ...]
    pause: float = 0.0  # seconds at each step
    address: str = ""  # of the store; a file in the folder by default
    _begin: float = field(default_factory=time.monotonic, repr=False)
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def start(self, *options: str) -> None:
        """Start the driver, with options of the command and overrides."""
        address = self.address or empty(uri(self.folder))
        command = [sys.executable, "-m", "pipeline", "sweep", "executor=slurm", *self.overrides, *options]
        command += ["executor.array_parallelism=3", f"tracking.uri={address}"]
        folders = [str(PROJECT), str(PROJECT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {**self.slurm.environment, "PYTHONPATH": os.pathsep.join(folders), "CI": "1"}
        variables[PAUSE] = str(self.pause)
        with (self.folder / "output").open("a") as output:
            self._process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
            )

    def signal(self, number: signal.Signals) -> int:
        """Send a signal to the driver, wait until it ends, and return its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(timeout=PATIENCE)

    def wait(self) -> int:
        """Wait until the driver ends and return its exit code."""
        assert self._process is not None
        return self._process.wait(timeout=PATIENCE)

    def finish(self) -> str:
        """Wait until the driver succeeds; return all that it printed."""
        assert self.wait() == 0, self.output()
        return self.output()

    def output(self) -> str:
        """Return what the driver printed."""
        return (self.folder / "output").read_text()

    def checkpoints(self) -> int:
        """Return how many runs have a checkpoint."""
        return len(list(self.folder.glob("store-checkpoints/*/state-*")))

    def wait_for_training(self, tasks: int = 1) -> None:
        """Wait until so many tasks train."""
        until(lambda: len(self.training()) >= tasks and self.checkpoints() > 0, "no task trains", PATIENCE)

    def training(self) -> dict[str, int]:
        """Return the process that trains on each node."""
        found = {}
        for node in self.slurm.nodes:
            for process in self.slurm.processes_on(node):
                with contextlib.suppress(OSError):  # it has just ended
                    words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
                    if b"submitit.core._submit" in words and b"srun" not in words[0]:
                        found[node] = process
        return found

    def logs(self) -> list[Path]:
        """Return the logs of the tasks."""
        return list(self.folder.glob("store-slurm/*/*_log.out"))

    def jobs(self) -> list[str]:
        """Return the ids of the jobs that were submitted."""
        return re.findall(r"submitted to Slurm as job (\d+)", self.output())

    def check(self, local: dict[str, Any], what: str, address: str | None = None) -> None:
        """Check that each cell has one run, that it has the local records, and that no run is open.

        Args:
            local: The content of the store of the local sweep.
            what: What happened, for the figures that are printed.
            address: The address of the store; the file in the folder by default.
        """
        seconds, store = time.monotonic() - self._begin, opened(self.folder, address)
        logged = store.search("tags.kind = 'run'")
        assert Counter(run.info.status for run in logged) == {"FINISHED": len(local)}
        assert_same(local, content(self.folder, address))
        assert len(store.search("tags.kind = 'sweep'")) == 1
        assert not list(self.folder.glob("store-checkpoints/*")), "checkpoints of finished runs are left"
        more = Counter(int(run.data.tags.get("mlflow.attempts", 0)) for run in logged)
        attempts = ", ".join(f"{count} in attempt {number + 1}" for number, count in sorted(more.items()))
        print(f"{what}: {len(local)} cells once ({attempts}), {seconds:.0f} s, {len(self.jobs())} jobs, equal")


def test_sweep_on_slurm_equals_the_local_sweep_and_is_skipped_afterwards(
    slurm: Slurm, four: dict[str, Any], tmp_path: Path
) -> None:
    driver = Driver(slurm, tmp_path, FOUR)
    driver.start("executor.account=lab", "executor.partition=main", "executor.time=00:30:00", "executor.mem=500M")
    assert "4 runs: 4 trained" in driver.finish()
    driver.check(four, "undisturbed")
    (job,) = driver.jobs()
    assert "lab|00:30:00" in slurm.run("sacct", "-n", "-P", "-X", "-j", job, "-o", "Account,Timelimit")
    run = opened(tmp_path).search("tags.kind = 'run'")[0]
    log = Path(run.data.tags["slurm.log"])
    assert run.data.tags["slurm.job"] in log.name
    assert "60 steps" in log.read_text()
    driver.start()
    assert "4 runs: 4 skipped, finished before" in driver.finish()
    assert driver.jobs() == [job], "a finished sweep was submitted again"


def test_sixty_cells_survive_a_killed_task_node_controller_and_driver(
    slurm: Slurm, sixty: dict[str, Any], tmp_path: Path
) -> None:
    driver = Driver(slurm, tmp_path, SIXTY, pause=0.4)
    driver.start()
    driver.wait_for_training(tasks=3)
    os.kill(driver.training()["node1"], signal.SIGKILL)
    slurm.kill_controller()
    slurm.kill_node("node2")
    driver.signal(signal.SIGKILL)
    slurm.start_controller()
    driver.start()
    output = driver.finish()
    slurm.start_node("node2")
    assert "of an earlier command found in Slurm's queue" in output
    driver.check(sixty, "a task, a node, the controller and the driver killed")
    attempts = Counter(
        run.data.tags.get("mlflow.attempts", "0") for run in opened(tmp_path).search("tags.kind = 'run'")
    )
    assert set(attempts) <= {"0", "1"}, "a cell was charged more than one attempt"


def test_sixty_cells_reach_a_server_that_is_killed_for_20_seconds_and_whose_replies_are_cut(
    slurm: Slurm, sixty: dict[str, Any], tmp_path: Path
) -> None:
    require(postgres_binaries() is not None, "PostgreSQL is not installed")
    postgres, cuts = Postgres(), {"runs/create": 3, "runs/log-batch": 3, "runs/update": 3, "artifacts/artifacts": 3}
    server = Server(postgres.uri, tmp_path)
    try:
        postgres.create()
        postgres.start()
        server.start()
        proxy = CuttingProxy(server.port)
        proxy.cuts = cuts
        driver = Driver(slurm, tmp_path, SIXTY, pause=0.3, address=proxy.uri)
        store = opened(tmp_path, server.uri)
        driver.start()
        until(lambda: bool(store.search("attributes.status = 'RUNNING'")), "no run", PATIENCE)
        server.kill()
        time.sleep(20)
        server.start()
        driver.finish()
        assert set(cuts.values()) == {0}, cuts
        driver.check(sixty, "replies cut, server killed for 20 s", server.uri)
    finally:
        server.kill()
        postgres.remove()


def test_task_before_its_time_limit_saves_and_returns_to_the_queue(
    slurm: Slurm, four: dict[str, Any], tmp_path: Path
) -> None:
    """The test sends Slurm's notice, so that it does not wait for a limit of minutes."""
    driver = Driver(slurm, tmp_path, FOUR, pause=0.3)
    driver.start("checkpoints.seconds=3600")
    until(lambda: any("60 steps" in log.read_text() for log in driver.logs()), "no task trains", PATIENCE)
    time.sleep(3)  # for some steps
    slurm.run("scancel", "--signal=USR2", *driver.jobs())
    output = driver.finish()
    driver.check(four, "time limit")
    assert len(driver.jobs()) == 1, "the driver submitted a task again"
    assert "ended without results" not in output
    logs = [path.read_text() for path in tmp_path.glob("store-artifacts/*/*/artifacts/run.1.log")]
    steps = [int(step) for log in logs for step in re.findall(r"resumed from step (\d+)", log)]
    assert any(step > 0 for step in steps), "no task left a checkpoint"


def test_node_that_is_given_up_but_lives_does_not_write_to_the_runs_of_the_next_attempt(
    slurm: Slurm, tmp_path: Path
) -> None:
    """The node's daemons die, and its task stands still without its locks; it goes on when the next attempt is done."""
    alone = tmp_path / "alone"
    alone.mkdir()
    assert sweep_command(*TWO, f"tracking.uri={empty(uri(alone))}").code == 0
    driver = Driver(slurm, tmp_path, TWO, pause=0.5)
    driver.start("checkpoints.seconds=5")  # seldom, for a task that stands still in a transaction locks SQLite for all
    until(lambda: sum("60 steps" in log.read_text() for log in driver.logs()) == 2, "both tasks train", PATIENCE)
    node, task = next(iter(driver.training().items()))
    slurm.lose_node(node)
    os.kill(task, signal.SIGSTOP)  # after it: Linux sends SIGHUP to stopped processes when their parent dies
    for lock in tmp_path.glob("store-locks/*.lock"):
        lock.unlink()
    driver.finish()
    os.kill(task, signal.SIGCONT)
    until(lambda: not Path(f"/proc/{task}").exists(), "the task that was given up", PATIENCE)
    slurm.start_node(node)
    driver.check(content(alone), "a lost node that lives")
    attempts = {run.data.tags.get("mlflow.attempts", "0") for run in opened(tmp_path).search("tags.kind = 'run'")}
    assert "1" in attempts, "the next attempt did not resume the run"


@pytest.mark.parametrize("choice", ["--detach", "--cancel"])
def test_interrupted_driver_leaves_or_cancels_its_tasks(
    slurm: Slurm, four: dict[str, Any], tmp_path: Path, choice: str
) -> None:
    driver = Driver(slurm, tmp_path, FOUR, pause=0.2)
    driver.start(choice)
    driver.wait_for_training()
    assert driver.signal(signal.SIGTERM) == 143
    statuses = {run.info.status for run in opened(tmp_path).search("tags.kind = 'run'")}
    if choice == "--cancel":
        assert slurm.run("squeue", "-h", "--states=RUNNING,PENDING") == ""
        assert "RUNNING" not in statuses
    else:
        assert "RUNNING" in statuses
        assert "go on" in driver.output()
    driver.start()
    driver.finish()
    driver.check(four, f"driver interrupted, {choice}")
    assert len(driver.jobs()) == (2 if choice == "--cancel" else 1)


def test_failed_cell_is_skipped_and_retried_on_request(slurm: Slurm, tmp_path: Path) -> None:
    driver = Driver(slurm, tmp_path, FOUR, pause=0.1)
    driver.start("--time-limit", "1")
    assert driver.wait() == 1
    driver.pause = 0.0
    assert {run.info.status for run in opened(tmp_path).search("tags.kind = 'run'")} == {"FAILED"}
    driver.start()
    assert driver.wait() == 1
    assert "skipped, failed before" in driver.output()
    driver.start("--retry")
    assert "4 runs: 4 retried" in driver.finish()
    assert len(driver.jobs()) == 2
