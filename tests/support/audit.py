"""Record what this process does: the files it writes, the programs and pickles it runs, the network it uses.

Python raises an audit event for each attempt, in any library. A hook cannot be removed, so there is one, which records
only inside :func:`watched`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class", "pty.spawn")
NETWORK = ("socket.connect", "socket.getaddrinfo", "urllib.Request")
WRITES: dict[str, tuple[tuple[int, int | None], ...]] = {  # positions of the path and of its folder's handle
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.chmod": ((0, 2),),
    "os.truncate": ((0, None),),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_allowed: list[Path] | None = None
_violations: list[str] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _allowed is None:
        return
    if event in RUNS or event in NETWORK:
        _violations.append(f"{event} {arguments!r:.300}")
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
        _check(event, arguments[0])
    elif event in WRITES:
        for path, handle in WRITES[event]:
            _check(event, arguments[path], -1 if handle is None else arguments[handle])


def _check(event: str, path: object, handle: object = -1) -> None:
    if not isinstance(path, (str, bytes)):
        return
    base = Path.cwd() if handle == -1 else Path(f"/proc/self/fd/{handle}").readlink()
    place = Path(os.path.abspath(base / os.fsdecode(path)))  # noqa: PTH100 (a link stays what it is)
    inside = _allowed is not None and any(place.is_relative_to(folder) for folder in _allowed)
    if not inside and place != Path(os.devnull) and "__pycache__" not in place.parts:
        _violations.append(f"{event} {place}")


sys.addaudithook(_hook)


@contextmanager
def watched(*allowed: Path) -> Iterator[list[str]]:
    """Yield the list of violations: programs run, pickles loaded, network used, files written outside some folders."""
    global _allowed
    _violations.clear()
    _allowed = [Path(os.path.abspath(folder)) for folder in allowed]  # noqa: PTH100
    try:
        yield _violations
    finally:
        _allowed = None
