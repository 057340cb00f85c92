"""Retries and their messages, addresses without secrets, timestamps, and the creation and search of runs."""

from __future__ import annotations

import dataclasses
import errno
import json
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException, get_error_code
from sqlalchemy.exc import OperationalError
from support.stores import empty

from pipeline.cli import main
from pipeline.errors import ConfigError, StoreAwayError, StoreError
from pipeline.sweeps.plan import source_tags
from pipeline.sweeps.summary import link_lines
from pipeline.tracking.retry import VARIABLE, RetryPolicy, seconds
from pipeline.tracking.run_logger import MonotonicTimestamps
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.tracking.store_failure import StoreFailure
from pipeline.tracking.uri import redact, redacted_config, sidecar_dir, without_user

pytestmark = pytest.mark.xdist_group("retry")


def database_error(text: str) -> OperationalError:
    """Return an error whose text also holds the statement and its values, which may be any text."""
    origin = sqlite3.OperationalError(text)
    return OperationalError("INSERT INTO tags VALUES (?)", ("disk is full, permission denied",), origin)


def wrapped(cause: Exception) -> MlflowException:
    """Return an error wrapped as MLflow wraps it."""
    outer = MlflowException(str(cause))
    outer.__cause__ = cause
    return outer


def rest(code: str, message: str) -> RestException:
    return RestException({"error_code": code, "message": message})


