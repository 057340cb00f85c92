"""Files that a user names as output: written whole, and never in the place of a file of another origin."""

from __future__ import annotations

import contextlib
import io
import stat
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.wording import option

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD = 16_384  # bytes in which the mark of a file is searched
SOFTWARE = "gradvitals"
MARKS = (  # start of a file that is written here, and what it has in its first bytes
    (b"<!DOCTYPE html>", "– gradvitals</title>".encode()),
    (b"\x89PNG\r\n\x1a\n", f"Software\0{SOFTWARE}".encode()),
    (b"# ", b"\nWritten by `python -m experiments "),
    (b"# ", b"\nWritten by `make experiments"),
)
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
}


def parse_output(to: Path) -> Path:
    """Return the absolute path of an output.

    Raises:
        ConfigError: The system has no such path.
    """
    try:
        path = to.expanduser().absolute()
        path.is_dir()  # fails for a name that is too long
    except (OSError, RuntimeError) as failure:
        raise ConfigError(f"TO={to}: {getattr(failure, 'strerror', None) or failure}") from failure
    return path


def check_output(path: Path, force: bool = False) -> None:
    """Refuse to replace a file that was not written here. Folders, links and devices are never replaced.

    Args:
        path: The file to write.
        force: Whether to replace any plain file.

    Raises:
        ConfigError: Something else is there.
    """
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            kind = KINDS.get(stat.S_IFMT(mode), "a special file")
            raise ConfigError(f"TO={path}: is {kind}; allowed: a new file, or one that gradvitals wrote")
        if not force and not _is_own(path):
            raise ConfigError(f"TO={path}: is a file that gradvitals did not write; {option('force')} replaces it")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as failure:
        raise ConfigError(f"TO={path}: {getattr(failure, 'strerror', None) or failure}") from failure


def _is_own(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(HEAD)
    return any(head.startswith(start) and mark in head for start, mark in MARKS)


def write_output(content: bytes, path: Path, force: bool = False) -> None:
    """Write a file atomically: to a temporary file in the same folder, which then gets its name.

    Args:
        content: The whole content, which must have one of ``MARKS`` or it cannot be written again.
        path: The file.
        force: Whether to replace any plain file.

    Raises:
        ConfigError: A file of another origin is there, or the file cannot be written.
    """
    new = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        new.write_bytes(content)
        check_output(path, force)
        new.replace(path)
    except (OSError, ValueError) as failure:
        raise ConfigError(
            f"TO={path}: cannot be written ({getattr(failure, 'strerror', None) or failure})"
        ) from failure
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


def png(figure: Figure, dots_per_inch: int) -> bytes:
    """Return a figure as a PNG that shows its origin."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": SOFTWARE})
    return buffer.getvalue()
