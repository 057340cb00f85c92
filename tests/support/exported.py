"""Exported folders to do harm to."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.reproducibility.exchange.manifest import MANIFEST_FILE, RUNS, Manifest
from pipeline.sweeps.sweep import sweep
from support.stores import empty

OVERRIDES = ["experiment=smoke", "schedule@chain.schedule=every", "activation=sigmoid,relu"]


def uri(folder: Path) -> str:
    return f"sqlite:///{folder / 'store.db'}"


def swept(folder: Path, *more: str) -> str:
    """The id of a small finished sweep in a new store."""
    out = io.StringIO()
    console = Console(file=out, width=200)
    assert sweep([*OVERRIDES, *more, f"tracking.uri={empty(uri(folder))}"], None, True, console) == 0
    return next(word for word in out.getvalue().replace(",", " ").split() if word.startswith("smoke-"))


def content(folder: Path) -> dict[str, bytes]:
    """Every file with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def one_run(folder: Path) -> Path:
    """The first run's folder in a sweep's."""
    return min((folder / RUNS).iterdir())


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def changed(path: Path, change: Callable[[Any], Any]) -> None:
    """A JSON file with a change."""
    node = json.loads(path.read_text())
    path.write_text(json.dumps(change(node) or node, indent=1, sort_keys=True) + "\n")


def resealed(folder: Path, kind: Any = "run", **facts: Any) -> Path:
    """The folder with a manifest made anew, as a forger would."""
    name = facts.pop("name", None) or json.loads((folder / "run.json").read_text())["run_id"]
    head = facts.pop("head", None) or json.loads((folder / "run.json").read_text())["tags"].get("chain.head")
    (folder / MANIFEST_FILE).write_bytes(Manifest.of(folder, kind, name, head).text())
    return folder
