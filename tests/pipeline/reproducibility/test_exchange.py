"""Exported folders: a round trip keeps every byte, and every change to a folder is reported."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.exported import OVERRIDES, change_json, content, copied, first_run, run_sweep, uri, with_new_manifest
from support.servers import small_disk

from pipeline.cli import main
from pipeline.errors import ConfigError
from pipeline.reproducibility import exchange
from pipeline.reproducibility.exchange.manifest import MANIFEST_FILE
from pipeline.reproducibility.exchange.stage import locked
from pipeline.runs.cell import runs_of_cell
from pipeline.tracking.store import Store, TrackingConfig

pytestmark = pytest.mark.xdist_group("exchange")

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Path]:
    """Return a store's folder, the id of a sweep in it, and the folder the sweep was exported to."""
    folder = tmp_path_factory.mktemp("origin")
    sweep_id = run_sweep(folder)
    assert main(["export", "--sweep", sweep_id, "--to", str(folder / "out"), "--uri", uri(folder)]) == 0
    return folder, sweep_id, folder / "out"


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory, sweep: tuple[Path, str, Path]) -> Path:
    """Return the folder of another store, into which the sweep was imported."""
    folder = tmp_path_factory.mktemp("destination")
    assert main(["import", "--from", str(sweep[2]), "--uri", uri(folder)]) == 0
    return folder


@pytest.fixture
def run(sweep: tuple[Path, str, Path], tmp_path: Path) -> Path:
    """Return a copy of a run's folder, to damage."""
    return copied(first_run(sweep[2]), tmp_path / "run")


def opened(folder: Path) -> Store:
    return Store.open(TrackingConfig(uri(folder), "gradvitals"))


def seal_of(folder: Path) -> str:
    return str(json.loads((folder / MANIFEST_FILE).read_text())["seal"])


def test_export_after_import_equals_first_export(
    sweep: tuple[Path, str, Path], destination: Path, tmp_path: Path
) -> None:
    """store -> folder -> other store -> folder: every byte is equal, the seal too."""
    sweep_id = f"imported-{seal_of(sweep[2])[:12]}"
    assert main(["export", "--sweep", sweep_id, "--to", str(tmp_path / "back"), "--uri", uri(destination)]) == 0
    assert content(tmp_path / "back") == content(sweep[2])


def test_exported_files_match_manifest_and_store(sweep: tuple[Path, str, Path]) -> None:
    """Digests are recomputed here; the run's facts come from the store."""
    for folder in (sweep[2], first_run(sweep[2])):
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        files = content(folder)
        del files[MANIFEST_FILE]
        assert {k: v["sha256"] for k, v in manifest["files"].items()} == {
            name: hashlib.sha256(data).hexdigest() for name, data in files.items()
        }
    facts = json.loads((first_run(sweep[2]) / "run.json").read_text())
    run = opened(sweep[0]).client.get_run(facts["run_id"])
    assert facts["params"] == run.data.params
    assert (facts["start"], facts["end"], facts["status"]) == (run.info.start_time, run.info.end_time, "FINISHED")
    assert facts["tags"]["chain.head"] == run.data.tags["chain.head"]
    assert not [k for k in facts["tags"] if k.startswith(("mlflow", "lease"))]
    metrics = pd.read_parquet(first_run(sweep[2]) / "metrics.parquet")
    assert set(metrics["key"]) == set(run.data.metrics)
    history = opened(sweep[0]).client.get_metric_history(facts["run_id"], "delta_rms/layer_01")
    exported = metrics[metrics["key"] == "delta_rms/layer_01"]
    assert list(zip(exported["step"], exported["value"], strict=True)) == sorted((m.step, m.value) for m in history)
    assert "tracking" not in (first_run(sweep[2]) / "config.yaml").read_text()


