"""What a sweep and a run log, and how they end, in a real SQLite store."""

from __future__ import annotations

import json
import math
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from support.commands import run_command, sweep_command
from support.stores import empty, opened, runs, uri

from pipeline.config.compose import compose_cell, compose_run
from pipeline.config.schema import digest
from pipeline.reproducibility.environment import NO_COMMIT, user_name
from pipeline.runs.artifacts import flat_params
from pipeline.tracking.logged_run import LoggedRun
from pipeline.tracking.run_logger import QUEUE, SHOWN_AFTER, LoggedDataset, MonotonicTimestamps, Point, RunLogger
from pipeline.tracking.run_names import run_name
from pipeline.tracking.store import TrackingConfig, download
from pipeline.tracking.store_failure import StoreFailure

pytestmark = pytest.mark.xdist_group("store")

SMALL = ["experiment=smoke", "architecture.depth=4", "schedule=every", "schedule.n=3"]
PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of a finished sweep of two runs, and its output."""
    folder = tmp_path_factory.mktemp("store")
    shown = sweep_command(*SMALL, "tracking.metrics=all", "tracking.figures=auto", f"tracking.uri={uri(folder)}")
    assert shown.code == 0
    return folder, shown.text


def test_sweep_logs_its_runs_and_a_summary(swept: tuple[Path, str]) -> None:
    folder, printed = swept
    cells = runs(folder, "tags.kind = 'run'")
    assert {r.info.run_name for r in cells} == {"sigmoid", "relu"}
    assert {r.info.status for r in cells} == {"FINISHED"}
    (summary,) = runs(folder, "tags.kind = 'sweep'")
    assert summary.data.metrics["cells_finished"] == 2
    assert "| sigmoid |" in summary.data.tags["mlflow.note.content"]
    names = {a.path for a in opened(folder).client.list_artifacts(summary.info.run_id)}
    assert names == {"sweep.csv", "sweep.png", "profiles.png", "sweep.log"}
    assert all(r.info.run_id[:8] in printed for r in cells)
    key = cells[0].data.tags["sweep"]
    assert f"viewStateShareKey={key}" in printed
    tags = opened(folder).client.get_experiment(cells[0].info.experiment_id).tags
    assert key in tags[f"mlflow.sharedViewState.{key}"]


def test_run_logs_its_origin_config_and_artifacts(swept: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = swept
    run = runs(folder, "tags.kind = 'run'")[0]
    facts = json.loads(download(opened(folder), run.info.run_id, "provenance.json", tmp_path).read_text())
    for name in ("cell", "git.commit", "git.dirty", "package.numpy", "blas", "blas.core_type", "data.sha256", "seed"):
        assert facts[name]
    assert facts["blas.threads"] == "1"
    assert run.data.tags.get("mlflow.source.git.commit", NO_COMMIT) == facts["git.commit"]
    config = yaml.safe_load(download(opened(folder), run.info.run_id, "config.yaml", tmp_path).read_text())
    assert facts["config.sha256"] == digest(config)
    assert run.data.params["architecture.depth"] == "4"
    assert run.data.params["activation"] in ("sigmoid", "relu")
    assert run.data.params["optimizer.learning_rate"] == "0.1"
    assert (run.data.params["optimizer"], run.data.params["data"]) == ("sgd", "digits")
    names = {a.path for a in opened(folder).client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "records.parquet", "run.log", "packages.txt"} <= names
    assert {name for name in names if name.endswith(".png")} == {"gradient_norm_by_layer.png"}


def test_run_has_at_most_twelve_shown_tags_with_its_verdict_first(swept: tuple[Path, str]) -> None:
    """MLflow's page shows tags in the store's order, except those whose name starts with "mlflow."."""
    for run in runs(swept[0], "tags.kind = 'run'"):
        shown = [key for key in run.data.tags if not key.startswith("mlflow.")]
        assert shown[:2] == ["verdict", "decades"]
        assert len(shown) <= 12
        assert run.data.tags["verdict"] != "–"
        metrics = run.data.metrics
        decades, _, interval = run.data.tags["decades"].partition(" ")
        low, high = (metrics[f"verdict_decades_{bound}"] for bound in ("low", "high"))
        digits = (high - low) / 2  # the interval decides how many are shown
        assert float(decades) == pytest.approx(metrics["verdict_decades"], abs=digits)
        assert json.loads(interval) == pytest.approx([low, high], abs=digits)


def test_columns_of_mlflows_table_are_filled(swept: tuple[Path, str]) -> None:
    """User, source and data set; the overrides are those of the run's own cell."""
    store = opened(swept[0])
    assert "decades" in store.client.get_experiment(store.experiment_id).tags["mlflow.note.content"]
    for run in runs(swept[0], "tags.kind = 'run'"):
        assert run.data.tags["mlflow.user"] == user_name()
        assert run.data.tags["mlflow.source.name"] == "gradvitals"
        ((dataset, tags),) = [(d.dataset, d.tags) for d in run.inputs.dataset_inputs]
        digest = LoggedRun.from_store(store, run).provenance["data.sha256"]
        assert (dataset.name, dataset.digest) == ("digits", digest[: len(dataset.digest)])
        assert json.loads(dataset.profile)["num_rows"] == 1797
        assert [(tag.key, tag.value) for tag in tags] == [("mlflow.data.context", "training")]
        overrides = run.data.tags["overrides"].split()
        assert f"activation={run.info.run_name}" in overrides
        assert [text for text in overrides if "," in text] == []
        assert compose_run(overrides)["activation"] == compose_run([f"activation={run.info.run_name}"])["activation"]


