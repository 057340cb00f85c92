"""Who is at work: a lock file that its process holds, and that the system frees when the process ends, however it ends.

A run's record in the store may say RUNNING for ever; whether anybody still works on it is known from its lease.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import re
import uuid
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from pipeline.tracking.store import Store

HOST_TAG, LEASE_TAG = "lease.host", "lease"


def is_name(text: str) -> bool:
    """Whether a lease can have this name; tags of a shared store are anybody's, and no paths."""
    return re.fullmatch(r"[\w.-]*\w[\w.-]*", text) is not None


class RunLocks:
    """The locks of one store, as far as this machine can hold them.

    Args:
        folder: where their files are; one that belongs to the store.
        beside: whether it lies beside the store's own file, so that whoever reads the store sees the locks.
    """

    def __init__(self, folder: Path, beside: bool = False) -> None:
        self._folder = folder
        self._beside = beside

    @classmethod
    def of(cls, store: Store) -> RunLocks:
        """Those of a store."""
        return cls(store.sidecar_dir("locks"), beside=store.is_file)

    @cached_property
    def host(self) -> str:
        """Where locks can be seen: beside a store that is a file, the folder, which has a name of its own, whatever a
        machine, a container or the way there is called; else this machine, and this place on it: two checkouts at one
        server do not see each other's.
        """
        if self._beside:
            return f"beside the store {self._name()}"
        return f"{platform.node()} {hashlib.sha256(str(self._folder.absolute()).encode()).hexdigest()[:8]}"

    def _name(self) -> str:
        """The folder's own name, written into it once. Another way to the same database may lead to another folder."""
        path = self._folder / "name"
        if not path.exists():
            with self.acquire("name", timeout=-1):
                if not path.exists():
                    beside = path.with_name("name.new")
                    beside.write_text(uuid.uuid4().hex, encoding="ascii")
                    beside.replace(path)
        return path.read_text(encoding="ascii")

    def tags(self, name: str) -> dict[str, str]:
        """What a run under this lease says of itself."""
        return {LEASE_TAG: name, HOST_TAG: self.host}

    @contextlib.contextmanager
    def acquire(self, name: str, timeout: float = 0.0) -> Iterator[bool]:
        """Hold the lease; False if another process, or this one elsewhere, holds it.

        Args:
            timeout: seconds to wait for it; −1 waits for ever.
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
            path.unlink(missing_ok=True)  # while it is held: whoever waits for it notices and makes a new one
            lock.release()

    def is_held(self, name: str) -> bool:
        """Whether somebody holds the lease at this moment."""
        with self.acquire(name) as free:
            return not free
