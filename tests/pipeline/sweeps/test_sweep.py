"""What a sweep does about cells that are finished, failed, interrupted, at work elsewhere, hanging or too large."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.commands import NO_FIGURES, invoke, sweep_command
from support.packages import own_package
from support.stores import assert_same, content, copied, empty, opened, runs, uri

from pipeline.config.compose import compose_run
from pipeline.errors import ConfigError
from pipeline.paths import PROJECT
from pipeline.progress import bars
from pipeline.reproducibility.replay import ReplayOptions, reproduce
from pipeline.runs.cell import close_stale_runs
from pipeline.runs.job import CellJob, RunOptions, prepare_cell
from pipeline.runs.limits import Limits
from pipeline.runs.stack import run_stack
from pipeline.tracking.locks import HOST_TAG, LEASE_TAG, RunLocks
from pipeline.tracking.logged_run import LoggedRun
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.tracking.tags import in_sweep

pytestmark = pytest.mark.xdist_group("sweep")
SMALL = ["data=iris", "epochs=1", "architecture=deep", "architecture.width=5", "replicates=2", "name=small"]
TWO = "architecture.depth=2,3"

PARTS = """
import os, signal, time
import numpy as np

def one(layer):
    return np.ones(layer.W.shape[:-2])

def fine(layer):
    return one(layer)

def fails(layer):
    if FLAG.exists():
        raise ValueError("boom")
    return one(layer)

def hangs(layer):
    while True:
        time.sleep(0.01)

def hangs_deaf(layer):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    while True:
        time.sleep(0.01)

def slow(layer):
    time.sleep(0.05)
    return one(layer)

def slower(layer):
    time.sleep(0.5)
    return one(layer)

def eats(layer):
    return np.ones(2**30)[0] * one(layer)

def dies(layer):
    os.kill(os.getpid(), signal.SIGKILL)

def dies_once(layer):
    if not FLAG.exists():
        FLAG.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return one(layer)
"""


@pytest.fixture
def flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that switches the planted faults; their package is importable, here and in child processes."""
    with own_package(tmp_path, monkeypatch, "plantedparts", PARTS) as file:
        yield file


def own(*names: str) -> tuple[str, str]:
    return "+probes.own._target_=" + ",".join(f"plantedparts.{n}" for n in names), "+probes.own._partial_=true"


def swept(folder: Path, *overrides: str, **options: Any) -> tuple[int, str]:
    """Return the exit code of a sweep, and all that it shows."""
    shown = sweep_command(*SMALL, *overrides, f"tracking.uri={uri(folder)}", **options)
    return shown.code, shown.text


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished sweep over two cells, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    code, text = swept(folder, TWO)
    assert code == 0
    return folder, text


@pytest.fixture
def finished(original: tuple[Path, str], tmp_path: Path) -> Path:
    """A folder with that sweep, as if it had been run there."""
    return copied(original[0], tmp_path)


def prepared(name: str) -> CellJob:
    """Return a job that is ready to run."""
    return prepare_cell(compose_run(SMALL), name, {}, {})


def statuses(folder: Path) -> dict[str, list[str]]:
    """Of all runs of cells, by name, oldest first."""
    found: dict[str, list[str]] = {}
    for run in opened(folder).search("tags.kind = 'run'"):
        found.setdefault(run.info.run_name, []).append(run.info.status)
    return found


@pytest.mark.thorough
def test_finished_cells_are_skipped_unless_forced(original: tuple[Path, str], finished: Path) -> None:
    assert "2 runs: 2 trained" in original[1]
    code, text = swept(finished, TWO)
    assert code == 0
    assert "2 skipped, finished before (--force runs them again)" in text
    code, text = swept(finished, TWO, "tracking.experiment=gradvitals", "checkpoints.seconds=5")
    assert "2 skipped, finished before" in text
    assert statuses(finished) == {"d2": ["FINISHED"], "d3": ["FINISHED"]}
    first = content(finished)
    code, text = swept(finished, TWO, force=True)
    assert code == 0
    assert "2 rerun" in text
    assert statuses(finished) == {"d2": ["FINISHED"] * 2, "d3": ["FINISHED"] * 2}
    (summary,) = opened(finished).search("tags.kind = 'sweep'")
    sweep_id = summary.data.tags["sweep_summary"]
    again = opened(finished).search(in_sweep(sweep_id))
    assert sorted(r.info.run_name for r in again) == ["d2", "d3"]
    logged = [LoggedRun.from_store(opened(finished), run) for run in again]
    assert {run.provenance["cell"] for run in logged} == {first["d2"][4]["cell"], first["d3"][4]["cell"]}


