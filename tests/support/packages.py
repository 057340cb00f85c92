"""Packages of a user's own, for tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.paths import PROJECT


@contextmanager
def own_package(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> Iterator[Path]:
    """Make a package importable, here and in child processes, and yield the file that switches its parts.

    The path of that file is the package's constant ``FLAG``, not an environment variable: processes forked by a server
    have the environment of the server's start.

    Args:
        folder: An empty folder.
        monkeypatch: Undoes the changes of the environment.
        name: Name of the package.
        source: Its text.
    """
    own, flag = folder / "own", folder / "flag"
    own.mkdir()
    (own / f"{name}.py").write_text(f"from pathlib import Path\n\nFLAG = Path({str(flag)!r})\n{source}")
    monkeypatch.syspath_prepend(str(own))
    monkeypatch.setenv("PYTHONPATH", f"{own}{os.pathsep}{PROJECT}")
    yield flag
    sys.modules.pop(name, None)
