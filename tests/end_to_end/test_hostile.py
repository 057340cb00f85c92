"""A thousand invalid and hostile configs, overrides and folders: no traceback, no write outside, no code is run.

``GRADVITALS_FUZZ=<number>`` sets the seed; a failure names the seed and the case.
"""

from __future__ import annotations

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
from support import hostile
from support.audit import watched
from support.commands import invoke
from support.exported import content, uri, with_new_manifest

from pipeline.cli import main
from pipeline.config import schema as configs
from pipeline.config.compose import compose_run
from pipeline.errors import ConfigError
from pipeline.paths import CONF
from pipeline.reproducibility.exchange.manifest import MANIFEST_FILE
from pipeline.reproducibility.run_source import ReplayRun, find
from pipeline.tracking.artifact_parsers import parse_config
from pipeline.tracking.logged_run import FolderFiles, LoggedRun
from pipeline.tracking.safe_reading import parse_yaml, read_table, read_text
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.training import array_files
from pipeline.training.prepare import prepare_run

pytestmark = pytest.mark.xdist_group("hostile")

SEED = int(os.environ.get("GRADVITALS_FUZZ", "0"))
TIMES = 4 if os.environ.get("GRADVITALS_REQUIRE_ALL") else 1
CASES = {"configs": 140, "texts": 40, "overrides": 20, "folders": 75, "tables": 25, "artifacts": 3}
CASES = {what: count * TIMES for what, count in CASES.items()}
GROUPS = sorted(p.name for p in CONF.iterdir() if p.is_dir())


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    raw_config = compose_run(["experiment=smoke", "optimizer=momentum", "tracking.uri=sqlite:////nowhere"])
    return {key: value for key, value in raw_config.items() if key != "tracking"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a store's folder, and the folder of a run exported from it."""
    folder = tmp_path_factory.mktemp("origin")
    overrides = ["experiment=smoke", "schedule@chain.schedule=every", "activation=tanh", f"tracking.uri={uri(folder)}"]
    assert invoke("run", *overrides).code == 0
    (run,) = Store.open(TrackingConfig(uri(folder), "gradvitals")).search()
    assert main(["export", "--run", run.info.run_id, "--to", str(folder / "out"), "--uri", uri(folder)]) == 0
    return folder, folder / "out"


@pytest.fixture
def arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arena]:
    """Yield folders to work in, and check at the end that no other file was written."""
    arena = Arena(tmp_path)
    monkeypatch.syspath_prepend(str(arena.outside))
    monkeypatch.chdir(arena.outside)
    monkeypatch.setenv("HOME", str(arena.outside))
    monkeypatch.setattr(tempfile, "tempdir", str(arena.inside))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = content(arena.outside)
    with watched(arena.inside) as violations:
        arena.violations = violations
        yield arena
    assert violations == []
    assert content(arena.outside) == before
    assert hostile.MODULE not in sys.modules


class Arena:
    """The folders of a test.

    Attributes:
        inside: The folder that may be written to.
        outside: The working directory, with a module that must not be imported.
        mark: A file that this module writes when its code is run.
    """

    def __init__(self, folder: Path) -> None:
        self.inside, self.outside = folder / "inside", folder / "outside"
        self.inside.mkdir()
        self.outside.mkdir()
        self.mark = hostile.plant(self.outside)
        (self.outside / "secret").write_text("secret")
        self.violations: list[str] = []

    def case(self, what: str, number: int, action: Callable[[], object]) -> None:
        """Run an action, which may raise a ConfigError and nothing else."""
        name = f"GRADVITALS_FUZZ={SEED} {what} {number}"
        try:
            action()
        except ConfigError:
            pass
        except Exception as bug:
            raise AssertionError(f"{name}: {type(bug).__name__}: {bug}") from bug
        assert not self.violations, f"{name}: {self.violations}"
        assert not self.mark.exists(), f"{name}: code was run"


def draw(what: str, number: int) -> random.Random:
    return random.Random(f"{SEED} {what} {number}")