@pytest.mark.thorough
def test_larger_sweep_reuses_cells_of_a_smaller_one(finished: Path) -> None:
    code, text = swept(finished, "architecture.depth=2,3,4")
    assert code == 0
    assert "3 runs: 1 trained, 2 skipped, finished before" in text
    small, large = (r.data.tags["sweep_summary"] for r in opened(finished).search("tags.kind = 'sweep'"))
    assert len(opened(finished).search(in_sweep(small))) == 2
    assert len(opened(finished).search(in_sweep(large))) == 3
    rows = [line for line in text.splitlines() if re.match(r"[234]  ", line)]
    assert len(rows) == 3
    assert all("±" in row for row in rows), "a cell that was finished before has its numbers in the table"


@pytest.mark.thorough
def test_failed_cells_are_retried_on_request_only(tmp_path: Path, flag: Path) -> None:
    flag.touch()
    code, text = swept(tmp_path, *own("fine", "fails"))
    assert code == 1
    assert "ValueError: boom" in text
    assert not list((tmp_path / "store-checkpoints").glob("*")), "a failed run has no checkpoint"
    code, text = swept(tmp_path, *own("fine", "fails"))
    assert code == 1
    assert "1 skipped, finished before" in text
    assert "1 skipped, failed before (--retry runs it again)" in text
    assert "boom" in text
    flag.unlink()
    code, text = swept(tmp_path, *own("fine", "fails"), retry=True)
    assert code == 0
    assert "1 retried" in text
    assert sorted(s for many in statuses(tmp_path).values() for s in many) == ["FAILED", "FINISHED", "FINISHED"]
    (summary,) = opened(tmp_path).search("tags.kind = 'sweep'")
    inside = opened(tmp_path).search(in_sweep(summary.data.tags["sweep_summary"]))
    assert [r.info.status for r in inside] == ["FINISHED", "FINISHED"]
    assert summary.info.status == "FINISHED"


def test_finished_cell_with_unreadable_records_is_rerun(finished: Path) -> None:
    run = opened(finished).search("tags.kind = 'run'")[0]
    path = Path(run.info.artifact_uri.removeprefix("file://")) / "records.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    code, text = swept(finished, TWO)
    assert code == 0
    assert "1 rerun, for their records could not be read" in text
    assert "1 skipped, finished before" in text
    (summary,) = opened(finished).search("tags.kind = 'sweep'")
    inside = opened(finished).search(in_sweep(summary.data.tags["sweep_summary"]))
    assert run.info.run_id not in {r.info.run_id for r in inside}
    assert len(inside) == 2


def test_fail_fast_stops_at_the_first_failure(tmp_path: Path, flag: Path) -> None:
    flag.touch()
    code, text = swept(tmp_path, *own("fails", "fine"), fail_fast=True)
    assert code == 1
    assert "1 not run, for a cell failed" in text
    assert [s for many in statuses(tmp_path).values() for s in many] == ["FAILED"]


@pytest.mark.parametrize(
    ("probe", "limits", "message"),
    [
        pytest.param("slower", Limits(seconds=8), "took longer than its 8 s", marks=pytest.mark.thorough),
        ("hangs", Limits(hang=4), "hung: no step for 4 s"),
        pytest.param("eats", Limits(gib=1), "needs more than its 1 GiB of memory", marks=pytest.mark.thorough),
    ],
)
@pytest.mark.thorough
def test_cell_beyond_its_limits_fails_and_the_sweep_continues(
    tmp_path: Path, flag: Path, probe: str, limits: Limits, message: str
) -> None:
    start = time.monotonic()
    code, text = swept(tmp_path, *own(probe, "fine"), "schedule=every", "schedule.n=1", limits=limits)
    assert code == 1
    assert message in text
    assert time.monotonic() - start < 30
    assert sorted(s for many in statuses(tmp_path).values() for s in many) == ["FAILED", "FINISHED"]