def test_data_set_that_another_process_has_just_logged_is_retried(tmp_path: Path) -> None:
    """Two first runs of one data set: the database refuses the second insertion, whose retry finds the first."""
    store = opened(tmp_path)
    row = ("d", store.experiment_id, "digits", "1", "config", "{}")
    columns = "dataset_uuid, experiment_id, name, digest, dataset_source_type, dataset_source"
    insert = f"insert into datasets ({columns}) values (?, ?, ?, ?, ?, ?)"
    with sqlite3.connect(tmp_path / "store.db") as database:
        database.execute(insert, row)
        with pytest.raises(sqlite3.IntegrityError) as refused:
            database.execute(insert, row)
    assert StoreFailure(refused.value).is_transient
    with store.start("run", {"kind": "run"}) as log:
        log.dataset(LoggedDataset("digits", "1", "x" * 70_000, "{}"))
        log.end("FINISHED")
    assert store.find(log.run_id).inputs.dataset_inputs[0].dataset.name == "digits"


def test_logged_metrics_are_the_means_of_the_raw_records(swept: tuple[Path, str], tmp_path: Path) -> None:
    """Checked by hand: the geometric mean of the replicates, and t = 12.706 for two of them."""
    folder, _ = swept
    store = opened(folder)
    run = runs(folder, "tags.kind = 'run'")[0]
    table = pd.read_parquet(download(store, run.info.run_id, "records.parquet", tmp_path))
    assert list(table.columns) == ["step", "probe", "layer", "replicate", "bin", "value"]
    raw = table[(table["probe"] == "delta_rms") & (table["layer"] == 2)].sort_values(["step", "replicate"])
    history = {m.step: m.value for m in store.client.get_metric_history(run.info.run_id, "delta_rms/layer_02")}
    lows = {
        m.step: m.value for m in store.client.get_metric_history(run.info.run_id, "interval_low/delta_rms/layer_02")
    }
    assert sorted(history) == sorted(set(raw["step"])) == [0, 3, 6]
    for step, group in raw.groupby("step"):
        a, b = np.log10(group["value"].to_numpy())
        assert math.isclose(history[int(str(step))], 10 ** ((a + b) / 2), rel_tol=1e-12)
        half = 12.706204736 * abs(a - b) / 2  # s/√2 of two values is |a − b|/2
        assert math.isclose(lows[int(str(step))], 10 ** ((a + b) / 2 - half), rel_tol=1e-6)


