"""Faults of real stores in real processes: every stored point is kept once, one line reports the reason, and the next
command continues.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from support.configs import require
from support.servers import CuttingProxy, Postgres, Server, locked, postgres_binaries, small_disk
from support.stores import empty

from pipeline.cli import main
from pipeline.errors import DeletedError, StoreError
from pipeline.reproducibility.replay import ReplayOptions, reproduce
from pipeline.tracking.retry import VARIABLE
from pipeline.tracking.run_logger import Point, RunLogger
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.tracking.uri import engine_uri

pytestmark = pytest.mark.xdist_group("store_faults")

PROJECT = Path(__file__).resolve().parents[3]
KEYS = ("a", "b/c")
SMALL = ["epochs=1", "data.subset=100", "probes=none"]


def value(key: str, step: int) -> float:
    """Return a value that a store could mangle: neither short nor round."""
    return (step + 1) / 3 * (1e-300 if key == "a" else 1e17)


def write(log: RunLogger, steps: range, flush: bool = True) -> None:
    for step in steps:
        for key in KEYS:
            assert log.metric(key, value(key, step), step)
        if flush:
            log.flush()


def check(store: Store, run_id: str, steps: range) -> None:
    """Assert that the store has every point once and unchanged."""
    for key in KEYS:
        points = sorted((m.step, m.value) for m in store.client.get_metric_history(run_id, key))
        assert points == [(step, value(key, step)) for step in steps]


def sqlite(folder: Path) -> Store:
    return Store.open(TrackingConfig(empty(f"sqlite:///{folder / 'mlflow.db'}"), "gradvitals"))


def test_points_that_are_sent_twice_are_stored_once(tmp_path: Path) -> None:
    """As after a lost reply. A key's newest value is the one of its highest step, then of its latest time."""
    store = sqlite(tmp_path)
    run_id = store.start("twice", {}).run_id
    rng = np.random.default_rng(0)
    points = [
        Point(f"k/{rng.integers(9)}", float(rng.integers(3)) * 1e-300, int(rng.integers(4)), int(rng.integers(4)))
        for _ in range(300)
    ]
    for _ in range(2):
        store.client.log(run_id, points, {}, {})
    newest = store.find(run_id).data.metrics
    assert len(newest) == 9
    for key, value in newest.items():
        sent = {(p.step, p.timestamp, p.value) for p in points if p.key == key}
        history = [(m.step, m.timestamp, m.value) for m in store.client.get_metric_history(run_id, key)]
        assert sorted(history) == sorted(sent)
        assert value == max(sent)[2]


def test_points_that_mlflow_refuses_raise(tmp_path: Path) -> None:
    store = sqlite(tmp_path)
    run_id = store.start("deleted", {}).run_id
    with pytest.raises(MlflowException, match=r"may only|must be"):
        store.client.log(run_id, [Point("no: name?", 1.0, 1, 1)], {}, {})
    store.end(run_id, "FINISHED")
    store.client.bare.delete_run(run_id)
    with pytest.raises(DeletedError, match=f"run {run_id} was deleted"):
        store.client.log(run_id, [Point("k", 1.0, 1, 1)], {}, {})


@dataclass
class Backend:
    """A tracking server and its database."""

    server: Server
    postgres: Postgres | None

    def store(self, uri: str | None = None) -> Store:
        return Store.open(TrackingConfig(uri or self.server.uri, "gradvitals"))


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.thorough)])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("server")
    postgres = None
    if request.param == "postgres":
        require(postgres_binaries() is not None, "PostgreSQL is not installed")
        postgres = Postgres()
    server = Server(postgres.uri if postgres else f"sqlite:///{folder / 'mlflow.db'}", folder)
    try:
        if postgres:
            postgres.create()
            postgres.start()
        server.start()
        yield Backend(server, postgres)
    finally:
        server.kill()
        if postgres:
            postgres.remove()


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def check_reports(text: str, reason: str) -> None:
    """Assert that two lines report the outage: its reason, and its end."""
    first, last = lines(text)
    assert first.startswith("gradvitals: the store does not answer (")
    assert reason in first
    assert "trying again for up to" in first
    assert last.startswith("gradvitals: the store answers again, after ")


def outage(seconds: float, stop: Callable[[], None], restart: Callable[[], None]) -> threading.Thread:
    """Stop a service, and restart it later in a thread."""
    stop()

    def later() -> None:
        time.sleep(seconds)
        restart()

    thread = threading.Thread(target=later)
    thread.start()
    return thread


