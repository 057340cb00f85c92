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
def own_package(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str, variable: str) -> Iterator[Path]:
    """Make a package importable, here and in child processes, and yield the file that switches its parts.

    Args:
        folder: An empty folder.
        monkeypatch: Undoes the changes of the environment.
        name: Name of the package.
        source: Its text.
        variable: The environment variable that names the file.
    """
    own = folder / "own"
    own.mkdir()
    (own / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(own))
    monkeypatch.setenv("PYTHONPATH", f"{own}{os.pathsep}{PROJECT}")
    monkeypatch.setenv(variable, str(folder / "flag"))
    yield folder / "flag"
    sys.modules.pop(name, None)