def test_exploding_run_stores_only_finite_values(tmp_path: Path) -> None:
    overrides = ["experiment=smoke", "activation=identity", "optimizer.learning_rate=1e200", "cost=squared_error"]
    assert run_command(*overrides, "activation@output=identity", f"tracking.uri={uri(tmp_path)}").code == 0
    (run,) = runs(tmp_path)
    assert run.data.metrics["non_finite_values"] > 0
    with sqlite3.connect(tmp_path / "store.db") as database:
        worst, nans = database.execute("select max(abs(value)), sum(is_nan) from metrics").fetchone()
    assert worst < 1.79e308
    assert not nans
    table = pd.read_parquet(download(opened(tmp_path), run.info.run_id, "records.parquet", tmp_path))
    assert not np.isfinite(table["value"]).all()


PACKAGE = '''
from dataclasses import dataclass
import numpy as np
from engine.activations import Elementwise


@dataclass(frozen=True)
class Bomb(Elementwise):
    """Identity that goes off when it is first trained."""

    def value(self, z, out=None):
        if z.shape[-1] == 32:
            raise RuntimeError("boom at training")
        return np.positive(z, out=out)

    def derivative(self, z, a, out=None):
        return np.ones_like(z)
'''


@pytest.mark.thorough
def test_failing_cell_does_not_stop_the_others_and_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bombs.py").write_text(PACKAGE)
    (tmp_path / "conf" / "activation").mkdir(parents=True)
    (tmp_path / "conf" / "activation" / "bomb.yaml").write_text("_target_: bombs.Bomb\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    overrides = ["experiment=smoke", "activation=relu,bomb,tanh", f"tracking.uri={uri(tmp_path)}"]
    try:
        shown = sweep_command(*overrides, config_dir=str(tmp_path / "conf"))
    finally:
        sys.modules.pop("bombs", None)
    assert shown.code == 1
    assert "failed: bomb" in shown.text
    assert "boom at training" in shown.text
    assert {r.info.run_name: r.info.status for r in runs(tmp_path, "tags.kind = 'run'")} == {
        "relu": "FINISHED",
        "bomb": "FAILED",
        "tanh": "FINISHED",
    }
    (failed,) = runs(tmp_path, "attributes.status = 'FAILED' and tags.kind = 'run'")
    for name in ("traceback.txt", "run.log"):
        assert "boom at training" in download(opened(tmp_path), failed.info.run_id, name, tmp_path).read_text()


@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)])
@pytest.mark.thorough
def test_interrupted_run_is_closed_as_killed(tmp_path: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-m", "pipeline", "run", "epochs=100000", f"tracking.uri={empty(uri(tmp_path))}"]
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=restore_ctrl_c
    ) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not _running(tmp_path):
            time.sleep(0.3)
        time.sleep(3)  # until it trains
        process.send_signal(how)
        code = process.wait(timeout=20)
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[how]
    assert [r.info.status for r in runs(tmp_path)] == ["KILLED"]


def test_long_tags_are_cut_and_marked(tmp_path: Path) -> None:
    store = opened(tmp_path)
    log = store.start("long", {"first": "x" * 9000})
    log.tags({"mlflow.note.content": "y" * 8001, "just": "z" * 8000})
    assert log.end("FINISHED")
    tags = store.find(log.run_id).data.tags
    assert tags["just"] == "z" * 8000
    for key, letter in (("first", "x"), ("mlflow.note.content", "y")):
        assert len(tags[key]) == 8000
        assert tags[key].startswith(letter * 7900)
        assert tags[key].endswith("… cut: the files of this run have all of it")


