"""Runs and sweeps as folders: nothing is lost on the way there and back, and every tampering is named."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support.exported import OVERRIDES, changed, content, copied, one_run, resealed, swept, uri
from support.servers import small_disk
from support.stores import empty

from pipeline.cli import main
from pipeline.errors import ConfigError
from pipeline.reproducibility import exchange
from pipeline.reproducibility.exchange.manifest import MANIFEST_FILE
from pipeline.reproducibility.exchange.stage import _held
from pipeline.runs.cell import runs_of_cell
from pipeline.tracking.store import Store, TrackingConfig

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Path]:
    """A store's folder, the id of a sweep in it, and the folder it was exported to."""
    folder = tmp_path_factory.mktemp("here")
    sweep_id = swept(folder)
    assert main(["export", "--sweep", sweep_id, "--to", str(folder / "out"), "--uri", uri(folder)]) == 0
    return folder, sweep_id, folder / "out"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, sweep: tuple[Path, str, Path]) -> Path:
    """The folder of another store, into which the sweep was imported."""
    folder = tmp_path_factory.mktemp("there")
    assert main(["import", "--from", str(sweep[2]), "--uri", empty(uri(folder))]) == 0
    return folder


@pytest.fixture
def run(sweep: tuple[Path, str, Path], tmp_path: Path) -> Path:
    """A run's folder to do harm to."""
    return copied(one_run(sweep[2]), tmp_path / "run")


def opened(folder: Path) -> Store:
    return Store.open(TrackingConfig(uri(folder), "gradvitals"))


def seal_of(folder: Path) -> str:
    return str(json.loads((folder / MANIFEST_FILE).read_text())["seal"])


def test_there_and_back(sweep: tuple[Path, str, Path], there: Path, tmp_path: Path) -> None:
    """store -> folder -> other store -> folder: byte for byte the same, the seal too."""
    sweep_id = f"imported-{seal_of(sweep[2])[:12]}"
    assert main(["export", "--sweep", sweep_id, "--to", str(tmp_path / "back"), "--uri", uri(there)]) == 0
    assert content(tmp_path / "back") == content(sweep[2])


def test_a_folder_holds_what_it_says(sweep: tuple[Path, str, Path]) -> None:
    """Digests by another implementation, the run's facts by the store itself."""
    for folder in (sweep[2], one_run(sweep[2])):
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        files = content(folder)
        del files[MANIFEST_FILE]
        assert {k: v["sha256"] for k, v in manifest["files"].items()} == {
            name: hashlib.sha256(data).hexdigest() for name, data in files.items()
        }
    facts = json.loads((one_run(sweep[2]) / "run.json").read_text())
    run = opened(sweep[0]).client.get_run(facts["run_id"])
    assert facts["params"] == run.data.params
    assert (facts["start"], facts["end"], facts["status"]) == (run.info.start_time, run.info.end_time, "FINISHED")
    assert facts["tags"]["chain.head"] == run.data.tags["chain.head"]
    assert not [k for k in facts["tags"] if k.startswith(("mlflow", "lease"))]
    metrics = pd.read_parquet(one_run(sweep[2]) / "metrics.parquet")
    assert set(metrics["key"]) == set(run.data.metrics)
    history = opened(sweep[0]).client.get_metric_history(facts["run_id"], "delta_rms/layer_01")
    mine = metrics[metrics["key"] == "delta_rms/layer_01"]
    assert list(zip(mine["step"], mine["value"], strict=True)) == sorted((m.step, m.value) for m in history)
    assert "tracking" not in (one_run(sweep[2]) / "config.yaml").read_text()


def test_what_was_imported_is_known_as_such(sweep: tuple[Path, str, Path], there: Path) -> None:
    store = opened(there)
    facts = json.loads((one_run(sweep[2]) / "run.json").read_text())
    (run,) = [r for r in store.search("tags.kind = 'run'") if r.data.tags["imported.run_id"] == facts["run_id"]]
    assert run.data.tags["imported"] == "true"
    assert run.data.tags["imported.seal"] == seal_of(one_run(sweep[2]))
    assert run.data.tags["mlflow.note.content"].startswith("**Imported from a folder**")
    assert run.data.tags["chain.head"] == facts["tags"]["chain.head"]
    assert (run.info.start_time, run.info.end_time, run.info.status) == (facts["start"], facts["end"], "FINISHED")
    assert run.data.params == facts["params"]
    artifacts = {a.path for a in store.client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "records.parquet", "chain.parquet"} <= artifacts
    assert not [name for name in artifacts if name.endswith((".html", ".json.html"))]
    assert runs_of_cell(store, facts["tags"]["cell"]) == []  # it never stands for a cell that was run here