@pytest.mark.thorough
def test_results_do_not_depend_on_the_number_of_jobs(tmp_path: Path) -> None:
    for jobs in (1, 2):
        (tmp_path / str(jobs)).mkdir()
        code, _ = swept(tmp_path / str(jobs), TWO, "activation=relu,tanh", jobs=jobs)
        assert code == 0
    assert_same(content(tmp_path / "1"), content(tmp_path / "2"))
    run = opened(tmp_path / "2").search("tags.kind = 'run'")[0]
    tracking = TrackingConfig(uri(tmp_path / "2"), "gradvitals")
    replayed = reproduce(run.info.run_id, [], tracking, ReplayOptions(), quiet=True)
    assert replayed.exit_code == 0
    assert any("identical" in line for line in replayed.lines())


@pytest.mark.thorough
def test_killed_process_costs_only_its_own_cell(tmp_path: Path, flag: Path) -> None:
    code, text = swept(tmp_path, *own("fine", "dies_once", "dies"), jobs=2)
    assert code == 1
    assert "its process ended 2 times (signal 9)" in text
    assert sorted(s for many in statuses(tmp_path).values() for s in many) == ["FAILED", "FINISHED", "FINISHED"]


@pytest.mark.thorough
def test_process_that_does_not_respond_is_killed(tmp_path: Path, flag: Path) -> None:
    code, text = swept(tmp_path, *own("hangs_deaf", "fine"), jobs=2, limits=Limits(hang=8, slack=1))
    assert code == 1
    assert "hung: no step for 8 s" in text
    assert sorted(s for many in statuses(tmp_path).values() for s in many) == ["FAILED", "FINISHED"]


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    given = {a.partition("=")[0] for a in arguments}
    small = [o for o in SMALL if o.partition("=")[0] not in given]
    argv = [sys.executable, "-m", "pipeline", "sweep", *arguments, *small, NO_FIGURES, f"tracking.uri={uri(folder)}"]
    empty(uri(folder))
    return subprocess.Popen(
        argv,
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's child would ignore it
    )


