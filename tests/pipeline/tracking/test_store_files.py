"""Files and servers that are no store: one line, exit code 2 at once, no file left, nothing replaced."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import invoke
from support.servers import free_port
from support.stores import empty, opened, uri

from pipeline.cli import main
from pipeline.errors import StoreError
from pipeline.tracking.store import Store, TrackingConfig, download

SMALL = ("experiment=smoke", "epochs=1", "data.subset=50", "architecture.depth=2", "tracking.figures=false")
SECONDS = 20  # of a refusal, on a busy machine
Break = Callable[[Path], object]


def content(folder: Path) -> dict[str, object]:
    """Return every path with what it is: bytes, a link's target, or its kind."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = path.readlink()
        else:
            found[str(path)] = path.read_bytes() if path.is_file() else path.stat().st_mode
    return found


def foreign_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE notes (text)")


def changed_database(path: Path, statement: str) -> None:
    empty(f"sqlite:///{path}")
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


def truncate(path: Path) -> None:
    empty(f"sqlite:///{path}")
    os.truncate(path, path.stat().st_size // 2)


def corrupt(path: Path, offset: int) -> None:
    empty(f"sqlite:///{path}")
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * 4096)


BROKEN: dict[str, tuple[Break, str]] = {
    "text": (lambda p: p.write_text("my notes\n" * 1000), "is not an SQLite database"),
    "empty": (lambda p: p.touch(), "is an empty file"),
    "dangling": (lambda p: p.symlink_to(p.with_name("gone.db")), "is a link to"),
    "fifo": (os.mkfifo, "is not a plain file"),
    "foreign": (foreign_database, "is the database of another program"),
    "truncated": (truncate, "is damaged"),
    "header": (lambda p: corrupt(p, 0), "is not an SQLite database"),
    "schema page": (lambda p: corrupt(p, 100), "is damaged"),
    "half-migrated": (lambda p: changed_database(p, "DROP TABLE latest_metrics"), "lacks 1 tables"),
    "other version": (lambda p: changed_database(p, "UPDATE alembic_version SET version_num = 'x'"), "schema"),
    "no version": (lambda p: changed_database(p, "DELETE FROM alembic_version"), "schema"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_file_that_is_no_store_is_refused_and_stays_as_it_is(kind: str, tmp_path: Path) -> None:
    prepare, problem = BROKEN[kind]
    path = tmp_path / "given" / "some.db"
    path.parent.mkdir()
    prepare(path)
    before = content(path.parent)
    for command in (
        ("run", *SMALL, f"tracking.uri=sqlite:///{path}"),
        ("report", "--run", "0" * 32, "--uri", f"sqlite:///{path}"),
    ):
        start = time.monotonic()
        shown = invoke_plainly(*command)
        assert time.monotonic() - start < SECONDS
        assert shown[0] == 2
        assert problem in shown[1]
        assert len(shown[1].splitlines()) == 1
        after = content(path.parent)
        if kind in ("half-migrated", "other version", "no version"):
            after.pop(f"{path}.lock", None)  # of a file that is MLflow's
        assert after == before


def invoke_plainly(*command: str) -> tuple[int, str]:
    """Return exit code and messages of a command, without creating a store for it first."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command)
    return code, err.getvalue()


@pytest.mark.parametrize("name", ["a%41.db", "a%2541 b#c.db", "a%/b&c=d.db", "what?/s[1]*.db", "ü;'\".db"])
@pytest.mark.thorough
def test_path_of_a_store_is_taken_literally(name: str, tmp_path: Path) -> None:
    path = tmp_path / "store" / name
    path.parent.mkdir(parents=True)
    store = Store.open(TrackingConfig(empty(f"sqlite:///{path}"), "gradvitals"))
    log = store.start("run", {})
    log.text("text", "note.txt")
    assert log.end("FINISHED")
    assert download(store, log.run_id, "note.txt", tmp_path).read_text() == "text"
    top = tmp_path / "store" / name.partition("/")[0]
    allowed = {top, top.with_name(f"{top.name}.lock"), top.with_name(f"{top.stem}-artifacts")}
    assert set((tmp_path / "store").iterdir()) <= allowed
    reopened = Store.open(TrackingConfig(f"sqlite:///{path}", "gradvitals"))
    assert [r.info.run_id for r in reopened.search()] == [log.run_id]


@pytest.mark.thorough
def test_new_store_is_created_at_a_literal_path(tmp_path: Path) -> None:
    """MLflow itself creates this database, which other tests copy."""
    path = tmp_path / "a%41 b" / "s%20.db"
    Store.open(TrackingConfig(f"sqlite:///{path}", "gradvitals"))
    assert {p.name for p in path.parent.iterdir()} <= {"s%20.db", "s%20.db.lock"}
    assert [p.name for p in tmp_path.iterdir()] == ["a%41 b"]


def test_store_that_cannot_be_created_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(address: str, _: str) -> None:
        path = Path(address.removeprefix("sqlite+pysqlite:///file:").partition("?")[0])
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore", fails)
    shown = invoke_plainly("run", *SMALL, f"tracking.uri=sqlite:///{tmp_path}/s.db")
    assert shown[0] in (1, 2)
    assert "No space left on device" in shown[1]
    assert list(tmp_path.iterdir()) == []


def test_options_in_the_address_of_a_file_are_refused(tmp_path: Path) -> None:
    shown = invoke_plainly("run", *SMALL, f"tracking.uri='sqlite:///{tmp_path}/s.db?mode=ro'")
    assert shown[0] == 2
    assert "without options" in shown[1]
    assert list(tmp_path.iterdir()) == []


def test_database_deleted_between_two_commands_is_not_made_again_by_reading(tmp_path: Path) -> None:
    store = opened(tmp_path)
    log = store.start("run", {})
    assert log.end("FINISHED")
    (tmp_path / "store.db").unlink()
    shown = invoke_plainly("report", "--run", log.run_id, "--uri", uri(tmp_path))
    assert shown[0] == 2
    assert "no store there yet" in shown[1]
    assert not (tmp_path / "store.db").exists()


def test_database_deleted_while_it_is_open_is_not_made_again(tmp_path: Path) -> None:
    """SQLite would create an empty file when the next connection opens."""
    store = opened(tmp_path)
    (tmp_path / "store.db").unlink()
    store.client.bare._tracking_client.store.engine.dispose()  # as idle connections are
    with pytest.raises(StoreError, match="cannot be opened"):
        store.start("run", {})
    assert not (tmp_path / "store.db").exists()


def test_damage_in_the_middle_of_a_database_is_reported_in_one_line(tmp_path: Path) -> None:
    """MLflow opens it: the tables are read later."""
    path = tmp_path / "store.db"
    opened(tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'experiments'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    shutil.copyfile(path, damaged / "store.db")
    with (damaged / "store.db").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)
    shown = invoke_plainly("run", *SMALL, f"tracking.uri={uri(damaged)}")
    assert shown[0] == 2
    assert "the database is damaged" in shown[1]
    assert len(shown[1].splitlines()) == 1


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_database_server_that_does_not_answer_is_refused_at_once(scheme: str, tmp_path: Path) -> None:
    address = f"{scheme}://me:secret@127.0.0.1:{free_port()}/runs"
    for command in (("run", *SMALL, f"tracking.uri={address}"), ("ui", "--port", str(free_port()), "--uri", address)):
        start = time.monotonic()
        shown = invoke_plainly(*command)
        assert time.monotonic() - start < SECONDS
        assert shown[0] == 2
        assert "cannot be opened (connection refused)" in shown[1]
        assert "secret" not in shown[1]
        assert len(shown[1].splitlines()) == 1


def test_command_for_the_ui_refuses_a_file_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("notes")
    shown = invoke("ui", "--port", str(free_port()), "--uri", f"sqlite:///{tmp_path}/notes.db")
    assert shown.code == 2
    assert "is not an SQLite database" in shown.err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.db"]