def test_its_report_says_so(there: Path, tmp_path: Path) -> None:
    run = opened(there).search("tags.kind = 'run'")[0]
    assert main(["report", "--run", run.info.run_id, "--to", str(tmp_path / "r.html"), "--uri", uri(there)]) == 0
    assert "imported from a folder" in (tmp_path / "r.html").read_text()


def test_an_exported_run_is_reproduced_without_its_store(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", str(run)]) == 0
    assert "identical" in capsys.readouterr().out


def test_importing_twice_makes_nothing_twice(sweep: tuple[Path, str, Path], there: Path) -> None:
    def ids() -> list[str]:
        return sorted(r.info.run_id for r in opened(there).search())

    before = ids()
    assert len(before) == 3
    assert main(["import", "--from", str(sweep[2]), "--uri", uri(there), "--seal", seal_of(sweep[2])]) == 0
    assert main(["import", "--from", str(one_run(sweep[2])), "--uri", uri(there)]) == 0
    assert ids() == before


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.tracking.{module} import {name} as owner
was = owner.{method}
def method(self, *rest, **named):
    if {when!r} in str(rest):
        os.kill(os.getpid(), signal.SIGKILL)
    return was(self, *rest, **named)
owner.{method} = method
from pipeline.cli import main
sys.exit(main(sys.argv[1:]))
"""


def killed(module: str, name: str, method: str, when: str, *argv: str) -> None:
    """Run a command in a process of its own that is killed in the middle."""
    code = KILLED.format(module=module, name=name, method=method, when=when)
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=PROJECT, capture_output=True, check=False)
    assert done.returncode == -9, done.stderr.decode()


def test_a_killed_import_leaves_nothing_that_counts(sweep: tuple[Path, str, Path], tmp_path: Path) -> None:
    argv = ["import", "--from", str(one_run(sweep[2])), "--uri", empty(uri(tmp_path))]
    killed("run_logger", "RunLogger", "file", "records.parquet", *argv)
    store = opened(tmp_path)
    (half,) = store.search()
    assert half.info.status == "RUNNING"
    assert main(argv) == 0
    (whole,) = store.search()
    assert whole.info.status == "FINISHED"
    assert whole.info.run_id != half.info.run_id
    store.client.update_run(whole.info.run_id, "RUNNING")  # as if it had been killed before its very last call
    assert main(argv) == 0
    (again,) = store.search()
    assert (again.info.run_id, again.info.status) == (whole.info.run_id, "FINISHED")


def test_a_failed_import_takes_back_what_it_made(
    sweep: tuple[Path, str, Path], there: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ConfigError("the store does not take it")

    before = len(opened(there).search())
    changed(run / "run.json", lambda node: {**node, "name": "other"})
    monkeypatch.setattr("pipeline.tracking.run_logger.RunLogger.file", refuse)
    assert main(["import", "--from", str(resealed(run)), "--uri", uri(there)]) == 2
    assert len(opened(there).search()) == before


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def linked(path: Path) -> None:
    shutil.copy(path, path.parent.parent / "elsewhere")
    path.unlink()
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.parametrize("harm", [flipped, truncated, Path.unlink, linked])
def test_harm_to_any_file_is_named(run: Path, harm: Callable[[Path], None], tmp_path: Path) -> None:
    names = sorted(content(run))
    assert len(names) >= 11
    for name in names:
        folder = copied(run, tmp_path / f"harm-{name}")
        harm(folder / name)
        with pytest.raises(ConfigError) as told:
            exchange.verify(folder)
        assert name in str(told.value)
        assert "\n" not in str(told.value)


def swap(a: str, b: str) -> Callable[[Path], object]:
    def harm(folder: Path) -> None:
        one, other = (folder / a).read_bytes(), (folder / b).read_bytes()
        (folder / a).write_bytes(other)
        (folder / b).write_bytes(one)

    return harm


HARM: list[tuple[Callable[[Path], object], str]] = [
    (swap("records.parquet", "chain.parquet"), "chain.parquet: was changed"),
    (swap("theory.json", "packages.txt"), "packages.txt: was changed"),
    (lambda f: (f / "added.txt").write_text("x"), "added.txt: was added"),
    (lambda f: (f / ".hidden").write_text("x"), ".hidden: was added"),
    (lambda f: (f / "RUN.JSON").write_text("x"), "RUN.JSON: was added"),
    (lambda f: (f / "a\x1b[31mb\n").write_text("x"), "a�[31mb�: was added"),
    (lambda f: (f / "empty").mkdir(), "empty: is a folder that is none of the export"),
    (lambda f: os.mkfifo(f / "pipe"), "pipe: is a special file"),
    (lambda f: (f / "link").symlink_to("/etc/passwd"), "link: is a link"),
    (lambda f: (f / "runs").symlink_to(f), "runs: is a link"),
    (lambda f: (f / MANIFEST_FILE).write_text("{}"), "manifest.json: "),
    (lambda f: (f / MANIFEST_FILE).write_text("[" * 100_000), "manifest.json: "),
    (lambda f: (f / MANIFEST_FILE).write_bytes(b"\xff\xfe"), "manifest.json: must be UTF-8"),
    (lambda f: changed(f / MANIFEST_FILE, lambda m: {**m, "seal": "0" * 64}), "manifest.json: was changed"),
    (lambda f: changed(f / MANIFEST_FILE, lambda m: {**m, "id": "0" * 32}), "manifest.json: was changed"),
    (lambda f: changed(f / MANIFEST_FILE, lambda m: {**m, "format": 2}), "format=2: this version reads format 1"),
    (lambda f: changed(f / MANIFEST_FILE, lambda m: {**m, "more": 1}), "manifest.json: more: "),
    (
        lambda f: (f / MANIFEST_FILE).write_text((f / MANIFEST_FILE).read_text().replace("\n", "\n ")),
        "manifest.json: was changed",
    ),
]


@pytest.mark.parametrize(("harm", "says"), HARM)
def test_other_harm_is_named(run: Path, harm: Callable[[Path], object], says: str) -> None:
    harm(run)
    with pytest.raises(ConfigError) as told:
        exchange.verify(run)
    assert says in str(told.value)


def rewritten(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_parquet(path)).to_parquet(path, index=False)


def other_digest(table: pd.DataFrame) -> pd.DataFrame:
    at = table.index[table["quantity"] == "W"][0]
    table.loc[at, "digest"] = "00" + str(table.loc[at, "digest"])[2:]
    return table


FORGED: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: rewritten(f / "chain.parquet", other_digest), "the link of step 0, replicate 0 does not follow"),
    (lambda f: rewritten(f / "chain.parquet", lambda t: t[t["step"] <= 0]), "chain.parquet: its head is"),
    (lambda f: rewritten(f / "chain.parquet", lambda t: t.iloc[1:]), "chain.parquet: rows are missing"),
    (lambda f: rewritten(f / "chain.parquet", lambda t: t.assign(norm=1.0)), "chain.parquet: its norms are not"),
    (lambda f: (f / "chain.parquet").unlink(), "chain.parquet: is missing"),
    (lambda f: (f / "metrics.parquet").unlink(), "metrics.parquet: is missing"),
    (lambda f: (f / "records.parquet").write_bytes(b"PAR1"), "records.parquet: is not readable parquet"),
    (lambda f: (f / "config.yaml").write_text("- 1"), "config.yaml: must hold a mapping"),
    (lambda f: (f / "report.html").write_text("<script>alert(1)</script>"), "report.html: is not a page"),
    (
        lambda f: (f / "report.html").write_text((f / "report.html").read_text() + "<script>alert(1)</script>"),
        "report.html: is not a page",
    ),
    (lambda f: (f / "delta_rms_layer_by_step.png").write_text("<svg onload=alert(1)>"), "png: is no picture"),
    (lambda f: changed(f / "run.json", lambda r: {**r, "status": "RUNNING"}), "run.json: status"),
    (lambda f: changed(f / "run.json", lambda r: {**r, "start": 10**30}), "run.json: start"),
    (lambda f: changed(f / "run.json", lambda r: {**r, "params": {"../../x": "1"}}), "run.json: params"),
    (lambda f: changed(f / "run.json", lambda r: {**r, "end": r["start"] - 1}), "run.json: end="),
    (lambda f: (f / "evil.html").write_text("x"), "evil.html: names no file of an export"),
]


@pytest.mark.parametrize(("harm", "says"), FORGED)
def test_a_forged_manifest_does_not_help(run: Path, harm: Callable[[Path], object], says: str) -> None:
    """A forger who seals the folder anew is caught where what is in it does not hold together."""
    harm(run)
    with pytest.raises(ConfigError) as told:
        exchange.verify(resealed(run))
    assert says in str(told.value)


def test_only_a_seal_told_elsewhere_tells_a_good_forgery(run: Path) -> None:
    seal = seal_of(run)
    exchange.verify(run, seal)
    exchange.verify(run, seal[:16])
    changed(run / "run.json", lambda node: {**node, "name": "better"})
    resealed(run)
    exchange.verify(run)  # nothing in it contradicts itself
    with pytest.raises(ConfigError, match="it is not the export you mean"):
        exchange.verify(run, seal)
    for short in ("", seal_of(run)[:15]):
        with pytest.raises(ConfigError, match="SEAL="):
            exchange.verify(run, short)


def test_a_run_of_another_id_is_noticed(run: Path) -> None:
    resealed(run, name="f" * 32)
    with pytest.raises(ConfigError, match=r"run\.json: is of another run"):
        exchange.verify(run)


def test_harm_to_a_sweep_is_named(sweep: tuple[Path, str, Path], tmp_path: Path) -> None:
    def runs(folder: Path) -> list[Path]:
        return sorted((folder / "runs").iterdir())

    def swapped(folder: Path) -> None:
        one, other = runs(folder)
        one.rename(folder / "aside")
        other.rename(one)
        (folder / "aside").rename(other)

    harms: list[tuple[Callable[[Path], object], str]] = [
        (swapped, "was changed"),
        (lambda f: shutil.rmtree(runs(f)[0]), "is missing"),
        (lambda f: shutil.copytree(runs(f)[0], f / "runs" / ("0" * 32)), "was added"),
        (lambda f: shutil.copytree(runs(f)[0], f / "runs" / "x"), "is a folder that is none"),
        (lambda f: (f / "sweep.csv").write_text("run_id\n"), "sweep.csv: was changed"),
        (lambda f: (runs(f)[1] / "theory.json").write_text("{}"), "/theory.json: was changed"),
        (lambda f: (runs(f)[1] / MANIFEST_FILE).unlink(), f"/{MANIFEST_FILE}: is missing"),
    ]
    for number, (harm, says) in enumerate(harms):
        folder = copied(sweep[2], tmp_path / str(number))
        harm(folder)
        with pytest.raises(ConfigError) as told:
            exchange.verify(folder)
        assert says in str(told.value)


def test_a_forged_sweep_that_claims_other_runs(sweep: tuple[Path, str, Path], tmp_path: Path) -> None:
    folder = copied(sweep[2], tmp_path / "sweep")
    changed(folder / "sweep.json", lambda node: {**node, "runs": node["runs"][:1]})
    with pytest.raises(ConfigError, match="its runs are not those in runs/"):
        exchange.verify(resealed(folder, "sweep", name=sweep[1], head="x"))


def test_nothing_is_written_over(sweep: tuple[Path, str, Path], run: Path, tmp_path: Path) -> None:
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


def test_a_run_that_has_not_ended_is_not_exported(
    sweep: tuple[Path, str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = opened(sweep[0])
    log = store.start("unfinished", {})
    argv = ["export", "--run", log.run_id, "--to", str(tmp_path / "out"), "--uri", uri(sweep[0])]
    assert main(argv) == 2
    assert "is RUNNING" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    log.end("FAILED")
    assert main(argv) == 0  # a failed run has little, and that is exported
    exchange.verify(tmp_path / "out")
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_full_disk_leaves_nothing(
    sweep: tuple[Path, str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["export", "--sweep", sweep[1], "--to", str(tmp_path / "out"), "--uri", uri(sweep[0])]
    for kilobytes in (100, 150, 200, 250):  # full in the middle of one file or another
        with small_disk(tmp_path, kilobytes / 1024):
            assert main(argv) == 2
            assert "the disk is full" in capsys.readouterr().err
            assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
def test_a_killed_export_leaves_no_folder(sweep: tuple[Path, str, Path], tmp_path: Path) -> None:
    argv = ["export", "--sweep", sweep[1], "--to", str(tmp_path / "out"), "--uri", uri(sweep[0])]
    killed("exchange.facts", "SweepFacts", "text", "", *argv)
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".part")
    living = tmp_path / ".out.0.part"  # of an export that is at work
    living.mkdir()
    with _held(living):
        assert main(argv) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"out", living.name}
    exchange.verify(tmp_path / "out")


def test_an_export_keeps_no_address(run: Path) -> None:
    overrides = json.loads((run / "run.json").read_text())["tags"]["overrides"]
    assert overrides == " ".join(OVERRIDES)
    assert b"sqlite" not in b"".join(data for name, data in content(run).items() if name != "uncommitted.patch")
