"""The SQLite file of a store: created once, by one process, and only as a whole. No other file is touched."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock

from pipeline.errors import ConfigError
from pipeline.tracking.uri import REFUSALS, artifact_root, database_path, engine_uri

SIGNATURE = b"SQLite format 3\0"
LOCKED_SECONDS = 0.5  # short, so that our retry reports the lock


@contextlib.contextmanager
def creation_lock(uri: str) -> Iterator[None]:
    """Let one process at a time create a database. An existing read-only database needs no lock.

    Args:
        uri: The store's URI; a server needs no lock either.

    Raises:
        OSError: The database does not exist and its folder is not writable.
    """
    path = database_path(uri)
    if path is None:
        yield
        return
    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:
        if not path.is_file():
            raise
    try:
        yield
    finally:
        if not path.exists():
            Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: a waiting process makes a new file
        lock.release()


def create_database(uri: str, artifacts: str | None = None) -> None:
    """Create the database if it is missing. The caller must hold the creation lock.

    The file is written under another name and then renamed: MLflow refuses a half-made database for ever.

    Args:
        uri: The store's URI; a server creates its own tables.
        artifacts: The place of all artifacts; by default a folder next to the file.
    """
    path = database_path(uri)
    if path is None or path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    unfinished = re.compile(rf"{re.escape(path.name)}\.\d+\.new(-journal|-wal|-shm)?")
    for stale in path.parent.iterdir():  # left by a killed process: we hold the lock
        if unfinished.fullmatch(stale.name):
            stale.unlink(missing_ok=True)
    new = Path(f"{path}.{os.getpid()}.new")
    try:
        root = artifacts or artifact_root(path).as_uri()
        SqlAlchemyStore(engine_uri(f"sqlite:///{new}", "rwc"), root).engine.dispose()
        new.replace(path)
    finally:
        for part in (new, Path(f"{new}-journal")):
            part.unlink(missing_ok=True)


def connect(path: Path) -> sqlite3.Connection:
    """Open a database that exists, for Python's own SQLite module.

    Raises:
        sqlite3.Error: There is no such file, or it is no database.
    """
    return sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=LOCKED_SECONDS)


def check_database(uri: str) -> None:
    """Refuse a file that is not a complete MLflow database, before anything is written next to it.

    MLflow would add its tables to the database of another program. A missing file passes.

    Args:
        uri: The store's URI; a server passes.

    Raises:
        ConfigError: The file is not MLflow's.
    """
    path = database_path(uri)
    problem = None if path is None else _problem(path)
    if problem is not None:
        raise ConfigError(f"tracking.uri={uri}: {problem}")


def _problem(path: Path) -> str | None:
    try:
        if path.is_symlink() and not path.exists():
            return f"is a link to {path.readlink()}, which does not exist"
        if not path.exists():
            return None
        if not stat.S_ISREG(path.stat().st_mode):
            return "is not a plain file"
        with path.open("rb") as file:
            start = file.read(len(SIGNATURE))
    except OSError as failure:
        return REFUSALS.get(failure.errno or 0) or str(failure.strerror)
    if start != SIGNATURE:
        return f"is {'not an SQLite database' if start else 'an empty file'}; allowed: a store, or a new file"
    try:
        with closing(connect(path)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError:
        return None  # locked, or a disk that fails: the store's own calls are retried and report it
    except sqlite3.DatabaseError as failure:
        return f"is damaged ({failure}); restore a backup"
    if not {"experiments", "runs"} <= tables:
        return "is the database of another program; allowed: a store, or a new file"
    return None


def check_tables(uri: str) -> None:
    """Refuse a database that lacks tables, since MLflow would add them to it, empty. MLflow must be imported.

    Args:
        uri: The store's URI; a server passes.

    Raises:
        ConfigError: A table is missing.
        sqlite3.Error: The database cannot be read.
    """
    path = database_path(uri)
    if path is None:
        return
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.tracking import sqlalchemy_store  # noqa: F401 (declares the tables)

    with closing(connect(path)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    missing = sorted(set(Base.metadata.tables) - tables)
    if missing:
        raise ConfigError(
            f"tracking.uri={uri}: lacks {len(missing)} tables of this version of MLflow, such as {missing[0]}; "
            f"restore a backup, or migrate a copy with `mlflow db upgrade`"
        )
