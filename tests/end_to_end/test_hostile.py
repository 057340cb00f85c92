"""A thousand wrong and hostile configs, overrides and folders: no traceback, no write outside, no code run.

``GRADVITALS_FUZZ=<number>`` draws others; a failure names the number and the case.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from support import hostile
from support.audit import watched
from support.exported import content, resealed, uri
from support.stores import empty

from pipeline.cli import main
from pipeline.config import schema as configs
from pipeline.config.compose import compose_run
from pipeline.errors import ConfigError
from pipeline.paths import CONF
from pipeline.reproducibility.exchange.manifest import MANIFEST_FILE
from pipeline.reproducibility.run_source import ReplayRun, find
from pipeline.sweeps.single import single
from pipeline.tracking.artifact_parsers import parse_config
from pipeline.tracking.logged_run import FolderFiles, LoggedRun
from pipeline.tracking.safe_reading import parse_yaml, read_table, read_text
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.training import array_files
from pipeline.training.prepare import prepare_run

SEED = int(os.environ.get("GRADVITALS_FUZZ", "0"))
TIMES = 4 if os.environ.get("GRADVITALS_REQUIRE_ALL") else 1
CASES = {"configs": 140, "texts": 40, "overrides": 20, "folders": 75, "tables": 25, "artifacts": 3}
CASES = {what: count * TIMES for what, count in CASES.items()}
GROUPS = sorted(p.name for p in CONF.iterdir() if p.is_dir())


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    node = compose_run(["experiment=smoke", "optimizer=momentum", "tracking.uri=sqlite:////nowhere"])
    return {key: value for key, value in node.items() if key != "tracking"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store's folder, and a run of it exported."""
    folder = tmp_path_factory.mktemp("here")
    overrides = ["experiment=smoke", "schedule@chain.schedule=every", "activation=tanh"]
    overrides += [f"tracking.uri={empty(uri(folder))}"]
    assert single(overrides, None, True, Console(file=io.StringIO())) == 0
    (run,) = Store.open(TrackingConfig(uri(folder), "gradvitals")).search()
    assert main(["export", "--run", run.info.run_id, "--to", str(folder / "out"), "--uri", uri(folder)]) == 0
    return folder, folder / "out"


@pytest.fixture
def arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arena]:
    """Where the fuzz may write, and what it must not touch; told at the end if it did."""
    found = Arena(tmp_path)
    monkeypatch.syspath_prepend(str(found.outside))
    monkeypatch.chdir(found.outside)
    monkeypatch.setenv("HOME", str(found.outside))
    monkeypatch.setattr(tempfile, "tempdir", str(found.inside))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = content(found.outside)
    with watched(found.inside) as done:
        found.done = done
        yield found
    assert done == []
    assert content(found.outside) == before
    assert hostile.MODULE not in sys.modules


class Arena:
    """Two folders.

    Attributes:
        inside: may be written to.
        outside: the current folder, with a module in it that must not be imported.
        mark: is there when code was run.
    """

    def __init__(self, folder: Path) -> None:
        self.inside, self.outside = folder / "inside", folder / "outside"
        self.inside.mkdir()
        self.outside.mkdir()
        self.mark = hostile.plant(self.outside)
        (self.outside / "secret").write_text("secret")
        self.done: list[str] = []

    def case(self, what: str, number: int, try_it: Callable[[], object]) -> None:
        """Nothing but a ConfigError of one line may come of it, or all is well."""
        name = f"GRADVITALS_FUZZ={SEED} {what} {number}"
        try:
            try_it()
        except ConfigError:
            pass
        except Exception as bug:
            raise AssertionError(f"{name}: {type(bug).__name__}: {bug}") from bug
        assert not self.done, f"{name}: {self.done}"
        assert not self.mark.exists(), f"{name}: code was run"


def draw(what: str, number: int) -> random.Random:
    return random.Random(f"{SEED} {what} {number}")