@pytest.mark.thorough
def test_locked_store_is_retried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = sqlite(tmp_path)
    with locked(tmp_path / "mlflow.db", 4):
        start = time.monotonic()
        log = store.start("waits", {"kind": "run"})
        assert time.monotonic() - start > 3
    write(log, range(3))
    with locked(tmp_path / "mlflow.db", 0.5):  # too short to report
        write(log, range(3, 5))
    assert log.end("FINISHED")
    check(store, log.run_id, range(5))
    assert [r.info.status for r in store.search()] == ["FINISHED"]
    check_reports(capsys.readouterr().err, "the database is locked")


@pytest.mark.thorough
def test_buffer_is_kept_when_retries_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "2.5")
    store = sqlite(tmp_path)
    log = store.start("gives up", {})
    write(log, range(2))
    with locked(tmp_path / "mlflow.db", 60, wait=False):
        write(log, range(2, 4), flush=False)
        with pytest.raises(StoreError, match=r"did not answer for \d s \(the database is locked\)"):
            log.flush()
        start = time.monotonic()
        assert not log.end("FINISHED")  # later calls get one attempt each
        assert time.monotonic() - start < 4
    messages = lines(capsys.readouterr().err)
    assert len(messages) == 3
    assert "4 values of run" in messages[1]
    assert "could not be closed" in messages[2]
    assert store.find(log.run_id).info.status == "RUNNING"
    assert log.end("FINISHED")
    check(store, log.run_id, range(4))