@pytest.mark.parametrize(
    ("failure", "is_transient", "reason"),
    [
        (wrapped(database_error("database is locked")), True, "the database is locked"),
        (database_error("database is locked"), True, "the database is locked"),
        (database_error("attempt to write a readonly database"), False, "the store is read-only"),
        (database_error("database or disk is full"), False, "the disk is full"),
        (wrapped(database_error("no such table: runs")), False, "no such table"),
        (OSError(errno.ENOSPC, "No space left on device"), False, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), False, "permission denied"),
        (OSError(errno.EROFS, "Read-only file system"), False, "the store is read-only"),
        (ConnectionResetError("Connection reset by peer"), True, "the connection was cut"),
        (requests.exceptions.ChunkedEncodingError("IncompleteRead(1 bytes read, 1 more expected)"), True, "cut off"),
        (MlflowException("API request to http://h failed with exception Connection refused"), True, "refused"),
        (MlflowException("API request to endpoint /x failed with error code 502 != 200. Response body: ''"), True, ""),
        (
            MlflowException("API request to endpoint /x failed with error code 404 != 200", get_error_code(404)),
            False,
            "",
        ),
        (MlflowException("request to endpoint was successful but not in a valid JSON format"), True, "cut off"),
        (rest("TEMPORARILY_UNAVAILABLE", "(sqlite3.OperationalError) database is locked"), True, "locked"),
        (rest("INTERNAL_ERROR", "something"), True, "something"),
        (rest("INTERNAL_ERROR", "database or disk is full"), False, "the disk is full"),
        (rest("RESOURCE_DOES_NOT_EXIST", "Run with id=x not found"), False, "not found"),
        (rest("INVALID_PARAMETER_VALUE", "Changing param values is not allowed"), False, "not allowed"),
        (MlflowException("an error of ours"), False, "an error of ours"),
        (KeyError("x"), False, "x"),
        (
            OperationalError("SELECT 1", (), Exception('server at "h", port 5 failed: Connection refused')),
            True,
            "connection refused",
        ),
        (
            OperationalError("SELECT 1", (), Exception("FATAL: password authentication failed for user x")),
            False,
            "password",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_store_failures_are_classified(failure: Exception, is_transient: bool, reason: str) -> None:
    assert StoreFailure(failure).is_transient is is_transient
    assert reason in StoreFailure(failure).reason


def test_exception_that_is_being_handled_is_not_the_stores_failure() -> None:
    """A run failed with a ConnectionError. A refusal of the store while that is logged is not transient."""
    calls = []

    def refuse() -> None:
        calls.append(1)
        raise MlflowException("bad tag")

    try:
        raise ConnectionResetError("the run's own")
    except ConnectionResetError:
        with pytest.raises(MlflowException):
            RetryPolicy(10, "x").call(refuse)
    assert len(calls) == 1


def flaky(times: int) -> tuple[Callable[[], int], list[int]]:
    calls: list[int] = []

    def function() -> int:
        calls.append(1)
        if len(calls) <= times:
            raise ConnectionRefusedError("Connection refused")
        return 7

    return function, calls


def test_short_trouble_is_not_reported_and_long_trouble_once(capsys: pytest.CaptureFixture[str]) -> None:
    function, _ = flaky(2)
    assert RetryPolicy(60, "x").call(function) == 7
    assert capsys.readouterr().err == ""
    function, calls = flaky(5)
    assert RetryPolicy(60, "x").call(function) == 7
    assert len(calls) == 6
    first, last = capsys.readouterr().err.splitlines()
    assert first == "gradvitals: the store does not answer (connection refused); trying again for up to 60 s"
    assert last.startswith("gradvitals: the store answers again, after ")


def test_retries_end_and_later_calls_get_one_attempt() -> None:
    function, _ = flaky(10**9)
    retry = RetryPolicy(1, "tracking.uri=x")
    with pytest.raises(StoreError, match=r"tracking.uri=x: did not answer for \d s \(connection refused\)"):
        retry.call(function)
    start = time.monotonic()
    for _ in range(20):
        with pytest.raises(StoreError):
            retry.call(function)
    assert time.monotonic() - start < 0.5
    assert retry.call(lambda: 3) == 3


def test_deadline_covers_all_calls_together() -> None:
    function, _ = flaky(10**9)
    retry = RetryPolicy(60, "x")
    retry.set_deadline(0.5)
    start = time.monotonic()
    for _ in range(3):
        with pytest.raises(StoreError):
            retry.call(function)
    assert time.monotonic() - start < 1


def test_ctrl_c_is_never_retried() -> None:
    """Not even where it interrupts the handling of a transient failure."""
    calls = []

    def interrupted() -> None:
        calls.append(1)
        try:
            raise ConnectionResetError("Connection reset by peer")
        except ConnectionResetError:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        RetryPolicy(60, "x").call(interrupted)
    assert len(calls) == 1


def test_ctrl_c_is_heard_within_a_second_while_a_retry_waits() -> None:
    function, _ = flaky(10**9)
    start = time.monotonic()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(1.7, signal.pthread_kill, [threading.get_ident(), signal.SIGINT])
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            RetryPolicy(60, "x").call(function)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert time.monotonic() - start < 2.7
    timer.join()


def test_retry_seconds_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seconds() == 120
    monkeypatch.setenv(VARIABLE, "7.5")
    assert seconds() == 7.5
    for wrong in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(ConfigError, match=f"{VARIABLE}={wrong}: must be a number of seconds"):
            seconds()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:pw@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("a=1 tracking.uri=http://u:p:w@h/x tracking.uri=b", "a=1 tracking.uri=http://u:***@h/x tracking.uri=b"),
        ("http://u:p@w@h", "http://u:***@h"),
        ("postgresql://host/db?user=me&password=pw&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("http://token@host", "http://token@host"),
        ("sqlite:////tmp/a:b@c.db", "sqlite:////tmp/a:b@c.db"),
        ("lr=0.1 http://127.0.0.1:5000", "lr=0.1 http://127.0.0.1:5000"),
    ],
)
def test_redact_replaces_passwords(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


def test_links_do_not_contain_the_user() -> None:
    assert without_user("https://me:pw@host:1/x/") == "https://host:1/x"
    store = Store(redact("http://me:secret@host:1"), "e", "0", None, "http://me:secret@host:1")  # type: ignore[arg-type]
    lines = link_lines(store, "/#/x", "page")
    assert "http://host:1/#/x" in lines
    assert "secret" not in "".join(lines) + repr(store)


def test_logged_config_has_no_password() -> None:
    node: dict[str, Any] = {"seed": 1, "tracking": {"uri": "http://me:secret@h", "experiment": "e"}}
    assert "secret" not in json.dumps(redacted_config(node))
    assert redacted_config(node)["tracking"] == {"uri": "http://me:***@h", "experiment": "e"}
    assert node["tracking"]["uri"] == "http://me:secret@h"
    assert "secret" not in json.dumps(source_tags(["seed=1", "tracking.uri=http://me:secret@h"]))


@pytest.mark.parametrize("uri", ["http://me:secret@127.0.0.1:1", "ftp://me:secret@h", "http://me:secret@no host"])
def test_error_messages_have_no_password(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "epochs=0", f"tracking.uri='{uri}'"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: tracking.uri=")
    assert "me:***@" in message
    assert "secret" not in message


def test_addresses_of_files_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))

    def resolved(uri: str) -> str:
        return TrackingConfig(uri, "x").resolved_uri()

    for uri in ("sqlite:///a/b.db", "sqlite://a/b.db", "sqlite+pysqlite:///a/b.db", f"sqlite:///{tmp_path}/a/b.db"):
        assert resolved(uri) == f"sqlite:///{tmp_path}/a/b.db"
    assert resolved("sqlite:///~/b.db") == f"sqlite:///{tmp_path}/me/b.db"
    for uri in ("sqlite:///:memory:", "sqlite:///a.db?timeout=1", "sqlite:///~nobody-here/a.db", "sqlite://"):
        with pytest.raises(ConfigError, match=r"tracking\.uri=sqlite:"):
            resolved(uri)


def test_sidecar_dir_is_next_to_the_database_or_one_for_each_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tracking.uri.store_folder", lambda: tmp_path / "own")
    assert sidecar_dir(f"sqlite:///{tmp_path}/x/a.db", "locks") == tmp_path / "x" / "a-locks"
    mine, yours = sidecar_dir("http://me:pw@h:1", "locks"), sidecar_dir("http://you:wp@h:1/", "locks")
    assert mine == yours
    assert mine.is_dir()
    assert mine.parent.parent == tmp_path / "own" / "servers"
    assert sidecar_dir("http://h:2", "locks") != mine
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"tracking\.uri="):
        sidecar_dir(f"sqlite:///{tmp_path}/file/a.db", "locks")