def restore_ctrl_c() -> None:
    """Let a child process hear Ctrl-C, which the child of a shell's background job ignores."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _running(folder: Path) -> bool:
    if not (folder / "store.db").exists():
        return False
    try:
        with sqlite3.connect(folder / "store.db") as database:
            return bool(database.execute("select count(*) from runs").fetchone()[0])
    except sqlite3.Error:
        return False


@pytest.mark.thorough
def test_many_processes_create_one_store(tmp_path: Path) -> None:
    """Without the lock, parallel first use of a database crashes MLflow."""
    code = (
        "from pipeline.tracking.store import Store, TrackingConfig\n"
        f"print(Store.open(TrackingConfig({uri(tmp_path)!r}, 'shared')).experiment_id)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    answers = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert [p.returncode for p in processes] == [0, 0, 0]
    assert len(set(answers)) == 1
    assert answers[0] != "0"


def test_relative_sqlite_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert TrackingConfig("sqlite:///here.db", "x").resolved_uri() == f"sqlite:///{tmp_path / 'here.db'}"
    assert TrackingConfig(None, "x").resolved_uri() == f"sqlite:///{PROJECT / 'store' / 'mlflow.db'}"


def test_run_name_starts_with_the_difference() -> None:
    assert run_name({"activation": "relu", "architecture.depth": "20"}, "depth") == "relu d20"
    assert run_name({"optimizer.learning_rate": "0.1"}, "depth") == "lr0.1"
    assert run_name({"activation@output": "tanh"}, None) == "output tanh"
    assert run_name({"+activation@layer_activations.layer_03": "tanh"}, None) == "layer_03 tanh"
    assert run_name({"probes": "[standard,weights]"}, None) == "probes standard+weights"
    assert run_name({"+probe@probes.sharpness": "sharpness", "~probes.coherence": ""}, None) == "sharpness no coherence"
    assert run_name({"architecture.hidden": "[30,30]", "data.source.path": "a/b.csv"}, None) == "[30,30] b.csv"
    assert run_name({}, "depth") == "depth"


def test_params_are_flat_scalars_with_stable_names() -> None:
    raw_config = {
        "seed": 1,
        "activation": {"_target_": "engine.activations.LeakyRelu", "alpha": 0.1},
        "probes": {"x": {"_target_": "engine.probes.delta_rms"}},
        "layer_activations": {},
        "tracking": {"uri": None},
    }
    expected = {"seed": 1, "activation": "leaky_relu", "activation.alpha": 0.1, "probes": "x"}
    assert flat_params(raw_config, {}) == expected


def test_params_have_the_names_of_the_chosen_options() -> None:
    """An option that only sets values of another one's class keeps its name; a class has the name of its option."""
    chosen = ("optimizer=momentum", "init=nielsen", "data=iris", "clipping@optimizer.clipping=per_layer")
    cell = compose_cell([*chosen, "optimizer.clipping.max_norm=1"])
    params = flat_params(cell.config, cell.choices)
    assert {key: params[key] for key in ("optimizer", "init", "data", "optimizer.clipping")} == {
        "optimizer": "momentum",
        "init": "nielsen",
        "data": "iris",
        "optimizer.clipping": "per_layer",
    }
    assert (params["output"], params["evaluation.schedule"]) == ("softmax", "each_epoch")
    assert flat_params(cell.config, {})["optimizer"] == "sgd"


def test_values_are_buffered_until_they_are_many_or_ten_seconds_old() -> None:
    sent: list[int] = []

    class Client:
        def log(self, run_id: str, points: list[Point], *_: object) -> None:
            sent.append(len(points))

    @dataclass
    class FakeClock(MonotonicTimestamps):
        time: int = 0

        def now(self) -> int:
            return self.time

    clock = FakeClock(0)
    log = RunLogger(Client(), "run", clock=clock)
    for step in range(QUEUE - 1):
        log.metric("a", 1.0, step)
    assert sent == []
    log.metric("a", 1.0, QUEUE)
    log.metric("b", 1.0, 0)
    clock.time += SHOWN_AFTER - 1
    log.metric("b", 1.0, 1)
    assert sent == [QUEUE]
    clock.time += 1
    log.metric("b", 1.0, 2)
    assert sent == [QUEUE, 3]