@pytest.mark.thorough
@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_interrupted_run_on_a_locked_store_ends_within_seconds(tmp_path: Path, how: signal.Signals) -> None:
    """The run stays RUNNING; the next command closes it."""
    store = sqlite(tmp_path)
    command = [sys.executable, "-m", "pipeline", "run", "epochs=100000", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until_running(store)
        with locked(tmp_path / "mlflow.db", 30, wait=False):
            time.sleep(1)
            start = time.monotonic()
            process.send_signal(how)
            _, messages = process.communicate(timeout=30)
            assert time.monotonic() - start < 5
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[how]
    assert "could not be closed as KILLED" in messages
    assert "Traceback" not in messages


def until_running(store: Store) -> None:
    deadline = time.monotonic() + 60
    while not any(r.data.metrics for r in store.search()):
        assert time.monotonic() < deadline
        time.sleep(0.3)


@pytest.mark.thorough
def test_read_only_store_is_refused_in_one_line_and_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", 40) as mount:
        uri = f"sqlite:///{tmp_path}/disk/mlflow.db"
        assert main(["run", *SMALL, f"tracking.uri={uri}"]) == 0
        (run,) = sqlite(tmp_path / "disk").search()
        close_database(uri)
        mount("ro")
        capsys.readouterr()
        assert main(["run", *SMALL, f"tracking.uri={uri}"]) == 2
        (message,) = lines(capsys.readouterr().err)
        assert message == f"error: tracking.uri={uri}: the store is read-only"
        assert sqlite(tmp_path / "disk").find(run.info.run_id[:8]).info.status == "FINISHED"  # reading works
        assert main(["run", *SMALL, f"tracking.uri=sqlite:///{tmp_path}/disk/other.db"]) == 2
        (message,) = lines(capsys.readouterr().err)
        assert "other.db: cannot be opened (" in message
        close_database(uri)
        mount("rw")
        assert main(["run", *SMALL, f"tracking.uri={uri}"]) == 0
        assert [r.info.status for r in sqlite(tmp_path / "disk").search()] == ["FINISHED"] * 2


def close_database(uri: str) -> None:
    """Close this process's files of a database; a file system with files open for writing cannot become read-only."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(engine_uri(uri), "./mlruns").engine.dispose()


def test_full_disk_keeps_what_was_stored_and_the_run_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", 3) as mount:
        store = sqlite(tmp_path / "disk")
        log = store.start("fills it", {})
        fill(tmp_path / "disk", leave=100_000)
        stored_steps = write_until_full(log)
        assert stored_steps >= 100
        assert not log.end("FINISHED") or store.find(log.run_id).info.status == "FAILED"
        messages = lines(capsys.readouterr().err)
        assert "could not be stored" in messages[0]
        assert all("the disk is full" in line for line in messages)
        check(store, log.run_id, range(stored_steps))
        mount("size=40m")
        resumed = store.resume(log.run_id)
        write(resumed, range(stored_steps + 200), flush=False)
        assert resumed.end("FINISHED")
        check(store, log.run_id, range(stored_steps + 200))


def write_until_full(log: RunLogger) -> int:
    """Log until the disk is full; return the number of steps that were stored."""
    stored_steps = 0
    with suppress(StoreError):
        while stored_steps < 100_000:
            write(log, range(stored_steps, stored_steps + 100), flush=False)
            log.flush()
            stored_steps += 100
    with pytest.raises(StoreError, match="the disk is full"):
        log.flush()
    return stored_steps


def fill(folder: Path, leave: int) -> None:
    status = os.statvfs(folder)
    (folder / "filler").write_bytes(b"x" * max(0, status.f_bavail * status.f_frsize - leave))


def test_run_on_a_full_disk_fails_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", 3) as mount:
        sqlite(tmp_path / "disk")
        fill(tmp_path / "disk", leave=60_000)
        command = ["run", "epochs=1", f"tracking.uri=sqlite:///{tmp_path}/disk/mlflow.db"]
        assert main(command) in (1, 2)
        messages = capsys.readouterr()
        assert "the disk is full" in messages.out + messages.err
        assert "Traceback" not in messages.out + messages.err
        mount("size=40m")
        assert main(command) == 0
        assert sqlite(tmp_path / "disk").search()[-1].info.status == "FINISHED"


@pytest.mark.thorough
def test_killed_and_restarted_server_keeps_all_points(backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    store = backend.store()
    log = store.start("survives", {})
    write(log, range(3))
    back = outage(2.5, backend.server.kill, backend.server.start)
    try:
        write(log, range(3, 6))
        log.text("still here", "note.txt")
    finally:
        back.join()
    assert log.end("FINISHED")
    check(store, log.run_id, range(6))
    check_reports(capsys.readouterr().err, "refused")


@pytest.mark.thorough
def test_restarted_database_of_a_server_keeps_all_points(backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    store = backend.store()
    log = store.start("survives", {})
    write(log, range(3))
    if backend.postgres is None:
        with locked(Path(backend.server.backend.removeprefix("sqlite:///")), 2):  # the server itself waits
            write(log, range(3, 6))
    else:
        back = outage(2.5, backend.postgres.kill, backend.postgres.start)
        try:
            write(log, range(3, 6))
        finally:
            back.join()
        check_reports(capsys.readouterr().err, "the server answers 5")
    assert log.end("FINISHED")
    check(store, log.run_id, range(6))


@pytest.mark.thorough
@pytest.mark.parametrize("with_length", [True, False])
def test_cut_replies_neither_lose_nor_double_anything(backend: Backend, with_length: bool) -> None:
    proxy = CuttingProxy(backend.server.port)
    proxy.with_length = with_length
    try:
        store = backend.store(proxy.uri)
        before = len(store.search())
        proxy.cuts = {"runs/create": 1, "runs/log-batch": 3, "runs/update": 1, "runs/search": 1}
        log = store.start("cut", {"kind": "run"})
        log.params({"p": 1})
        log.tags({"t": "x"})
        write(log, range(4))
        assert log.end("FINISHED")
        assert set(proxy.cuts.values()) == {0}
        assert len(store.search()) == before + 1
        check(store, log.run_id, range(4))
        run = store.find(log.run_id)
        assert (run.info.status, run.data.params, run.data.tags["t"]) == ("FINISHED", {"p": "1"}, "x")
    finally:
        proxy.close()


@pytest.mark.parametrize("with_length", [True, False])
@pytest.mark.thorough
def test_cut_reply_to_a_read_file_does_not_train_a_finished_cell_again(
    backend: Backend, with_length: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a length, the cut file is a shorter file for the client."""
    proxy = CuttingProxy(backend.server.port)
    proxy.with_length = with_length
    sweep = ["sweep", "--jobs", "1", *SMALL, f"seed=7,{8 + with_length}", "tracking.figures=false"]
    try:
        sweep.append(f"tracking.uri={proxy.uri}")
        assert main(sweep) == 0
        proxy.cuts = {"records.parquet": 1, "artifacts?path=": 1}  # a file, and a list of files
        capsys.readouterr()
        assert main(sweep) == 0
        assert set(proxy.cuts.values()) == {0}
        assert "2 runs: 2 skipped, finished before" in capsys.readouterr().out
        monkeypatch.setenv(VARIABLE, "0.5")
        proxy.cuts = {"records.parquet": 1000}
        assert main(sweep) == 2
        (message,) = [line for line in lines(capsys.readouterr().err) if line.startswith("error: ")]
        assert "did not answer for" in message
        assert "a reply was cut off" in message
        assert {r.info.status for r in backend.store().search("tags.kind = 'run'")} == {"FINISHED"}
    finally:
        proxy.close()


@pytest.mark.thorough
def test_resumed_run_sends_only_what_is_not_stored(backend: Backend) -> None:
    """A run resumes from its start or from a checkpoint."""
    store = backend.store()
    log = store.start("first", {})
    log.params({"p": 1})
    write(log, range(5))
    write(log, range(5, 9), flush=False)  # lost with the process
    assert store.find(log.run_id).info.status == "RUNNING"
    store.end(log.run_id, "KILLED", {"why": "its process is gone"})
    for steps in (range(4), range(2, 12)):
        resumed = store.resume(log.run_id)
        assert store.find(log.run_id).info.status == "RUNNING"
        resumed.params({"p": 1, "q": 2})
        write(resumed, steps, flush=False)
        assert resumed.end("FINISHED")
    check(store, log.run_id, range(12))
    assert store.find(log.run_id).data.params == {"p": "1", "q": "2"}
    assert store.find(log.run_id).info.status == "FINISHED"


def test_runs_are_found_by_the_key_of_a_tag(backend: Backend) -> None:
    store = backend.store()
    logs = [store.start(f"cell {n}", {"mlflow.cell.abc": "1", "n": str(n)}) for n in range(2)]
    for log in logs:
        log.end("FINISHED")
    matching = store.runs_with("mlflow.cell.abc")
    assert [r.info.run_id for r in matching] == [log.run_id for log in logs]
    assert {k: len(store.runs_with(k)) for k in ("mlflow.cell.abc", "mlflow.cell.xyz")} == {
        "mlflow.cell.abc": 2,
        "mlflow.cell.xyz": 0,
    }
    store.untag(logs[0].run_id, "mlflow.cell.abc")
    store.untag(logs[0].run_id, "mlflow.cell.abc")
    assert [r.info.run_id for r in store.runs_with("mlflow.cell.abc")] == [logs[1].run_id]


@pytest.mark.slow
def test_run_survives_a_lock_of_30_seconds(tmp_path: Path) -> None:
    alone, hurt = sqlite(tmp_path / "alone"), sqlite(tmp_path / "hurt")
    whole_run(alone.uri, lambda: None)
    database = tmp_path / "hurt" / "mlflow.db"

    def hold() -> None:
        until_running(hurt)
        with locked(database, 30):
            pass

    messages = whole_run(hurt.uri, hold)
    check_reports(messages, "the database is locked")
    check_same(alone, hurt)
    with sqlite3.connect(database) as opened:
        assert opened.execute("pragma integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
def test_run_survives_a_server_that_is_down_for_20_seconds(backend: Backend, tmp_path: Path) -> None:
    alone = sqlite(tmp_path)
    whole_run(alone.uri, lambda: None)
    hurt = Store.open(TrackingConfig(backend.server.uri, "whole"))

    def restart() -> None:
        until_running(hurt)
        backend.server.kill()
        time.sleep(20)
        backend.server.start()

    messages = whole_run(hurt.uri, restart, "tracking.experiment=whole")
    check_reports(messages, "connection refused")
    check_same(alone, hurt)
    run_id = hurt.search()[0].info.run_id
    assert reproduce(run_id, [], TrackingConfig(hurt.uri, "whole"), ReplayOptions(), quiet=True).exit_code == 0


def whole_run(uri: str, meanwhile: Callable[[], None], *more: str) -> str:
    """Execute a run of about 10 s in its own process; return its messages."""
    overrides = ["epochs=400", "schedule=every", "schedule.n=5", f"tracking.uri={uri}", *more]
    command = [sys.executable, "-m", "pipeline", "run", *overrides]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            meanwhile()
            _, messages = process.communicate(timeout=200)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
    assert process.returncode == 0, messages
    return messages


def check_same(a: Store, b: Store) -> None:
    """Assert that each store has one run, with the same points of every metric except timings."""
    (one,), (other,) = a.search(), b.search()
    assert (one.info.status, other.info.status) == ("FINISHED", "FINISHED")
    keys = {k for k in one.data.metrics if not k.startswith("overhead/")}
    assert keys <= set(other.data.metrics)
    for key in keys:
        histories = [
            sorted((m.step, m.value) for m in s.client.get_metric_history(r.info.run_id, key))
            for s, r in ((a, one), (b, other))
        ]
        assert histories[0] == histories[1]