def test_timestamps_ascend_when_the_clock_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps back a day, ahead a day, and before 1970. Every point is stored once."""
    real, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    store = Store.open(TrackingConfig(empty(f"sqlite:///{tmp_path}/a.db"), "x"))
    log = store.start("jumps", {})
    for step, jump in enumerate((0.0, -86400.0, 86400.0, -real() - 1e6, 0.0)):
        offset[0] = jump
        log.metric("m", step, step)
        log.flush()
    offset[0] = -86400.0
    assert log.end("FINISHED")
    history = store.client.get_metric_history(log.run_id, "m")
    assert [m.step for m in history] == [0, 1, 2, 3, 4]
    stamps = [m.timestamp for m in history]
    assert stamps == sorted(stamps)
    assert abs(stamps[0] - real() * 1000) < 60_000
    info = store.find(log.run_id).info
    assert 0 <= info.end_time - info.start_time < 60_000
    resumed = store.resume(log.run_id)  # the clock is still a day late
    resumed.metric("m", 5, 5)
    resumed.end("FINISHED")
    assert [m.step for m in store.client.get_metric_history(log.run_id, "m")] == [0, 1, 2, 3, 4, 5]
    info = store.find(log.run_id).info
    assert info.end_time >= max(stamps) >= info.start_time
    store.end(log.run_id, "KILLED")
    assert store.find(log.run_id).info.end_time >= info.start_time


def test_timestamp_before_1970_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: -5.0)
    assert MonotonicTimestamps().start == 0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(TrackingConfig(empty(f"sqlite:///{tmp_path_factory.mktemp('s')}/a.db"), "x"))


def test_run_that_was_created_twice_is_one_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server creates a run late, after a retry. The run that is kept is the one that is logged."""
    create, created = store.client.bare.create_run, []

    def late(*arguments: Any, **keywords: Any) -> Any:
        created.append(create(*arguments, **keywords))
        if len(created) == 1:
            created.append(create(*arguments, **keywords))
            raise ConnectionResetError("Connection reset by peer")
        return created[-1]

    monkeypatch.setattr(store.client.bare, "create_run", late)
    log = store.start("twice", {"which": "this"})
    assert len(created) == 2
    assert [r.info.run_id for r in store.search("tags.which = 'this'")] == [log.run_id]


