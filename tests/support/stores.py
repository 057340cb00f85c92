"""Stores made quickly, and what is in a store, to be compared."""

from __future__ import annotations

import contextlib
import io
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from pipeline.tracking import store
from pipeline.tracking.store import Store, TrackingConfig, download

SAME = ("sweep", "cell", "verdict", "config.sha256", "data.sha256", "chain.head")


def uri(folder: Path) -> str:
    return f"sqlite:///{folder / 'store.db'}"


def opened(folder: Path, address: str | None = None) -> Store:
    return Store.open(TrackingConfig(address or uri(folder), "gradvitals"))


def runs(folder: Path, query: str = "") -> list[Any]:
    """The runs in a folder's store, newest first."""
    store = opened(folder)
    return list(store.client.search_runs([store.experiment_id], query))


def quiet() -> Console:
    """A console whose text can be read."""
    return Console(file=io.StringIO(), width=160)


def empty(address: str) -> str:
    """A store with nothing in it, for a command in a process of its own, which would take seconds to make one."""
    store._make_database(address)
    return address


def copied(folder: Path, to: Path) -> Path:
    """Another folder with all that this one holds; the artifacts of its store are those in the copy."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    with contextlib.closing(sqlite3.connect(to / "store.db")) as database, database:
        for column in ("experiments.artifact_location", "runs.artifact_uri"):
            table, name = column.split(".")
            database.execute(f"UPDATE {table} SET {name} = replace({name}, ?, ?)", (folder.as_uri(), to.as_uri()))
    return to


Points = list[tuple[str, int, float]]


def content(folder: Path, address: str | None = None) -> dict[str, Any]:
    """All that a store holds of a sweep's runs, by their names, except what tells time or attempts."""
    store = opened(folder, address)
    found: dict[str, Any] = {}
    for run in store.search("tags.kind = 'run'"):
        if run.data.tags.get("sweep") == "replaced":
            continue
        run_id, name = run.info.run_id, run.info.run_name
        assert name not in found, f"{name} is there twice"
        points: Points = []
        for key in run.data.metrics:
            if not key.startswith("overhead/"):
                points += [(m.key, m.step, m.value) for m in store.client.get_metric_history(run_id, key)]
        records = pd.read_parquet(download(store, run_id, "records.parquet", folder / "artifacts"))
        files = {a.path for a in store.client.list_artifacts(run_id) if not a.path.endswith(".log")}
        artifacts = files - {"uncommitted.patch"}  # somebody may be at work on the code meanwhile
        tags = {k: run.data.tags[k] for k in SAME if k in run.data.tags}
        found[name] = (run.info.status, sorted(points), records, artifacts, tags, run.data.params)
    return found


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, (status, points, records, *rest) in one.items():
        assert status == other[name][0] == "FINISHED"
        assert points == other[name][1], name
        pd.testing.assert_frame_equal(records, other[name][2], check_exact=True)
        for mine, theirs in zip(rest, other[name][3:], strict=True):
            assert mine == theirs, name