def exit_code(argv: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    """Run a command and return its exit code; an exit code of 2 comes with one line on stderr."""
    code = main(argv)
    printed = capsys.readouterr()
    assert code in (0, 1, 2), argv
    assert "Traceback" not in printed.out + printed.err
    if code == 2:
        assert printed.err.startswith("error: "), printed.err
        assert len(printed.err.splitlines()) == 1, printed.err
        assert all(c.isprintable() for c in printed.err[:-1])
    return code


def build(raw_config: dict[str, Any]) -> bool:
    """Build and prepare a config, as every reader of a logged config does."""
    config = configs.build(raw_config, configs.OWN_PACKAGES)
    if config.replicates <= 100:
        prepare_run(config)
    return True


def test_hostile_configs_are_refused(base: dict[str, Any], arena: Arena) -> None:
    accepted: list[bool] = []
    for number in range(CASES["configs"]):
        raw_config = hostile.config(draw("config", number), base, arena.mark)
        arena.case("config", number, lambda config=raw_config: accepted.append(build(config)))  # type: ignore[misc]
    assert len(accepted) < CASES["configs"] / 2  # most generated configs are invalid


def test_hostile_yaml_is_refused(base: dict[str, Any], arena: Arena) -> None:
    """YAML from a store or a folder, with changes from the command line."""

    def build_text(rng: random.Random, text: str) -> None:
        changes = [f"{rng.choice(list(base))}={rng.choice(hostile.WORDS)}"] if rng.random() < 0.3 else []
        build(parse_config(text, changes))

    for text in hostile.YAML:
        with pytest.raises(ConfigError):
            build(parse_config(text, ()))
    for number in range(CASES["texts"] - len(hostile.YAML)):
        rng = draw("text", number)
        text = hostile.text(rng, hostile.config(rng, base, arena.mark))
        arena.case("text", number, lambda rng=rng, text=text: build_text(rng, text))  # type: ignore[misc]


def test_hostile_overrides_are_refused(base: dict[str, Any], arena: Arena, capsys: pytest.CaptureFixture[str]) -> None:
    """Overrides go through the whole command."""
    keys = [".".join(map(str, place)) for place in hostile.places(base)]
    for number in range(CASES["overrides"]):
        rng = draw("override", number)
        overrides = hostile.overrides(rng, keys, GROUPS)
        argv = ["show", *overrides] if rng.random() < 0.7 else ["sweep", "experiment=smoke", "nonsense=1", *overrides]
        arena.case("override", number, lambda argv=argv: exit_code(argv, capsys))  # type: ignore[misc]


@pytest.mark.thorough
def test_damaged_folders_are_refused(
    exported: tuple[Path, Path], arena: Arena, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exported folders are damaged; half of them get a new manifest."""
    tracking = TrackingConfig(uri(exported[0]), "gradvitals")
    original = arena.inside / "original"
    shutil.copytree(exported[1], original)
    verified = 0
    for number in range(CASES["folders"]):
        rng = draw("folder", number)
        folder = arena.inside / "case"
        shutil.copytree(original, folder)
        for _ in range(rng.randint(1, 3)):
            hostile.damage(rng, folder, arena.outside, arena.mark)
        if rng.random() < 0.5:
            forge(folder)
        code = [2]
        argv = ["verify", "--from", str(folder)]
        arena.case("folder", number, lambda argv=argv, code=code: code.append(exit_code(argv, capsys)))  # type: ignore[misc]
        if code[-1] == 0:
            verified += 1
            arena.case("folder", number, lambda folder=folder: read_all(find(str(folder), tracking)))  # type: ignore[misc]
        shutil.rmtree(folder)
    assert 0 < verified < CASES["folders"] / 2


def forge(folder: Path) -> None:
    """Write a new manifest, if run.json is still readable."""
    if (folder / "run.json").is_symlink() or not (folder / "run.json").is_file():
        return
    try:
        with_new_manifest(folder)
    except (ConfigError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return


@pytest.mark.thorough
def test_consistent_forgery_has_no_effect_in_store(
    exported: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, arena: Arena
) -> None:
    """Tags of a forged folder have no meaning in the store that imports it."""
    folder = arena.inside / "forged"
    shutil.copytree(exported[1], folder)
    facts = json.loads((folder / "run.json").read_text())
    evil = "**bold** <script>alert(1)</script> ```\n# head\n[x](javascript:alert(1)) \x1b[31m"
    facts["note"], facts["name"] = evil, evil.replace("\n", " ")
    facts["tags"] |= {
        "mlflow.note.content": evil,
        "mlflow.user": "root",
        "mlflow.parentRunId": "0" * 32,
        f"mlflow.cell.{json.loads((folder / 'provenance.json').read_text())['cell'][:32]}": "1",
        "sweep": "mine-12345678",
        "kind": "sweep",
        "sweep_summary": "mine-12345678",
        "lease": "x",
        "imported.seal": "0" * 64,
        "verdict_paragraph": evil,
        "a/b": evil,
    }
    (folder / "run.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    with_new_manifest(folder)
    place = arena.inside / "store"
    place.mkdir()
    assert main(["import", "--from", str(folder), "--uri", uri(place)]) == 0
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


def test_damaged_tables_are_refused(exported: tuple[Path, Path], arena: Arena) -> None:
    """Random bytes of parquet and npz files are changed."""
    records = (exported[1] / "records.parquet").read_bytes()
    array_files.write(arena.inside / "state.npz", {"theta": np.arange(100.0)}, {"about": [1, 2, 3]})
    packed = (arena.inside / "state.npz").read_bytes()
    path = arena.inside / "file"

    def read(number: int) -> None:
        if number % 4:
            read_table(path)
            return
        try:
            array_files.read(path)
        except array_files.CorruptFileError as error:
            raise ConfigError(str(error)) from error

    for number in range(CASES["tables"]):
        rng = draw("table", number)
        data = bytearray(records if number % 4 else packed)
        for _ in range(rng.randint(1, 10)):
            at = rng.randrange(len(data) - 600, len(data)) if rng.random() < 0.7 else rng.randrange(len(data))
            data[at] = rng.randrange(256)
        path.write_bytes(bytes(data[: rng.choice([len(data), rng.randrange(len(data))])]))
        arena.case("table", number, lambda number=number: read(number))  # type: ignore[misc]


def test_no_pickle_is_loaded(exported: tuple[Path, Path], arena: Arena) -> None:
    """Pickles hidden in npz objects, extension types and pandas metadata of parquet are not loaded."""
    evil = hostile.pickled(arena.mark)
    path = arena.inside / "file"
    with path.open("wb") as file:
        np.savez(file, about=np.array([hostile.Marked(str(arena.mark))], dtype=object))
    with pytest.raises(array_files.CorruptFileError):
        array_files.read(path)
    table = pq.read_table(exported[1] / "records.parquet")
    pandas_metadata = json.loads(table.schema.metadata[b"pandas"])
    pandas_metadata["columns"][0] |= {"numpy_type": "object", "pandas_type": "bytes"}
    pandas_metadata["index_columns"] = ["step"]
    metadata = {b"pandas": json.dumps(pandas_metadata).encode(), b"pickle": evil}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    assert list(read_table(path).columns) == ["step", "probe", "layer", "replicate", "bin", "value"]
    extension = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": evil}
    schema = pa.schema([f.with_metadata(extension) if f.name == "value" else f for f in table.schema])
    pq.write_table(table.cast(schema), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickle, "loads", lambda *_: pytest.fail("pickle.loads"))
        arena.case("pickle", 0, lambda: read_table(path))


def write_bomb(path: Path, rows: int, word: str = "x") -> None:
    """Write a small file of many rows."""
    probe = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array([word]))
    zeros = pa.array(np.zeros(rows, dtype=np.int64))
    columns = {"step": zeros, "probe": probe, "layer": zeros, "replicate": zeros, "bin": zeros}
    pq.write_table(pa.table(columns | {"value": pa.array(np.zeros(rows))}), path, store_schema=False)


def test_decompression_bombs_are_refused(tmp_path: Path) -> None:
    """Small files with large contents are refused before they are read."""
    path = tmp_path / "records.parquet"
    write_bomb(path, 1_000_000)
    assert path.stat().st_size < 50_000
    assert len(read_table(path)) == 1_000_000
    with pytest.raises(ConfigError, match="1000000 rows need"):
        read_table(path, most_bytes=100_000_000)
    write_bomb(path, 1000, "x" * 2000)
    with pytest.raises(ConfigError, match="a text of 2000 bytes"):
        read_table(path)
    with pytest.raises(ConfigError, match="at most 10 are read"):
        read_text(path, 10)


def test_path_adds_no_column_to_table(tmp_path: Path, exported: tuple[Path, Path]) -> None:
    """By default Arrow reads key=value in a path as a column."""
    folder = tmp_path / "step=7" / "probe=evil"
    folder.mkdir(parents=True)
    shutil.copy(exported[1] / "records.parquet", folder)
    pd.testing.assert_frame_equal(
        read_table(folder / "records.parquet"), pd.read_parquet(exported[1] / "records.parquet"), check_dtype=False
    )


def test_invalid_plain_data_is_reported() -> None:
    for text, message in (
        ("a: ${b}", "must be resolved"),
        ("a: 2001-01-01", "not date"),
        ("1: a", "keys must be texts"),
        (hostile.YAML[8], "more than 100000 values"),
        ("a: " + "[" * 50 + "]" * 50, "or 40 levels"),
    ):
        with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
            parse_yaml(text, "config.yaml")


def test_report_survives_hostile_artifacts(exported: tuple[Path, Path], base: dict[str, Any], arena: Arena) -> None:
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


def read_all(run: ReplayRun) -> None:
    """Read every part of a run."""
    run.raw_config()
    assert run.chain is not None or run.integrity_errors or run.tags
    assert len(run.records) + len(run.packages) + len(run.patch) >= 0


def page(artifacts: Path, facts: dict[str, Any]) -> None:
    """Build the report of a run from its files."""
    from pipeline.reports.run_report import page_of

    files = FolderFiles(artifacts)
    html = page_of(LoggedRun(facts["run_id"], "x", "FINISHED", "", facts["tags"], facts["params"], {}, files))
    assert "<script" not in html
