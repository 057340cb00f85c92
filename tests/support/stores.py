"""New stores made quickly, and the content of a store in a form that can be compared."""

from __future__ import annotations

import atexit
import io
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from pipeline.progress import plain_console
from pipeline.tracking.logged_run import LoggedRun
from pipeline.tracking.relocation import relocate_artifacts
from pipeline.tracking.store import Store, TrackingConfig, download
from pipeline.tracking.uri import database_path

SAME = ("sweep", "cell", "verdict", "decades", "config.sha256", "data.sha256", "chain.head")


def uri(folder: Path) -> str:
    """Return the address of a folder's store."""
    return f"sqlite:///{folder / 'store.db'}"


@cache
def _template() -> Path:
    """Create an empty, ready database, once in this process: MLflow needs seconds for one."""
    folder = Path(tempfile.mkdtemp(prefix="gradvitals-empty-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Store.open(TrackingConfig(uri(folder), "template"))
    return folder / "store.db"


def empty(address: str) -> str:
    """Copy an empty, ready database to a new store's address, and return the address."""
    path = database_path(address)
    assert path is not None
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_template(), path)
    return address


def opened(folder: Path, address: str | None = None, experiment: str = "gradvitals") -> Store:
    """Open a folder's store, or the store at an address."""
    return Store.open(TrackingConfig(address or empty(uri(folder)), experiment))


def runs(folder: Path, query: str = "") -> list[Any]:
    """Return the runs in a folder's store, newest first."""
    store = opened(folder)
    return list(store.client.search_runs([store.experiment_id], query))


def quiet() -> Console:
    """Return a console whose text can be read."""
    return plain_console(file=io.StringIO(), width=160)


def copied(folder: Path, to: Path) -> Path:
    """Copy a folder with a store; the copy's artifacts are its own."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    relocate_artifacts(uri(to))
    return to


Points = list[tuple[str, int, float]]


def content(folder: Path, address: str | None = None, experiment: str = "gradvitals") -> dict[str, Any]:
    """Return all that a store holds of a sweep's runs, by run name, except times and attempts."""
    store = opened(folder, address, experiment)
    contents: dict[str, Any] = {}
    for run in store.search("tags.kind = 'run'"):
        if run.data.tags.get("sweep") == "replaced":
            continue
        run_id, name = run.info.run_id, run.info.run_name
        assert name not in contents, f"{name} is there twice"
        points: Points = []
        for key in run.data.metrics:
            if not key.startswith("overhead/"):
                points += [(m.key, m.step, m.value) for m in store.client.get_metric_history(run_id, key)]
        records = pd.read_parquet(download(store, run_id, "records.parquet", folder / "artifacts"))
        files = {a.path for a in store.client.list_artifacts(run_id) if not a.path.endswith(".log")}
        artifacts = files - {"uncommitted.patch"}  # the working tree may change while the tests run
        facts = LoggedRun.from_store(store, run).provenance
        same = {k: facts[k] for k in SAME if k in facts}
        contents[name] = (run.info.status, sorted(points), records, artifacts, same, run.data.params)
    return contents


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Assert that two stores hold the same finished runs."""
    assert first.keys() == second.keys()
    for name, (status, points, records, *rest) in first.items():
        assert status == second[name][0] == "FINISHED"
        assert points == second[name][1], name
        pd.testing.assert_frame_equal(records, second[name][2], check_exact=True)
        for mine, theirs in zip(rest, second[name][3:], strict=True):
            assert mine == theirs, name
