"""A store that was moved, renamed or copied keeps its artifacts, and a copy never writes into the original."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sqlite3
from collections import OrderedDict
from pathlib import Path

import pytest
from support.commands import invoke
from support.stores import opened, uri

from pipeline.tracking.store import Store, TrackingConfig, download
from pipeline.tracking.uri import engine_uri

pytestmark = pytest.mark.xdist_group("relocation")

SMALL = ("experiment=smoke", "epochs=1", "data.subset=50", "architecture.depth=2", "tracking.figures=false")


def files(folder: Path) -> dict[str, str]:
    """Return the digest of every file."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def run_ids(folder: Path) -> list[str]:
    return [r.info.run_id for r in opened(folder).search()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a store with one run."""
    folder = tmp_path_factory.mktemp("finished")
    assert invoke("run", *SMALL, f"tracking.uri={uri(folder)}").code == 0
    return folder


@pytest.fixture
def store(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that store, as a user would make one, and as a new process would open it."""
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._artifact_repos_cache", OrderedDict())
    shutil.copytree(finished, tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("name", ["plain", "a%41 b#c?d[e]"])
def test_moved_store_keeps_its_artifacts_and_new_runs_are_written_next_to_it(
    store: Path, name: str, tmp_path: Path
) -> None:
    opened(store)
    moved = store.with_name(name)
    store.rename(moved)
    (old,) = run_ids(moved)
    exported = moved.with_name("exported")
    assert invoke("export", "--run", old, "--to", str(exported), "--uri", uri(moved)).code == 0
    assert (exported / "records.parquet").is_file()
    log = opened(moved).start("new", {})
    log.text("text", "note.txt")
    assert log.end("FINISHED")
    (written,) = tmp_path.rglob("note.txt")
    assert written.is_relative_to(moved / "store-artifacts" / "gradvitals" / log.run_id)
    assert not store.exists()


def test_copied_store_writes_nothing_into_the_original(store: Path, finished: Path, tmp_path: Path) -> None:
    before = files(finished)
    log = opened(store).resume(run_ids(store)[0])
    log.text("written by the copy", "note.txt")
    assert log.end("FINISHED")
    new = opened(store).start("new", {})
    new.text("written by the copy", "note.txt")
    assert new.end("FINISHED")
    assert files(finished) == before
    assert len(list(store.glob("store-artifacts/gradvitals/*/artifacts/note.txt"))) == 2
    assert download(opened(store), log.run_id, "note.txt", tmp_path).read_text() == "written by the copy"


def test_project_that_was_renamed_keeps_all_its_experiments(tmp_path: Path) -> None:
    place = tmp_path / "project" / "store"
    logged = {}
    for experiment in ("first", "second one", "/Shared/../third", "Default"):
        opened_store = Store.open(TrackingConfig(uri(place), experiment))
        log = opened_store.start(experiment, {})
        log.text(experiment, "name.txt")
        assert log.end("FINISHED")
        logged[experiment] = log.run_id
    assert {p.parent.parent.parent.parent for p in tmp_path.rglob("name.txt")} == {place / "store-artifacts"}
    (tmp_path / "project").rename(tmp_path / "renamed")
    address = uri(tmp_path / "renamed" / "store")
    for experiment, run_id in logged.items():
        reopened = Store.open(TrackingConfig(address, experiment))
        assert download(reopened, run_id, "name.txt", tmp_path).read_text() == experiment
    assert not (tmp_path / "project").exists()


def test_locations_elsewhere_on_purpose_stay(store: Path, tmp_path: Path) -> None:
    """An experiment of the user's own, on another disk; and artifacts that stay behind when a database is moved."""
    elsewhere = tmp_path / "disk" / "store-artifacts" / "mine"
    elsewhere.mkdir(parents=True)
    bare = opened(store).client
    bare.create_experiment("mine", artifact_location=elsewhere.as_uri())
    bare.create_experiment("bucket", artifact_location="s3://bucket/store-artifacts/bucket")
    (run_id,) = run_ids(store)
    away = tmp_path / "away"
    away.mkdir()
    (store / "store.db").rename(away / "store.db")
    reopened = opened(away)
    locations = {e.name: e.artifact_location for e in reopened.client.search_experiments()}
    assert locations["mine"] == elsewhere.as_uri()
    assert locations["bucket"] == "s3://bucket/store-artifacts/bucket"
    assert locations["gradvitals"] == (store / "store-artifacts" / "gradvitals").as_uri()
    assert download(reopened, run_id, "records.parquet", tmp_path).is_file()


def test_store_behind_a_link_keeps_its_artifacts_next_to_the_file(store: Path, tmp_path: Path) -> None:
    opened(store)
    (tmp_path / "link.db").symlink_to(store / "store.db")
    linked = Store.open(TrackingConfig(f"sqlite:///{tmp_path / 'link.db'}", "new"))
    log = linked.start("run", {})
    log.text("text", "note.txt")
    assert log.end("FINISHED")
    assert list(store.glob("store-artifacts/new/*/artifacts/note.txt"))
    assert not (tmp_path / "link-artifacts").exists()


def test_database_copied_without_its_artifacts_is_refused_in_one_line(store: Path, tmp_path: Path) -> None:
    (run_id,) = run_ids(store)
    copy = tmp_path / "alone" / "store.db"
    copy.parent.mkdir()
    shutil.copyfile(store / "store.db", copy)
    shown = invoke("report", "--run", run_id, "--uri", f"sqlite:///{copy}", "--to", str(tmp_path / "page.html"))
    assert shown.code == 2
    assert shown.err == (
        f"error: tracking.uri=sqlite:///{copy}: is a copy of a store without its artifacts; "
        f"copy {store / 'store-artifacts'} to {copy.parent / 'store-artifacts'}\n"
    )
    shutil.copytree(store / "store-artifacts", copy.parent / "store-artifacts")
    again = invoke("report", "--run", run_id, "--uri", f"sqlite:///{copy}", "--to", str(tmp_path / "page.html"))
    assert again.code == 0, again.err


def test_opening_a_store_in_its_place_writes_nothing(store: Path) -> None:
    opened(store)
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(engine_uri(uri(store)), "./mlruns").engine.dispose()
    before = files(store)
    opened(store)
    assert files(store) == before


def test_export_refuses_what_verify_would_refuse(store: Path, tmp_path: Path) -> None:
    (run_id,) = run_ids(store)
    (chain,) = store.glob("store-artifacts/gradvitals/*/artifacts/chain.parquet")
    chain.unlink()
    shown = invoke("export", "--run", run_id, "--to", str(tmp_path / "out"), "--uri", uri(store))
    assert shown.code == 2
    assert f"run {run_id}: cannot be exported: chain.parquet: is missing" in shown.err
    assert len(shown.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_recorded_locations_of_all_tables_move(store: Path) -> None:
    opened(store)
    with contextlib.closing(sqlite3.connect(store / "store.db")) as database:
        text = "\n".join(line for line in database.iterdump() if "file://" in line)
    assert "finished" not in text
    assert store.as_uri() in text