@pytest.mark.thorough
def test_imported_run_is_marked_as_imported(sweep: tuple[Path, str, Path], destination: Path) -> None:
    store = opened(destination)
    facts = json.loads((first_run(sweep[2]) / "run.json").read_text())
    (run,) = [r for r in store.search("tags.kind = 'run'") if r.data.tags["imported.run_id"] == facts["run_id"]]
    assert run.data.tags["imported"] == "true"
    assert run.data.tags["imported.seal"] == seal_of(first_run(sweep[2]))
    assert run.data.tags["mlflow.note.content"].startswith("**Imported from a folder**")
    assert run.data.tags["chain.head"] == facts["tags"]["chain.head"]
    assert (run.info.start_time, run.info.end_time, run.info.status) == (facts["start"], facts["end"], "FINISHED")
    assert run.data.params == facts["params"]
    artifacts = {a.path for a in store.client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "records.parquet", "chain.parquet", "parameters.npz", "provenance.json"} <= artifacts
    assert not [name for name in artifacts if name.endswith((".html", ".json.html"))]
    cell = json.loads((first_run(sweep[2]) / "provenance.json").read_text())["cell"]
    assert runs_of_cell(store, cell) == []  # never counts as a cell that was run here


def test_report_of_imported_run_states_its_origin(destination: Path, tmp_path: Path) -> None:
    run = opened(destination).search("tags.kind = 'run'")[0]
    assert main(["report", "--run", run.info.run_id, "--to", str(tmp_path / "r.html"), "--uri", uri(destination)]) == 0
    assert "imported from a folder" in (tmp_path / "r.html").read_text()


def test_exported_run_is_reproduced_without_store(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", str(run)]) == 0
    assert "identical" in capsys.readouterr().out


def test_second_import_creates_no_run(sweep: tuple[Path, str, Path], destination: Path) -> None:
    def ids() -> list[str]:
        return sorted(r.info.run_id for r in opened(destination).search())

    before = ids()
    assert len(before) == 3
    assert main(["import", "--from", str(sweep[2]), "--uri", uri(destination), "--seal", seal_of(sweep[2])]) == 0
    assert main(["import", "--from", str(first_run(sweep[2])), "--uri", uri(destination)]) == 0
    assert ids() == before


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.{module} import {name} as owner
original = owner.{method}
def method(self, *rest, **named):
    if {when!r} in str(rest):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *rest, **named)
