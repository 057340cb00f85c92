"""The SQLite file of a store: created once, by one process, and only as a whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from pipeline.tracking.uri import database_path


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
        lock.release()


def create_database(uri: str) -> None:
    """Create the database if it is missing. The caller must hold the creation lock.

    The file is written under another name and then renamed: MLflow refuses a half-made database for ever.

    Args:
        uri: The store's URI; a server creates its own tables.
    """
    path = database_path(uri)
    if path is None or path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for stale in path.parent.glob(f"{path.name}.*.new*"):  # left by a killed process: we hold the lock
        stale.unlink(missing_ok=True)
    new = Path(f"{path}.{os.getpid()}.new")
    SqlAlchemyStore(f"sqlite:///{new}", "./mlruns").engine.dispose()
    new.replace(path)
