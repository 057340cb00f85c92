"""Sweeps, tables of runs and remedy trials in Python, and the names of the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from support.commands import NO_FIGURES
from support.packages import own_package
from support.stores import empty, uri

from pipeline import ConfigError, load, prescribe, run, runs, sweep
from pipeline.paths import PROJECT

pytestmark = pytest.mark.xdist_group("sweeps")

SMOKE = ("experiment=smoke", NO_FIGURES)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The address of an empty store."""
    return empty(uri(tmp_path))


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="run_id")


def test_sweep_has_the_same_table_with_a_store_and_without_one(store: str) -> None:
    tracked = sweep(*SMOKE, f"tracking.uri={store}")
    untracked = sweep(*SMOKE, track=False)
    pd.testing.assert_frame_equal(numbers(tracked.table), numbers(untracked.table))
    assert [r.swept for r in tracked.results] == [r.swept for r in untracked.results]
    assert [r.verdict for r in tracked.results] == list(tracked.table["verdict"])
    for first, second in zip(tracked.results, untracked.results, strict=True):
        pd.testing.assert_frame_equal(first.records, second.records, check_exact=True)
        assert first.network.theta.tobytes() == second.network.theta.tobytes()
    assert tracked.sweep_id is not None
    again = sweep(*SMOKE, f"tracking.uri={store}")
    assert [r.run_id for r in again.results] == [r.run_id for r in tracked.results]


def test_each_cell_of_an_untracked_sweep_is_the_run_alone() -> None:
    cells = sweep(*SMOKE, "optimizer.learning_rate=0.1,0.5", track=False).results
    for cell in cells:
        alone = run(*SMOKE, *(f"{key}={value}" for key, value in cell.swept.items()), track=False)
        pd.testing.assert_frame_equal(cell.records, alone.records, check_exact=True)


def test_untracked_sweep_trains_in_this_process_only() -> None:
    with pytest.raises(ConfigError, match=r"^jobs=2: without tracking, all cells train in this process; must be 1$"):
        sweep(*SMOKE, jobs=2, track=False)


def test_sweep_is_shown_as_a_table_and_a_figure() -> None:
    result = sweep(*SMOKE, track=False)
    page = result._repr_html_()
    assert "decades of δ lost, start" in page
    assert "data:image/png;base64," in page
    assert repr(result).splitlines()[0] == "<sweep (not tracked): 2 runs>"


