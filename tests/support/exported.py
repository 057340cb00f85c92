"""Exported folders, and ways to change them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.reproducibility.exchange.manifest import MANIFEST_FILE, RUNS, Manifest
from support.commands import invoke

OVERRIDES = ["experiment=smoke", "schedule@chain.schedule=every", "activation=sigmoid,relu"]


def uri(folder: Path) -> str:
    """Return the URI of the store in a folder."""
    return f"sqlite:///{folder / 'store.db'}"


def run_sweep(folder: Path, *overrides: str) -> str:
    """Run a small sweep in a new store and return its id."""
    sweep = invoke("sweep", *OVERRIDES, *overrides, "tracking.figures=true", f"tracking.uri={uri(folder)}")
    assert sweep.code == 0, sweep.err
    return next(word for word in sweep.out.replace(",", " ").split() if word.startswith("smoke-"))


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file by its path in the folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def first_run(folder: Path) -> Path:
    """Return the folder of the first run in an exported sweep."""
    return min((folder / RUNS).iterdir())


def copied(folder: Path, to: Path) -> Path:
    """Copy a folder and return the copy."""
    shutil.copytree(folder, to)
    return to


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the content of a JSON file."""
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value) or value, indent=1, sort_keys=True) + "\n")


def with_new_manifest(folder: Path, kind: Any = "run", **facts: Any) -> Path:
    """Write a new manifest, as a forger would, and return the folder."""
    name = facts.pop("name", None) or json.loads((folder / "run.json").read_text())["run_id"]
    head = facts.pop("head", None) or json.loads((folder / "run.json").read_text())["tags"].get("chain.head")
    (folder / MANIFEST_FILE).write_bytes(Manifest.from_folder(folder, kind, name, head).text())
    return folder