owner.{method} = method
from pipeline.cli import main
sys.exit(main(sys.argv[1:]))
"""


def killed(module: str, name: str, method: str, when: str, *argv: str) -> None:
    """Run a command in a process that is killed while it works."""
    code = KILLED.format(module=module, name=name, method=method, when=when)
    process = subprocess.run([sys.executable, "-c", code, *argv], cwd=PROJECT, capture_output=True, check=False)
    assert process.returncode == -9, process.stderr.decode()


@pytest.mark.thorough
def test_killed_import_is_replaced_by_next_import(sweep: tuple[Path, str, Path], tmp_path: Path) -> None:
    argv = ["import", "--from", str(first_run(sweep[2])), "--uri", uri(tmp_path)]
    killed("tracking.run_logger", "RunLogger", "file", "records.parquet", *argv)
    store = opened(tmp_path)
    (incomplete,) = store.search()
    assert incomplete.info.status == "RUNNING"
    assert main(argv) == 0
    (complete,) = store.search()
    assert complete.info.status == "FINISHED"
    assert complete.info.run_id != incomplete.info.run_id
    store.client.update_run(complete.info.run_id, "RUNNING")  # as after a kill before the last call
    assert main(argv) == 0
    (resumed,) = store.search()
    assert (resumed.info.run_id, resumed.info.status) == (complete.info.run_id, "FINISHED")


def test_failed_import_deletes_its_runs(
    sweep: tuple[Path, str, Path], destination: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ConfigError("the store refuses")

    before = len(opened(destination).search())
    change_json(run / "run.json", lambda facts: {**facts, "name": "other"})
    monkeypatch.setattr("pipeline.tracking.run_logger.RunLogger.file", refuse)
    assert main(["import", "--from", str(with_new_manifest(run)), "--uri", uri(destination)]) == 2
    assert len(opened(destination).search()) == before


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def replace_by_link(path: Path) -> None:
    shutil.copy(path, path.parent.parent / "outside")
    path.unlink()
    path.symlink_to(path.parent.parent / "outside")


EXPORTED = {
    "chain.parquet",
    "config.yaml",
    "gradient_norm_by_layer.png",
    "manifest.json",
    "metrics.parquet",
    "packages.txt",
    "parameters.npz",
    "provenance.json",
    "records.parquet",
    "report.html",
    "run.json",
    "theory.json",
    "verdict.txt",
}


@pytest.mark.parametrize("damage", [flip_bit, truncate, Path.unlink, replace_by_link])
def test_damage_to_any_file_is_reported(run: Path, damage: Callable[[Path], None], tmp_path: Path) -> None:
    names = sorted(content(run))
    assert set(names) - {"uncommitted.patch"} == EXPORTED
    for name in names:
        folder = copied(run, tmp_path / f"damage-{name}")
        damage(folder / name)
        with pytest.raises(ConfigError) as error:
            exchange.verify(folder)
        assert name in str(error.value)
        assert "\n" not in str(error.value)


def swap(a: str, b: str) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        first, second = (folder / a).read_bytes(), (folder / b).read_bytes()
        (folder / a).write_bytes(second)
        (folder / b).write_bytes(first)

    return damage


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (swap("records.parquet", "chain.parquet"), "chain.parquet: was changed"),
    (swap("theory.json", "packages.txt"), "packages.txt: was changed"),
    (lambda f: (f / "added.txt").write_text("x"), "added.txt: was added"),
    (lambda f: (f / ".hidden").write_text("x"), ".hidden: was added"),
    (lambda f: (f / "RUN.JSON").write_text("x"), "RUN.JSON: was added"),
    (lambda f: (f / "a\x1b[31mb\n").write_text("x"), "a�[31mb�: was added"),
    (lambda f: (f / "empty").mkdir(), "empty: is a folder that no export has"),
    (lambda f: os.mkfifo(f / "pipe"), "pipe: is a special file"),
    (lambda f: (f / "link").symlink_to("/etc/passwd"), "link: is a link"),
    (lambda f: (f / "runs").symlink_to(f), "runs: is a link"),
    (lambda f: (f / MANIFEST_FILE).write_text("{}"), "manifest.json: "),
    (lambda f: (f / MANIFEST_FILE).write_text("[" * 100_000), "manifest.json: "),
    (lambda f: (f / MANIFEST_FILE).write_bytes(b"\xff\xfe"), "manifest.json: must be UTF-8"),
    (lambda f: change_json(f / MANIFEST_FILE, lambda m: {**m, "seal": "0" * 64}), "manifest.json: was changed"),
    (lambda f: change_json(f / MANIFEST_FILE, lambda m: {**m, "id": "0" * 32}), "manifest.json: was changed"),
    (lambda f: change_json(f / MANIFEST_FILE, lambda m: {**m, "format": 2}), "format=2: unsupported; allowed: 1"),
    (lambda f: change_json(f / MANIFEST_FILE, lambda m: {**m, "more": 1}), "manifest.json: more: "),
    (
        lambda f: (f / MANIFEST_FILE).write_text((f / MANIFEST_FILE).read_text().replace("\n", "\n ")),
        "manifest.json: was changed",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damage_to_folder_is_reported(run: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(run)
    with pytest.raises(ConfigError) as error:
        exchange.verify(run)
    assert message in str(error.value)


def rewrite_table(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_parquet(path)).to_parquet(path, index=False)


def other_digest(table: pd.DataFrame) -> pd.DataFrame:
    at = table.index[table["quantity"] == "W"][0]
    table.loc[at, "digest"] = "00" + str(table.loc[at, "digest"])[2:]
    return table


FORGERIES: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: rewrite_table(f / "chain.parquet", other_digest), "the link of step 0, replicate 0 does not follow"),
    (lambda f: rewrite_table(f / "chain.parquet", lambda t: t[t["step"] <= 0]), "chain.parquet: its head is"),
    (lambda f: rewrite_table(f / "chain.parquet", lambda t: t.iloc[1:]), "chain.parquet: rows are missing"),
    (
        lambda f: rewrite_table(f / "chain.parquet", lambda t: t.assign(norm=1.0)),
        "chain.parquet: its norms do not match",
    ),
    (lambda f: (f / "chain.parquet").unlink(), "chain.parquet: is missing"),
    (lambda f: (f / "metrics.parquet").unlink(), "metrics.parquet: is missing"),
    (lambda f: (f / "records.parquet").write_bytes(b"PAR1"), "records.parquet: is not readable parquet"),
    (lambda f: (f / "parameters.npz").write_bytes(b"PK"), "parameters.npz: cannot be read"),
    (lambda f: np.savez(f / "parameters.npz", x=np.array([None])), "parameters.npz: cannot be read"),
    (lambda f: np.savez(f / "parameters.npz", x=np.array(["a"])), "parameters.npz: must hold floating-point"),
    (lambda f: np.savez_compressed(f / "parameters.npz", x=np.zeros(9)), "parameters.npz: must not be compressed"),
    (lambda f: (f / "config.yaml").write_text("- 1"), "config.yaml: must hold a mapping"),
    (lambda f: (f / "report.html").write_text("<script>alert(1)</script>"), "report.html: is not a page"),
    (
        lambda f: (f / "report.html").write_text((f / "report.html").read_text() + "<script>alert(1)</script>"),
        "report.html: is not a page",
    ),
    (lambda f: (f / "delta_rms_layer_by_step.png").write_text("<svg onload=alert(1)>"), "png: is no PNG file"),
    (lambda f: change_json(f / "run.json", lambda r: {**r, "status": "RUNNING"}), "run.json: status"),
    (lambda f: change_json(f / "run.json", lambda r: {**r, "start": 10**30}), "run.json: start"),
    (lambda f: change_json(f / "run.json", lambda r: {**r, "params": {"../../x": "1"}}), "run.json: params"),
    (lambda f: change_json(f / "run.json", lambda r: {**r, "end": r["start"] - 1}), "run.json: end="),
    (lambda f: (f / "evil.html").write_text("x"), "evil.html: names no file of an export"),
]


@pytest.mark.parametrize(("damage", "message"), FORGERIES)
def test_inconsistent_folder_with_new_manifest_is_reported(
    run: Path, damage: Callable[[Path], object], message: str
) -> None:
    """A forger who writes a new manifest is detected where the contents are inconsistent."""
    damage(run)
    with pytest.raises(ConfigError) as error:
        exchange.verify(with_new_manifest(run))
    assert message in str(error.value)


def test_consistent_forgery_is_detected_by_seal_only(run: Path) -> None:
    seal = seal_of(run)
    exchange.verify(run, seal)
    exchange.verify(run, seal[:16])
    change_json(run / "run.json", lambda facts: {**facts, "name": "better"})
    with_new_manifest(run)
    exchange.verify(run)  # the folder is consistent
    with pytest.raises(ConfigError, match="this folder is another export"):
        exchange.verify(run, seal)
    for short in ("", seal_of(run)[:15]):
        with pytest.raises(ConfigError, match="SEAL="):
            exchange.verify(run, short)


def test_manifest_of_other_run_is_refused(run: Path) -> None:
    with_new_manifest(run, name="f" * 32)
    with pytest.raises(ConfigError, match=r"run\.json: is of another run"):
        exchange.verify(run)


def test_damage_to_sweep_is_reported(sweep: tuple[Path, str, Path], tmp_path: Path) -> None:
    def runs(folder: Path) -> list[Path]:
        return sorted((folder / "runs").iterdir())

    def swap_runs(folder: Path) -> None:
        first, second = runs(folder)
        first.rename(folder / "temporary")
        second.rename(first)
        (folder / "temporary").rename(second)

    cases: list[tuple[Callable[[Path], object], str]] = [
        (swap_runs, "was changed"),
        (lambda f: shutil.rmtree(runs(f)[0]), "is missing"),
        (lambda f: shutil.copytree(runs(f)[0], f / "runs" / ("0" * 32)), "was added"),
        (lambda f: shutil.copytree(runs(f)[0], f / "runs" / "x"), "is a folder that no export has"),
        (lambda f: (f / "sweep.csv").write_text("run_id\n"), "sweep.csv: was changed"),
        (lambda f: (runs(f)[1] / "theory.json").write_text("{}"), "/theory.json: was changed"),
        (lambda f: (runs(f)[1] / MANIFEST_FILE).unlink(), f"/{MANIFEST_FILE}: is missing"),
    ]
    for number, (damage, message) in enumerate(cases):
        folder = copied(sweep[2], tmp_path / str(number))
        damage(folder)
        with pytest.raises(ConfigError) as error:
            exchange.verify(folder)
        assert message in str(error.value)


def test_sweep_that_claims_other_runs_is_refused(sweep: tuple[Path, str, Path], tmp_path: Path) -> None:
    folder = copied(sweep[2], tmp_path / "sweep")
    change_json(folder / "sweep.json", lambda facts: {**facts, "runs": facts["runs"][:1]})
    with pytest.raises(ConfigError, match="its runs are not those in runs/"):
        exchange.verify(with_new_manifest(folder, "sweep", name=sweep[1], head="x"))


def test_export_does_not_overwrite(sweep: tuple[Path, str, Path], run: Path, tmp_path: Path) -> None:
    run_id = json.loads((run / "run.json").read_text())["run_id"]
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    before = content(tmp_path)

    def export(to: str, what: str = run_id) -> int:
        return main(["export", "--run", what, "--to", to, "--uri", uri(sweep[0])])

    for to in (str(run), str(run / "run.json"), str(run / "run.json" / "x"), str(tmp_path / "link"), "", "/", "a\0b"):
        assert export(to) == 2
    assert export(str(tmp_path / "no" / "where")) == 2
    assert export(str(tmp_path / "new"), "0" * 32) == 2
    assert export(str(tmp_path / ("x" * 300))) == 2
    assert content(tmp_path) == before
    assert {p.name for p in tmp_path.iterdir()} == {"run", "link", "empty"}
    assert export(str(tmp_path / "empty")) == 0
    assert content(tmp_path / "empty") == content(run)


def test_running_run_is_not_exported(
    sweep: tuple[Path, str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = opened(sweep[0])
    log = store.start("unfinished", {})
    argv = ["export", "--run", log.run_id, "--to", str(tmp_path / "out"), "--uri", uri(sweep[0])]
    assert main(argv) == 2
    assert "is RUNNING" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    log.end("FAILED")
    assert main(argv) == 0  # a failed run is exported with the files it has
    exchange.verify(tmp_path / "out")
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.thorough
def test_export_to_full_disk_leaves_no_files(
    sweep: tuple[Path, str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["export", "--sweep", sweep[1], "--to", str(tmp_path / "out"), "--uri", uri(sweep[0])]
    for kilobytes in (100, 150, 200, 250):  # the disk fills up during different files
        with small_disk(tmp_path, kilobytes / 1024):
            assert main(argv) == 2
            assert "the disk is full" in capsys.readouterr().err
            assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
def test_killed_export_leaves_no_folder(sweep: tuple[Path, str, Path], tmp_path: Path) -> None:
    argv = ["export", "--sweep", sweep[1], "--to", str(tmp_path / "out"), "--uri", uri(sweep[0])]
    killed("reproducibility.exchange.facts", "SweepFacts", "text", "", *argv)
    (abandoned,) = tmp_path.iterdir()
    assert abandoned.name.endswith(".part")
    active = tmp_path / ".out.0.part"  # of a running export
    active.mkdir()
    with locked(active):
        assert main(argv) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"out", active.name}
    exchange.verify(tmp_path / "out")


def test_export_contains_no_store_address(run: Path) -> None:
    overrides = json.loads((run / "run.json").read_text())["tags"]["overrides"]
    *shared, swept = OVERRIDES
    key, _, values = swept.partition("=")
    own = {f"{key}={value}" for value in values.split(",")} & set(overrides.split())
    assert set(overrides.split()) == {*shared, *own}
    assert len(own) == 1
    assert b"sqlite" not in b"".join(data for name, data in content(run).items() if name != "uncommitted.patch")
