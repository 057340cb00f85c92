"""A folder that appears whole or not at all: written beside its place under another name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.training.array_files import sync

REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTEMPTY: "is not empty",
    errno.EEXIST: "is there already",
    errno.ENOTDIR: "is no folder",
}


def checked_target(to: str) -> Path:
    """Where to write: a place in a folder that exists, at which nothing is yet, or an empty folder.

    Raises:
        ConfigError: any other place.
    """
    if not to or "\0" in to:
        raise ConfigError("TO=: must be the folder to write, which must not exist yet or be empty")
    try:
        path = Path(os.path.abspath(Path(to).expanduser()))  # noqa: PTH100 (a link stays what it is)
        if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
            raise ConfigError(f"TO={to}: is there already; name a folder that does not exist yet, or an empty one")
        if not path.name or not path.parent.is_dir():
            raise ConfigError(f"TO={to}: there is no folder {path.parent}")
    except (OSError, RuntimeError) as refused:
        raise ConfigError(f"TO={to}: {reason(refused)}") from refused
    return path


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A new folder to write to, which takes the target's place at the end; nothing is left of it if that fails.

    Raises:
        ConfigError: the disk does not take it, or the place was taken meanwhile.
    """
    _clear(target)
    part = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.part")
    try:
        part.mkdir()
        with _held(part):
            yield part
            for path in [*sorted(part.rglob("*")), part]:
                sync(path)
            part.rename(target)
            sync(target.parent)
    except OSError as refused:
        raise ConfigError(f"TO={target}: {reason(refused)}") from refused
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _clear(target: Path) -> None:
    """Remove what a killed process left of an earlier try; what a living one is writing stays."""
    for left in target.parent.glob(f".{target.name[:100]}.*.part"):
        with contextlib.suppress(OSError), _held(left):
            shutil.rmtree(left)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, which ends with its process.

    Raises:
        OSError: another one holds it.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def reason(refused: BaseException) -> str:
    """Why, in a few words."""
    number = getattr(refused, "errno", None)
    return REFUSALS.get(number or 0) or getattr(refused, "strerror", None) or str(refused) or type(refused).__name__