def runs(argv: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    """The exit code of a command, which says one line if it is 2."""
    code = main(argv)
    told = capsys.readouterr()
    assert code in (0, 1, 2), argv
    assert "Traceback" not in told.out + told.err
    if code == 2:
        assert told.err.startswith("error: "), told.err
        assert len(told.err.splitlines()) == 1, told.err
        assert all(c.isprintable() for c in told.err[:-1])
    return code


def built(node: dict[str, Any]) -> bool:
    """What every reader of a logged config does with it; training it would be its owner's wish."""
    config = configs.build(node, configs.OWN_PACKAGES)
    if config.replicates <= 100:
        prepare_run(config)
    return True


def test_configs(base: dict[str, Any], arena: Arena) -> None:
    stood = []
    for number in range(CASES["configs"]):
        node = hostile.config(draw("config", number), base, arena.mark)
        arena.case("config", number, lambda node=node: stood.append(built(node)))  # type: ignore[misc]
    assert len(stood) < CASES["configs"] / 2  # most of what is made up is indeed wrong


def test_texts(base: dict[str, Any], arena: Arena) -> None:
    """YAML as it may stand in a store or a folder, with changes made on the command line."""

    def try_it(rng: random.Random, text: str) -> None:
        changes = [f"{rng.choice(list(base))}={rng.choice(hostile.WORDS)}"] if rng.random() < 0.3 else []
        built(parse_config(text, changes))

    for text in hostile.YAML:
        with pytest.raises(ConfigError):
            built(parse_config(text, ()))
    for number in range(CASES["texts"] - len(hostile.YAML)):
        rng = draw("text", number)
        text = hostile.text(rng, hostile.config(rng, base, arena.mark))
        arena.case("text", number, lambda rng=rng, text=text: try_it(rng, text))  # type: ignore[misc]


def test_overrides(base: dict[str, Any], arena: Arena, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the whole command: composed, checked, told in one line."""
    keys = [".".join(map(str, place)) for place in hostile.places(base)]
    for number in range(CASES["overrides"]):
        rng = draw("override", number)
        wrong = hostile.overrides(rng, keys, GROUPS)
        argv = ["show", *wrong] if rng.random() < 0.7 else ["sweep", "experiment=smoke", "nonsense=1", *wrong]
        arena.case("override", number, lambda argv=argv: runs(argv, capsys))  # type: ignore[misc]


def read_all(run: ReplayRun) -> None:
    """Read every part of a run."""
    run.raw_config()
    assert run.chain is not None or run.integrity_errors or run.tags
    assert len(run.records) + len(run.packages) + len(run.patch) >= 0


def test_folders(exported: tuple[Path, Path], arena: Arena, capsys: pytest.CaptureFixture[str]) -> None:
    """Exported folders with harm done to them, half of them sealed anew by their forger."""
    tracking = TrackingConfig(uri(exported[0]), "gradvitals")
    whole = arena.inside / "whole"
    shutil.copytree(exported[1], whole)
    passed = 0
    for number in range(CASES["folders"]):
        rng = draw("folder", number)
        folder = arena.inside / "case"
        shutil.copytree(whole, folder)
        for _ in range(rng.randint(1, 3)):
            hostile.harm(rng, folder, arena.outside, arena.mark)
        if rng.random() < 0.5:
            forge(folder)
        code = [2]
        argv = ["verify", "--from", str(folder)]
        arena.case("folder", number, lambda argv=argv, code=code: code.append(runs(argv, capsys)))  # type: ignore[misc]
        if code[-1] == 0:
            passed += 1
            arena.case("folder", number, lambda folder=folder: read_all(find(str(folder), tracking)))  # type: ignore[misc]
        shutil.rmtree(folder)
    assert 0 < passed < CASES["folders"] / 2


def forge(folder: Path) -> None:
    """A new manifest, if there is enough left to make one from."""
    if (folder / "run.json").is_symlink() or not (folder / "run.json").is_file():
        return
    try:
        resealed(folder)
    except (ConfigError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return


def test_forged_folders_that_hold_together(
    exported: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, arena: Arena
) -> None:
    """What a careful forger brings into a store means nothing there."""
    folder = arena.inside / "forged"
    shutil.copytree(exported[1], folder)
    facts = json.loads((folder / "run.json").read_text())
    evil = "**bold** <script>alert(1)</script> ```\n# head\n[x](javascript:alert(1)) \x1b[31m"
    facts["note"], facts["name"] = evil, evil.replace("\n", " ")
    facts["tags"] |= {
        "mlflow.note.content": evil,
        "mlflow.user": "root",
        "mlflow.parentRunId": "0" * 32,
        f"mlflow.cell.{facts['tags']['cell'][:32]}": "1",
        "sweep": "mine-12345678",
        "kind": "sweep",
        "sweep_summary": "mine-12345678",
        "lease": "x",
        "imported.seal": "0" * 64,
        "verdict_paragraph": evil,
        "a/b": evil,
    }
    (folder / "run.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    resealed(folder)
    place = arena.inside / "store"
    place.mkdir()
    assert main(["import", "--from", str(folder), "--uri", empty(uri(place))]) == 0
    store = Store.open(TrackingConfig(uri(place), "gradvitals"))
    (run,) = store.search()
    tags = run.data.tags
    assert (tags["kind"], tags["imported.sweep"], tags["imported.seal"]) == (
        "run",
        "mine-12345678",
        json.loads((folder / MANIFEST_FILE).read_text())["seal"],
    )
    assert not {"sweep", "sweep_summary", "mlflow.user", "mlflow.parentRunId"} & set(tags)
    assert not [key for key in tags if key.startswith("mlflow.cell.")]
    note = tags["mlflow.note.content"]
    before, fence, rest = note.partition("```\n")
    assert before.startswith("**Imported from a folder**")
    assert fence
    assert rest.count("`") == 3
    assert rest.endswith("\n```")
    assert not set("<>&\x1b") & set(note)
    page = arena.inside / "page.html"
    assert main(["report", "--run", run.info.run_id, "--to", str(page), "--uri", uri(place)]) == 0
    assert "<script" not in page.read_text()


def test_tables(exported: tuple[Path, Path], arena: Arena) -> None:
    """Parquet files and our own npz with bytes changed at random."""
    records = (exported[1] / "records.parquet").read_bytes()
    array_files.write(arena.inside / "state.npz", {"theta": np.arange(100.0)}, {"about": [1, 2, 3]})
    packed = (arena.inside / "state.npz").read_bytes()
    path = arena.inside / "file"

    def try_it(number: int) -> None:
        if number % 4:
            read_table(path)
            return
        try:
            array_files.read(path)
        except array_files.CorruptFileError as damaged:
            raise ConfigError(str(damaged)) from damaged

    for number in range(CASES["tables"]):
        rng = draw("table", number)
        data = bytearray(records if number % 4 else packed)
        for _ in range(rng.randint(1, 10)):
            at = rng.randrange(len(data) - 600, len(data)) if rng.random() < 0.7 else rng.randrange(len(data))
            data[at] = rng.randrange(256)
        path.write_bytes(bytes(data[: rng.choice([len(data), rng.randrange(len(data))])]))
        arena.case("table", number, lambda number=number: try_it(number))  # type: ignore[misc]


def test_no_pickle_is_loaded(exported: tuple[Path, Path], arena: Arena) -> None:
    """Where pickles have been smuggled in elsewhere: npz objects, extension types and pandas notes of parquet."""
    evil = hostile.pickled(arena.mark)
    path = arena.inside / "file"
    with path.open("wb") as file:
        np.savez(file, about=np.array([hostile.Marked(str(arena.mark))], dtype=object))
    with pytest.raises(array_files.CorruptFileError):
        array_files.read(path)
    table = pq.read_table(exported[1] / "records.parquet")
    pandas_note = json.loads(table.schema.metadata[b"pandas"])
    pandas_note["columns"][0] |= {"numpy_type": "object", "pandas_type": "bytes"}
    pandas_note["index_columns"] = ["step"]
    note = {b"pandas": json.dumps(pandas_note).encode(), b"pickle": evil}
    pq.write_table(table.replace_schema_metadata(note), path)
    assert list(read_table(path).columns) == ["step", "probe", "layer", "replicate", "bin", "value"]
    extension = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": evil}
    schema = pa.schema([f.with_metadata(extension) if f.name == "value" else f for f in table.schema])
    pq.write_table(table.cast(schema), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickle, "loads", lambda *_: pytest.fail("pickle.loads"))
        arena.case("pickle", 0, lambda: read_table(path))


def bomb(path: Path, rows: int, word: str = "x") -> None:
    """A small file of many rows."""
    probe = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array([word]))
    zeros = pa.array(np.zeros(rows, dtype=np.int64))
    columns = {"step": zeros, "probe": probe, "layer": zeros, "replicate": zeros, "bin": zeros}
    pq.write_table(pa.table(columns | {"value": pa.array(np.zeros(rows))}), path, store_schema=False)


def test_bombs(tmp_path: Path) -> None:
    """Small files that would become large are refused before they do."""
    path = tmp_path / "records.parquet"
    bomb(path, 1_000_000)
    assert path.stat().st_size < 50_000
    assert len(read_table(path)) == 1_000_000
    with pytest.raises(ConfigError, match="1000000 rows need"):
        read_table(path, most_bytes=100_000_000)
    bomb(path, 1000, "x" * 2000)
    with pytest.raises(ConfigError, match="a text of 2000 bytes"):
        read_table(path)
    with pytest.raises(ConfigError, match="at most 10 are read"):
        read_text(path, 10)


def test_the_folder_of_a_path_is_no_column(tmp_path: Path, exported: tuple[Path, Path]) -> None:
    """Arrow reads key=value in a path as a column, if it is let."""
    folder = tmp_path / "step=7" / "probe=evil"
    folder.mkdir(parents=True)
    shutil.copy(exported[1] / "records.parquet", folder)
    pd.testing.assert_frame_equal(
        read_table(folder / "records.parquet"), pd.read_parquet(exported[1] / "records.parquet"), check_dtype=False
    )


def test_what_is_wrong_with_plain_data_is_said() -> None:
    for text, says in (
        ("a: ${b}", "must be resolved"),
        ("a: 2001-01-01", "not date"),
        ("1: a", "keys must be texts"),
        (hostile.YAML[8], "more than 100000 values"),
        ("a: " + "[" * 50 + "]" * 50, "or 40 levels"),
    ):
        with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
            parse_yaml(text, "config.yaml")


def test_artifacts(exported: tuple[Path, Path], base: dict[str, Any], arena: Arena) -> None:
    """The report trusts no artifact."""
    facts = json.loads((exported[1] / "run.json").read_text())
    artifacts = arena.inside / "artifacts"
    shutil.copytree(exported[1], artifacts)
    table = pd.read_parquet(exported[1] / "records.parquet")
    for number in range(CASES["artifacts"]):
        rng = draw("store", number)
        hostile.records(rng, table).to_parquet(artifacts / "records.parquet", index=False)
        text = hostile.text(rng, hostile.config(rng, base, arena.mark))
        (artifacts / "config.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
        for name in ("theory.json", "divergence.json"):
            (artifacts / name).write_text(json.dumps(hostile.value(rng, arena.mark), default=str))
        arena.case("store", number, lambda: page(artifacts, facts))


def page(artifacts: Path, facts: dict[str, Any]) -> None:
    """The report of a run's files."""
    from pipeline.reports.run_report import page_of

    files = FolderFiles(artifacts)
    html = page_of(LoggedRun(facts["run_id"], "x", "FINISHED", "", facts["tags"], facts["params"], {}, files))
    assert "<script" not in html
