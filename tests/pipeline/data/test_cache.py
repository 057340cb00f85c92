"""Tables are read once, data are prepared once, and several processes share them, with the same bytes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from support.commands import sweep_command
from support.configs import config, csv_source
from support.stores import uri

from pipeline.config.compose import compose_sweep
from pipeline.data.cache import MOST_TABLES, DataCache, TableCache
from pipeline.data.prepare import TABLES, DataConfig
from pipeline.data.prepared import Data
from pipeline.data.shared import SharedData, shared_data
from pipeline.data.synthetic import Point
from pipeline.data.table import Source, Table
from pipeline.errors import ConfigError
from pipeline.paths import PROJECT
from pipeline.sweeps.plan import plan_sweep
from pipeline.tracking.logged_run import LoggedRun
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.training import prepare as preparing
from pipeline.training.loop import train
from pipeline.training.prepare import CACHE, load_data, load_facts, prepare_run


@dataclass(frozen=True)
class Counted(Source):
    """Twenty rows and two classes. Each read is counted."""

    scale: float = 1.0
    draws: bool = False
    reads: ClassVar[list[float]] = []

    def load(self, rng: np.random.Generator) -> Table:
        self.reads.append(self.scale)
        x = np.arange(40.0).reshape(20, 2) * self.scale
        return Table(x + rng.random() if self.draws else x, np.arange(20) % 2, classes=2, test=5)


@pytest.fixture(autouse=True)
def empty_caches() -> Iterator[None]:
    for cache in (CACHE, TABLES):
        cache.clear()
    Counted.reads.clear()
    yield
    for cache in (CACHE, TABLES):
        cache.clear()


def split(source: Source, fraction: float | None = 0.25) -> DataConfig:
    return DataConfig(source, fraction, None, True)


def assert_same_data(first: Data, second: Data) -> None:
    assert (first.classes, first.digest) == (second.classes, second.digest)
    for name in ("x", "y", "train", "test"):
        a, b = getattr(first, name), getattr(second, name)
        assert (a.dtype, a.shape, a.strides, a.tobytes()) == (b.dtype, b.shape, b.strides, b.tobytes()), name


# Tables


def test_table_is_read_once_for_all_seeds_and_each_seed_has_its_split() -> None:
    data = [load_data(split(Counted()), seed, 1, "float64") for seed in range(8)]
    assert len(Counted.reads) == 1
    assert len({tuple(d.test[0]) for d in data}) > 4
    assert len({d.digest for d in data}) == 1


def test_data_do_not_depend_on_what_is_in_memory() -> None:
    warm = [load_data(split(Counted()), seed, 2, "float32") for seed in (5, 3)]
    CACHE.clear()
    TABLES.clear()
    cold = [load_data(split(Counted()), seed, 2, "float32") for seed in (3, 5)]
    assert_same_data(warm[0], cold[1])
    assert_same_data(warm[1], cold[0])


def test_at_most_two_tables_are_kept() -> None:
    tables, rng = TableCache(), np.random.default_rng(0)
    for scale in (1.0, 2.0, 1.0, 3.0, 1.0, 2.0):  # 3.0 replaces 2.0, which was used longer ago than 1.0
        tables.load(Counted(scale), rng)
    assert MOST_TABLES == 2
    assert Counted.reads == [1.0, 2.0, 3.0, 2.0]


def test_table_that_was_drawn_is_not_kept_even_if_the_source_does_not_say_so() -> None:
    data = [load_data(split(Counted(draws=True), None), seed, 1, "float64") for seed in (0, 1, 0)]
    assert data[0].digest == data[2].digest != data[1].digest
    assert len(Counted.reads) == 2


@pytest.mark.parametrize("change", ["content", "time"])
def test_changed_file_is_read_again(tmp_path: Path, change: str) -> None:
    path = tmp_path / "own.csv"
    pd.DataFrame({"a": range(8), "y": range(8)}).to_csv(path, index=False)
    source = split(csv_source(path, task="regression"))
    first = load_facts(source, 0, 1, "float64")
    if change == "content":
        pd.DataFrame({"a": range(9), "y": range(9)}).to_csv(path, index=False)
    else:
        text, stat = path.read_text(), path.stat()
        path.write_text(text.replace("7,7", "7,8"))  # of the same size
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert load_facts(source, 0, 1, "float64").digest != first.digest
    path.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        load_facts(source, 0, 1, "float64")
    path.mkdir()
    with pytest.raises(ConfigError, match="is a folder; must be a file"):
        load_facts(source, 0, 1, "float64")


def test_positive_and_negative_zero_are_different_data() -> None:
    digests = {load_facts(split(Point(((zero,), (1.0,)), ((1.0,), (2.0,)))), 0, 1, "float64").digest for zero in ZEROS}
    assert len(digests) == 2


ZEROS = (0.0, -0.0)


# Prepared data


def test_data_that_draw_nothing_are_prepared_once_for_all_seeds() -> None:
    assert load_data(split(Counted(), None), 0, 2, "float64") is load_data(split(Counted(), None), 9, 2, "float64")
    assert load_data(split(Counted()), 0, 2, "float64") is not load_data(split(Counted()), 9, 2, "float64")


def test_bytes_are_bounded_and_the_newest_data_are_kept() -> None:
    each = load_data(split(Counted()), 0, 1, "float64")
    cache = DataCache(most_bytes=2 * each.nbytes)
    for key in "ab":
        cache.put(key, each)
    cache.get("a")
    cache.put("c", each)
    assert [cache.get(key) is not None for key in "abc"] == [True, False, True]
    assert cache.facts("b") == each.facts
    small = DataCache(most_bytes=1)
    for key in "ab":
        small.put(key, each)
    assert [small.get(key) is not None for key in "ab"] == [False, True]


def test_check_prepares_each_data_once_in_any_order_of_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = DataCache(most_bytes=1)  # holds one
    monkeypatch.setattr(preparing, "CACHE", tiny)
    base = replace(config("data=iris", "batching=full_batch"), data=split(Counted(draws=True), None))
    for seed in (0, 1, 2, 1, 0, 2, 2, 1, 0):
        prepare_run(replace(base, seed=seed))
    assert len(Counted.reads) == 3


def test_facts_are_those_of_the_data() -> None:
    run = prepare_run(config("data=diabetes", "cost=half_squared_error", "activation@output=identity"))
    x, y, facts = run.data.x, run.data.y, run.facts
    assert (facts.inputs, facts.targets, facts.classes) == (x.shape[1], y.shape[1], None)
    assert (facts.train_examples, facts.digest) == (run.data.train.shape[1], run.data.digest)
    assert (facts.lowest_target, facts.highest_target, facts.is_finite) == (y.min(), y.max(), True)


# Files for several processes


@pytest.mark.parametrize("order", ["C", "F"])
def test_data_in_files_are_the_data_in_memory(order: str) -> None:
    data = load_data(split(Counted()), 3, 2, "float32")
    data = replace(data, x=np.array(data.x, order=order))  # type: ignore[call-overload]
    with shared_data() as shared:
        shared.write("key", data)
        files = shared.files("key")
        assert files is not None
        opened = files.open()
        assert opened is not None
        assert_same_data(data, opened)
        assert not opened.x.flags.writeable
        folder = files.folder.parent
        assert folder.is_dir()
    assert not folder.exists()


def test_run_with_data_in_files_has_the_same_records() -> None:
    run = prepare_run(config("data=iris", "epochs=1", "replicates=2"))
    with shared_data() as shared:
        from_files = run.with_shared_data(shared)
        assert from_files.files is not None
        assert run.with_shared_data(shared).files == from_files.files, "written once"
        CACHE.clear()
        first, second = list(train(from_files)), list(train(run))
    assert [(r.step, r.probe, r.values.tobytes()) for r in first] == [
        (r.step, r.probe, r.values.tobytes()) for r in second
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ConfigError])
def test_files_are_removed_after_an_interruption(error: type[BaseException]) -> None:
    manager = shared_data()
    run = prepare_run(config("data=iris")).with_shared_data(manager.__enter__())
    assert run.files is not None
    assert not manager.__exit__(error, error(), None), "the error goes on"
    assert not run.files.folder.parent.exists()


def test_without_room_or_files_each_process_prepares_its_data(tmp_path: Path) -> None:
    run = prepare_run(config("data=iris"))
    for shared in (SharedData(tmp_path / "gone"), SharedData(tmp_path, most_bytes=100)):
        assert run.with_shared_data(shared).files is None
    assert not list(tmp_path.iterdir())
    with shared_data() as shared:
        lost = run.with_shared_data(shared)
    assert_same_data(lost.data, run.data)


OWN_SOURCE = """
import os
from dataclasses import dataclass
import numpy as np
from pipeline.data.table import Source, Table