def test_run_is_found_by_the_start_of_its_id(store: Store) -> None:
    log = store.start("a", {})
    assert store.find(log.run_id[:8]).info.run_id == log.run_id
    for wrong in (log.run_id[:7], "0" * 8, "%" * 8, "________", "'; --abcdef", ""):
        with pytest.raises(ConfigError, match="no such run"):
            store.find(wrong)


def test_search_joins_pages(store: Store) -> None:
    ids = [store.start(f"page {n}", {"mlflow.page.x": "1"}).run_id for n in range(7)]
    paged = dataclasses.replace(store, page_size=3)
    assert sorted(r.info.run_id for r in paged.runs_with("mlflow.page.x")) == sorted(ids)
    assert len(paged.search("tags.`mlflow.page.x` = '1'", limit=5)) == 5
    assert paged.search("tags.`mlflow.page.x` = '2'") == []


def test_metric_has_one_value_a_step(store: Store) -> None:
    log = store.start("one", {})
    for step in (0, 0, 1, 1, 2):
        assert log.metric("m", step + 0.5, step)
    assert not log.metric("m", float("nan"), 3)
    log.flush()
    assert [(m.step, m.value) for m in store.client.get_metric_history(log.run_id, "m")] == [
        (0, 0.5),
        (1, 1.5),
        (2, 2.5),
    ]


def test_training_continues_while_the_store_is_away(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first attempt lasts two seconds, the next values do not wait, and the end sends every value once."""
    monkeypatch.setattr("pipeline.tracking.run_logger.QUEUE", 3)
    real, calls = store.client.bare.log_batch, []

    def away(*arguments: Any, **keywords: Any) -> None:
        calls.append(1)
        raise ConnectionRefusedError("Connection refused")

    log = store.start("away", {})
    monkeypatch.setattr(store.client.bare, "log_batch", away)
    start = time.monotonic()
    for step in range(100):
        assert log.metric("m", step, step)
    assert time.monotonic() - start < 4
    assert 2 <= len(calls) <= 6
    (message,) = capsys.readouterr().err.splitlines()
    assert message == (
        "gradvitals: the store does not answer (connection refused); "
        "training continues, trying again for up to 120 s after it"
    )
    monkeypatch.setattr(store.client.bare, "log_batch", real)
    assert log.end("FINISHED")
    assert [(m.step, m.value) for m in store.client.get_metric_history(log.run_id, "m")] == [
        (step, float(step)) for step in range(100)
    ]
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("gradvitals: the store answers again, after ")


def test_short_trouble_in_training_is_not_reported(capsys: pytest.CaptureFixture[str]) -> None:
    function, _ = flaky(3)
    assert RetryPolicy(60, "x").call(function, waits=False) == 7
    assert capsys.readouterr().err == ""


def test_permanent_trouble_in_training_is_raised() -> None:
    def refuse() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match="the disk is full") as caught:
        RetryPolicy(60, "x").call(refuse, waits=False)
    assert not isinstance(caught.value, StoreAwayError)
