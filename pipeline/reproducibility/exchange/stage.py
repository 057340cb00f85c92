"""Write a folder completely or not at all: files go to a hidden folder next to the target, which is then renamed."""

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

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTEMPTY: "is not empty",
    errno.EEXIST: "exists already",
    errno.ENOTDIR: "is not a folder",
}


def parse_target(to: str) -> Path:
    """Return the folder to write.

    Raises:
        ConfigError: The path exists and is not an empty folder, or its parent folder does not exist.
    """
    allowed = "allowed: a path that does not exist yet, or an empty folder"
    if not to or "\0" in to:
        raise ConfigError(f"TO=: is no path; {allowed}")
    try:
        path = Path(os.path.abspath(Path(to).expanduser()))  # noqa: PTH100 (does not follow links)
        if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
            raise ConfigError(f"TO={to}: exists already; {allowed}")
        if not path.name or not path.parent.is_dir():
            raise ConfigError(f"TO={to}: there is no folder {path.parent}")
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"TO={to}: {reason(error)}") from error
    return path


@contextlib.contextmanager
def staging_dir(target: Path) -> Iterator[Path]:
    """Yield a new folder, which is renamed to the target at the end, or removed if an exception is raised.

    Raises:
        ConfigError: The folder cannot be written, or the target was created in the meantime.
    """
    _remove_abandoned(target)
    part = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.part")
    try:
        part.mkdir()
        with locked(part):
            yield part
            for path in [*sorted(part.rglob("*")), part]:
                sync(path)
            part.rename(target)
            sync(target.parent)
    except OSError as error:
        raise ConfigError(f"TO={target}: {reason(error)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _remove_abandoned(target: Path) -> None:
    """Remove the staging folders of killed processes; a live process holds the lock of its folder."""
    for part in target.parent.glob(f".{target.name[:100]}.*.part"):
        with contextlib.suppress(OSError), locked(part):
            shutil.rmtree(part)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. The operating system releases it when the process ends.

    Raises:
        OSError: Another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def reason(error: BaseException) -> str:
    """Return why an operation on a file failed, in a few words."""
    number = getattr(error, "errno", None)
    return REASONS.get(number or 0) or getattr(error, "strerror", None) or str(error) or type(error).__name__
