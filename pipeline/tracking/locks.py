"""Locks that show which process works on a run: lock files, which the system releases however a process ends.

A killed process leaves its run RUNNING in the store. Only the run's lock shows whether a process still works on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import re
import uuid
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from pipeline.tracking.file_systems import is_on_network

if TYPE_CHECKING:
    from pipeline.tracking.store import Store

HOST_TAG, LEASE_TAG = "mlflow.lease.host", "mlflow.lease"


def lease_of(tags: Mapping[str, str]) -> str:
    """Return the name of a run's lock, "" if it has none. Runs of older versions have another tag."""
    return tags.get(LEASE_TAG, tags.get("lease", ""))


def host_of(tags: Mapping[str, str], default: str) -> str:
    """Return where a run's lock is visible. Runs of older versions have another tag."""
    return tags.get(HOST_TAG, tags.get("lease.host", default))


def is_name(text: str) -> bool:
    """Return whether a lock can have this name. Tags of a shared store are untrusted and must not become paths."""
    return re.fullmatch(r"[\w.-]*\w[\w.-]*", text) is not None


class RunLocks:
    """The locks of one store.

    Args:
        folder: The folder of the lock files.
        in_store: Whether the folder belongs to the store's own file, so that every user of the store sees the locks.
        is_shared: Whether several machines share the folder, so that a checkout's locks are visible on all of them.
    """

    def __init__(self, folder: Path, in_store: bool = False, is_shared: bool = False) -> None:
        self._folder = folder
        self._in_store = in_store
        self._is_shared = is_shared

    @classmethod
    def of(cls, store: Store) -> RunLocks:
        """Return the locks of a store."""
        folder = store.sidecar_dir("locks")
        return cls(folder, store.is_file, is_on_network(folder))

    @cached_property
    def host(self) -> str:
        """The place where these locks are visible.

        Locks of a store that is a file are visible wherever the folder is, whatever the machine, container or path is
        called. Locks of a server are visible to this checkout on this machine, or on every machine that shares it.
        A copy of a shared folder has another inode.
        """
        if self._in_store:
            return f"next to the store {self._folder_name()}"
        if self._is_shared:
            return f"in the shared folder {self._folder_name()} {(self._folder / 'name').stat().st_ino}"
        return f"{platform.node()} {hashlib.sha256(str(self._folder.absolute()).encode()).hexdigest()[:8]}"

    def _folder_name(self) -> str:
        """Return the folder's random name, which is written into it once."""
        path = self._folder / "name"
        if not path.exists():
            with self.acquire("name", timeout=-1):
                if not path.exists():
                    new = path.with_name("name.new")
                    new.write_text(uuid.uuid4().hex, encoding="ascii")
                    new.replace(path)
        return path.read_text(encoding="ascii")

    def tags(self, name: str) -> dict[str, str]:
        """Return the tags of a run that is under this lock."""
        return {LEASE_TAG: name, HOST_TAG: self.host}

    @contextlib.contextmanager
    def acquire(self, name: str, timeout: float = 0.0) -> Iterator[bool]:
        """Hold a lock for the block; yield False if it is held elsewhere.

        Args:
            name: The lock's name.
            timeout: Seconds to wait for the lock; -1 waits without end.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.lock"
        lock = FileLock(path)
        try:
            lock.acquire(timeout=timeout, poll_interval=0.1)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            if not self._is_shared:  # a lock of this process that expired may be another machine's by now
                path.unlink(missing_ok=True)  # while the lock is held: a waiting process notices and makes a new file
            lock.release()

    def is_held(self, name: str) -> bool:
        """Return whether any process holds a lock."""
        with self.acquire(name) as is_free:
            return not is_free