@dataclass(frozen=True)
class Logged(Source):
    path: str

    def load(self, rng):
        with open(self.path, "a") as file:
            print(os.getpid(), file=file)
        x = np.linspace(0, 1, 120).reshape(60, 2) ** 2
        return Table(x, np.arange(60) % 3, classes=3)
"""


def test_sweep_in_processes_reads_once_and_logs_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "countedparts.py").write_text(OWN_SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{PROJECT}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    records = []
    for jobs in (1, 2):
        CACHE.clear()
        TABLES.clear()
        log, store = tmp_path / "reads", uri(tmp_path / f"jobs{jobs}")
        (tmp_path / f"jobs{jobs}").mkdir()
        log.unlink(missing_ok=True)
        shown = sweep_command(
            "data.source._target_=countedparts.Logged", f"+data.source.path={log}", "~data.source.name", "seed=1,2",
            "epochs=1", "architecture.hidden=[4]", "probes=essential", f"tracking.uri={store}", jobs=jobs,
        )  # fmt: skip
        assert shown.code == 0, shown.text
        assert log.read_text().split() == [str(os.getpid())]
        runs = [Store.open(TrackingConfig(store, "gradvitals")).find(r.run_id) for r in shown.result.results]
        logged = [LoggedRun.from_store(Store.open(TrackingConfig(store, "gradvitals")), run) for run in runs]
        records.append([each.records for each in logged])
    for one, two in zip(*records, strict=True):
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert not list(tmp_path.glob("gradvitals-data-*"))
    sys.modules.pop("countedparts", None)


def test_a_thousand_cells_are_composed_and_checked_in_seconds() -> None:
    start = process_time()
    cells = compose_sweep(
        ["architecture=deep", "architecture.width=10", "activation=tanh", "init=mean_field", "name=many",
         "architecture.depth=range(1,11)", "init.weights.sigma_w2=range(1,11)", "seed=range(10)"]
    )  # fmt: skip
    plan = plan_sweep(cells, quiet=True)
    assert len({job.cell_id for job in plan.jobs}) == 1000
    assert process_time() - start < 20, "2 to 4 ms a cell on the machine where this was measured"