def wait_for_runs(folder: Path, count: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(ConfigError):
            if (folder / "store.db").exists() and len(opened(folder).search("attributes.status = 'RUNNING'")) >= count:
                return
        time.sleep(0.1)
    raise AssertionError("no run started")


def thorough(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.thorough)


def processes_of(session: int) -> list[str]:
    """Command lines of the living processes of a session."""
    done = subprocess.run(["ps", "-o", "stat=,args=", "-s", str(session)], capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if not line.startswith("Z")]


@pytest.mark.parametrize(
    ("number", "jobs"),
    [
        (signal.SIGTERM, "1"),
        thorough(signal.SIGHUP, "1"),
        thorough(signal.SIGTERM, "2"),
        thorough(signal.SIGHUP, "2"),
        thorough(signal.SIGINT, "2"),
    ],
)
def test_interrupted_sweep_ends_within_5_s_and_leaves_no_process(
    tmp_path: Path, flag: Path, number: int, jobs: str
) -> None:
    driver = command(tmp_path, "--jobs", jobs, *own("slow"), TWO, "schedule=every", "schedule.n=1", "epochs=100")
    wait_for_runs(tmp_path, int(jobs))
    time.sleep(0.5)
    start = time.monotonic()
    if number != signal.SIGTERM:
        os.killpg(driver.pid, number)  # as a terminal does
    else:
        driver.send_signal(number)
    printed, _ = driver.communicate(timeout=30)
    assert time.monotonic() - start < 5
    assert driver.returncode == 128 + number
    assert "0 of 2 runs done; the same command resumes" in printed
    assert "Traceback" not in printed
    assert {s for many in statuses(tmp_path).values() for s in many} == {"KILLED"}
    until = time.monotonic() + 2
    while processes_of(driver.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert processes_of(driver.pid) == []


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("fraction", [0.2, 0.4, 0.6, 0.8])
def test_interruption_before_the_processes_run_ends_within_5_s(tmp_path: Path, number: int, fraction: float) -> None:
    """The server that forks processes imports for seconds, and gets the signals of the terminal, too."""
    arguments = ("--jobs", "2", TWO, "epochs=1000")
    driver = command(tmp_path, *arguments)
    begun = time.monotonic()
    wait_for_runs(tmp_path, 1)
    seconds = time.monotonic() - begun
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    driver = command(tmp_path / "again", *arguments)
    time.sleep(fraction * seconds)
    start = time.monotonic()
    os.killpg(driver.pid, number)
    printed, _ = driver.communicate(timeout=30)  # ends when the last process has closed the output
    assert time.monotonic() - start < 5
    assert driver.returncode == 128 + number
    assert "Traceback" not in printed


@pytest.mark.thorough
def test_processes_end_with_a_killed_driver_and_the_next_command_resumes(tmp_path: Path, flag: Path) -> None:
    arguments = ("--jobs", "2", *own("slow"), TWO, "schedule=every", "schedule.n=1", "epochs=8")
    driver = command(tmp_path, *arguments)
    wait_for_runs(tmp_path, 2)
    driver.kill()
    driver.communicate()
    until = time.monotonic() + 10
    while processes_of(driver.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert processes_of(driver.pid) == []
    again = command(tmp_path, *arguments)
    printed, _ = again.communicate(timeout=120)
    assert again.returncode == 0, printed
    assert "resumed" in printed
    assert statuses(tmp_path) == {"d2": ["FINISHED"], "d3": ["FINISHED"]}


@pytest.mark.thorough
def test_two_drivers_of_one_sweep_run_each_cell_once(tmp_path: Path) -> None:
    drivers = [command(tmp_path, "architecture.depth=2,3,4,5,6,7") for _ in range(2)]
    printed = [d.communicate(timeout=120)[0] for d in drivers]
    assert [d.returncode for d in drivers] == [0, 0], printed
    assert statuses(tmp_path) == {f"d{n}": ["FINISHED"] for n in range(2, 8)}
    assert len(opened(tmp_path).search("tags.kind = 'sweep'")) == 1


def test_run_under_a_lock_of_its_own_is_not_resumed(finished: Path) -> None:
    store = opened(finished)
    run = store.search("tags.kind = 'run'")[0]
    store.client.update_run(run.info.run_id, "RUNNING")
    store.tag(run.info.run_id, {LEASE_TAG: "its-own"})
    job = replace(prepared("d2"), cell_id=LoggedRun.from_store(store, run).provenance["cell"])
    with RunLocks(store.sidecar_dir("locks")).acquire("its-own"), bars(1, quiet=True) as shown:
        assert list(run_stack([job], store, RunOptions(command="x"), shown)) == [(job, None)]
    assert store.find(run.info.run_id).data.tags[LEASE_TAG] == "its-own"


def test_interrupted_rerun_is_resumed_and_counts_once(finished: Path) -> None:
    store = opened(finished)
    old = next(r for r in store.search("tags.kind = 'run'") if r.info.run_name == "d2")
    tags = {k: v for k, v in old.data.tags.items() if k in ("sweep", "kind") or k.startswith("mlflow.cell")}
    new = store.start("d2", tags, not_before=old.info.start_time + 1)
    new.end("KILLED")
    code, text = swept(finished, TWO)
    assert code == 0
    assert "1 resumed" in text
    inside = store.search(in_sweep(old.data.tags["sweep"]))
    assert {r.info.run_id for r in inside if r.info.run_name == "d2"} == {new.run_id}
    assert {r.info.status for r in inside} == {"FINISHED"}


def test_sweep_id_does_not_depend_on_the_order_of_cells(tmp_path: Path) -> None:
    few = ("probes=none", "epochs=0")
    assert swept(tmp_path, TWO, "activation=relu,tanh", *few)[0] == 0
    code, text = swept(tmp_path, "activation=tanh,relu", TWO, *few)
    assert code == 0
    assert "4 skipped, finished before" in text
    (summary,) = opened(tmp_path).search("tags.kind = 'sweep'")
    assert summary.info.status == "FINISHED"


def test_run_of_another_machine_is_not_resumed(finished: Path) -> None:
    store = opened(finished)
    run = store.search("tags.kind = 'run'")[0]
    store.client.update_run(run.info.run_id, "RUNNING")
    store.tag(run.info.run_id, {HOST_TAG: "another machine"})
    assert close_stale_runs(store) == []
    job = replace(prepared("d2"), cell_id=LoggedRun.from_store(store, run).provenance["cell"])
    with bars(1, quiet=True) as shown:
        assert list(run_stack([job], store, RunOptions(command="x"), shown)) == [(job, None)]
    store.tag(run.info.run_id, {HOST_TAG: run.data.tags[HOST_TAG]})
    assert [r.info.run_id for r in close_stale_runs(store)] == [run.info.run_id]
    assert store.find(run.info.run_id).info.status == "KILLED"


def test_locks_next_to_a_file_do_not_depend_on_the_host_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers get a new name each time; what the last one left RUNNING is closed all the same."""
    store = opened(tmp_path)
    monkeypatch.setattr("platform.node", lambda: "old")
    dead = store.start("dead", RunLocks.of(store).tags("left"))
    at_work = store.start("at work", RunLocks.of(store).tags("held"))
    monkeypatch.setattr("platform.node", lambda: "new")
    with RunLocks.of(store).acquire("held"):
        assert [r.info.run_id for r in close_stale_runs(store)] == [dead.run_id]
    assert store.find(at_work.run_id).info.status == "RUNNING"


def test_store_reached_by_another_path_has_the_same_locks_or_none(tmp_path: Path) -> None:
    """A link leads to the same folder; with another folder, no living run is closed."""
    store = opened(tmp_path)
    at_work = store.start("at work", RunLocks.of(store).tags("held"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "linked.db").symlink_to(tmp_path / "store.db")
    (tmp_path / "other" / "hard.db").hardlink_to(tmp_path / "store.db")
    with RunLocks.of(store).acquire("held"):
        for name in ("linked", "hard"):
            uri = f"sqlite:///{tmp_path}/other/{name}.db"
            assert close_stale_runs(Store.open(TrackingConfig(uri, "gradvitals"))) == []
    assert [r.info.run_id for r in close_stale_runs(store)] == [at_work.run_id]


def test_lock_is_released_when_its_process_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from pipeline.tracking.locks import RunLocks\n"
        "with RunLocks(Path(sys.argv[1])).acquire('x') as free:\n    print(free, flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"True\n"
    locks = RunLocks(tmp_path)
    assert locks.is_held("x")
    assert not locks.is_held("y")
    holder.kill()
    holder.communicate()
    assert not locks.is_held("x")


@pytest.mark.parametrize("arguments", [["--jobs", "0"], ["--jobs", "x"], ["--time-limit", "0"], ["--memory-limit=-1"]])
def test_invalid_options_are_refused_in_one_line(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from pipeline.cli import main

    assert main(["sweep", *arguments, *SMALL, f"tracking.uri={uri(tmp_path)}"]) == 2
    message = capfd.readouterr().err.strip()
    assert message.startswith("error: ")
    assert "\n" not in message
    assert not (tmp_path / "store.db").exists()


TWO_BY_TWO = [("relu", "0.1"), ("relu", "0.3"), ("tanh", "0.1"), ("tanh", "0.3")]


@pytest.mark.parametrize(
    ("words", "cells"),
    [
        (("activation=relu,tanh", "optimizer.learning_rate=0.1,0.3"), TWO_BY_TWO),
        thorough(("activation=relu,tanh",), [("relu", "0.1"), ("tanh", "0.1")]),
        thorough(("optimizer.learning_rate=0.1,0.3", "activation=elu"), [("elu", "0.1"), ("elu", "0.3")]),
    ],
)
def test_words_sweep_exactly_their_values_over_the_defaults(
    words: tuple[str, ...], cells: list[tuple[str, str]], tmp_path: Path
) -> None:
    done = invoke("sweep", *words, "data=iris", "epochs=0", f"tracking.uri={uri(tmp_path)}")
    assert done.code == 0, done.err
    found = [run.data.params for run in runs(tmp_path, "tags.kind = 'run'")]
    assert sorted((p["activation"], p["optimizer.learning_rate"]) for p in found) == cells
    assert {p["architecture"] for p in found} == {"mlp"}, "the default, not that of the experiment depth"