def test_failed_cell_has_its_error_and_no_records(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr("pipeline.training.loop.measure", fail)
    failed, *_ = sweep(*SMOKE, f"tracking.uri={store}").results
    assert (failed.status, failed.error) == ("FAILED", "RuntimeError: no luck")
    assert "no luck" in repr(failed)
    assert "no luck" in failed._repr_html_()
    with pytest.raises(ConfigError, match="so it has no result"):
        _ = failed.records


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store with a sweep of four runs, and a run that belongs to no sweep."""
    address = empty(uri(tmp_path_factory.mktemp("filled")))
    sweep(*SMOKE, "architecture.depth=3,4", f"tracking.uri={address}")
    run(*SMOKE, "activation=tanh", f"tracking.uri={address}")
    return address


@pytest.mark.parametrize(
    ("parameters", "more", "found"),
    [
        ((), {}, ["sigmoid d3", "sigmoid d4", "relu d3", "relu d4", "tanh"]),
        ((), {"activation": "relu"}, ["relu d3", "relu d4"]),
        (("architecture.depth=4",), {"activation": "relu"}, ["relu d4"]),
        (("architecture.depth=4.0",), {}, ["sigmoid d4", "relu d4"]),
        (("optimizer.learning_rate=1e-1", "data.standardise=true"), {"activation": "tanh"}, ["tanh"]),
        ((), {"activation": "gelu"}, []),
    ],
)
def test_runs_are_found_by_their_parameters(
    filled: str, parameters: tuple[str, ...], more: dict[str, str], found: list[str]
) -> None:
    table = runs(*parameters, uri=filled, **more)
    assert sorted(table["name"] if len(table) else []) == sorted(found)


def test_table_of_runs_has_parameters_scores_decades_and_verdicts(filled: str) -> None:
    table = runs(uri=filled)
    first = load(table["run_id"][0], uri=filled)
    row = table.iloc[0]
    assert row["verdict"] == first.verdict
    assert row["accuracy_test"] == pytest.approx(first.scores["accuracy_test"])
    assert row["decades_low"] < row["decades"] < row["decades_high"]
    assert row["architecture.depth"] == 3
    assert table["architecture.depth"].dtype == "int64"


def test_runs_of_a_sweep_are_found_by_its_id(filled: str) -> None:
    (sweep_id,) = set(runs(uri=filled)["sweep"]) - {""}
    assert len(runs(sweep=sweep_id, uri=filled)) == 4
    assert len(runs(sweep=sweep_id, activation="relu", uri=filled)) == 2
    assert runs(sweep="none-such", uri=filled).empty


def test_unknown_parameters_and_stores_are_refused_in_one_line(filled: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^activatoin: no run has such a parameter; did you mean activation"):
        runs(uri=filled, activatoin="relu")
    with pytest.raises(ConfigError, match=r"^relu: must be key=value$"):
        runs("relu", uri=filled)
    with pytest.raises(ConfigError, match="no store there yet"):
        runs(uri=uri(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_remedies_of_a_run_that_does_not_learn_are_tried(store: str) -> None:
    tracking = f"tracking.uri={store}"
    sick = run(*SMOKE, "activation=sigmoid", "architecture.depth=8", "architecture.width=16", tracking)
    trials = prescribe(sick, uri=store)
    assert trials.baseline.verdict == sick.verdict == "vanishing"
    rectifier = trials.table.set_index("change").loc["ReLU, He"]
    assert rectifier["effect"].startswith("flow better")
    assert rectifier["decades_per_layer_difference_high"] < 0
    assert trials.table["change"].iloc[-1].startswith("control")
    assert [r.run_id for r in trials.results] == list(trials.table["run_id"])
    assert "ReLU, He" in trials._repr_html_()


def test_remedies_are_for_runs_of_a_store() -> None:
    with pytest.raises(ConfigError, match="is not tracked"):
        prescribe(run(*SMOKE, track=False))


def test_config_of_the_users_own_is_trusted_when_composed_and_named_when_loaded(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from engine.activations import Relu\n\nclass Mine(Relu):\n    pass\n"
    with own_package(tmp_path, monkeypatch, "mypackage", source):
        (tmp_path / "conf" / "activation").mkdir(parents=True)
        (tmp_path / "conf" / "activation" / "mine.yaml").write_text("_target_: mypackage.Mine\n")
        folder = tmp_path / "conf"
        trained = run(*SMOKE, "activation=mine", f"tracking.uri={store}", config_dir=folder)
        run_id = str(trained.run_id)
        with pytest.raises(ConfigError, match="mypackage"):
            _ = load(run_id, uri=store).network
        loaded = load(run_id, uri=store, allow=["mypackage"])
        assert loaded.network.theta.tobytes() == trained.network.theta.tobytes()


def test_import_of_the_package_loads_nothing() -> None:
    code = "import sys, pipeline; print(sorted({'numpy', 'pipeline.api', 'pipeline.errors'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_are_typed_and_the_wing_does_not_hide_the_function() -> None:
    import pipeline.runs.limits

    stub = ast.parse((PROJECT / "pipeline" / "__init__.pyi").read_text(encoding="utf-8"))
    named = [alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert named == pipeline.__all__  # type: ignore[attr-defined]
    assert set(named) <= set(dir(pipeline))
    assert pipeline.runs is runs
    with pytest.raises(AttributeError, match="no attribute 'runz'"):
        _ = pipeline.runz  # type: ignore[attr-defined]
