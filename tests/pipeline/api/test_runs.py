"""A run in Python: the same with and without a store, loaded again, and predictions that have the recorded scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes, load_iris
from support.commands import NO_FIGURES, run_command
from support.configs import REGRESSION
from support.stores import empty, runs, uri

from engine.arrays import Array
from pipeline import ConfigError, Run, RunError, load, run
from pipeline.config.schema import build
from pipeline.data.prepare import Data
from pipeline.reproducibility.exchange.export import export
from pipeline.tracking.uri import TrackingConfig
from pipeline.training.prepare import load_data

SMALL = ("data=iris", "architecture.hidden=[6,5]", "epochs=2", "replicates=2", NO_FIGURES)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The override that names an empty store."""
    return f"tracking.uri={empty(uri(tmp_path))}"


def address(store: str) -> str:
    return store.partition("=")[2]


def data_of(result: Run) -> Data:
    config = build(result.config)
    return load_data(config.data, config.seed, config.replicates, config.dtype)


def assert_same_run(first: Run, second: Run) -> None:
    """The same numbers, bit for bit, and the same words apart from the run id."""
    pd.testing.assert_frame_equal(first.records, second.records, check_exact=True)
    assert first.network.theta.tobytes() == second.network.theta.tobytes()
    assert first.scores == second.scores
    assert first.verdict == second.verdict


def test_run_is_the_same_with_a_store_without_one_and_loaded(store: str) -> None:
    tracked = run(*SMALL, store)
    untracked = run(*SMALL, track=False)
    assert tracked.run_id is not None
    loaded = load(tracked.run_id[:8], uri=address(store))
    assert_same_run(tracked, loaded)
    assert_same_run(tracked, untracked)
    assert tracked.explanation == loaded.explanation
    assert untracked.run_id is None


def test_run_is_what_the_command_logs(store: str, tmp_path: Path) -> None:
    shown = run_command(*SMALL, store)
    logged = load(shown.result.result.run_id, uri=address(store))
    assert_same_run(logged, run(*SMALL, track=False))
    assert logged.scores["accuracy_test"] == float(shown.result.result.headline["final_accuracy_test"].mean)


def test_untracked_run_writes_nothing_and_is_not_told_how_to_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tracking.uri.store_folder", lambda: tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    result = run("data=iris", "epochs=1", "activation=sigmoid", "architecture.depth=12", track=False)
    assert result.verdict.startswith("vanishing")
    assert "What to change" in result.explanation
    assert "RUN=" not in result.explanation
    assert not list(tmp_path.iterdir())


def test_records_are_tidy_and_scores_are_their_last_means(store: str) -> None:
    result = run(*SMALL, track=False)
    assert list(result.records) == ["step", "probe", "layer", "replicate", "bin", "value"]
    last = result.records.query("probe == 'accuracy/test'").groupby("step")["value"].mean().iloc[-1]
    assert result.scores["accuracy_test"] == pytest.approx(last, abs=1e-12)
    assert result.table.loc["final_accuracy_test", "mean"] == result.scores["accuracy_test"]


def test_predictions_of_a_classifier_have_the_recorded_test_accuracy() -> None:
    """Oracle: scikit-learn's own table, before any standardisation. Each replicate has its own test set."""
    result = run(*SMALL, "epochs=20", track=False)
    x, y = load_iris(return_X_y=True)
    is_right = result.predict(x) == y
    assert is_right.shape == (2, 150)
    last = result.records.query("probe == 'accuracy/test'").groupby("replicate")["value"].last()
    data = data_of(result)
    rows_of_table = data.test - 150 * np.arange(2)[:, None]  # the replicates' rows are pooled
    measured = [right[rows].mean() for right, rows in zip(is_right, rows_of_table, strict=True)]
    assert measured == pytest.approx(list(last))
    assert np.allclose(result.outputs(x).sum(axis=-1), 1)  # a softmax


def test_predictions_of_a_regression_are_in_the_units_of_the_source() -> None:
    """Oracle: R² of the targets as scikit-learn has them is the recorded R², for standardisation does not change it."""
    result = run(*SMALL, *REGRESSION, "data=diabetes", "epochs=20", track=False)
    x, y = load_diabetes(return_X_y=True)
    predicted = result.predict(x)
    assert predicted.shape == (2, 442)
    data = data_of(result)
    last = result.records.query("probe == 'r2/test'").groupby("replicate")["value"].last()
    for k in range(2):
        rows = data.test[k] - 442 * k
        r2 = 1 - np.square(predicted[k, rows] - y[rows]).sum() / np.square(y[rows] - y[rows].mean()).sum()
        assert r2 == pytest.approx(last[k], abs=1e-9)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table with two classes that have names."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 60))
    frame = pd.DataFrame({"height": 1e3 * a + 5, "weight": b, "kind": np.where(a > 0, "tall", "short")})
    frame.to_csv(tmp_path / "people.csv", index=False)
    return tmp_path / "people.csv"


def of_table(table: Path, *overrides: str) -> tuple[str, ...]:
    source = ("data=csv", f"data.source.path={table}", "data.source.target=kind")
    return (*source, "architecture.hidden=[8]", "epochs=60", "activation=tanh", NO_FIGURES, *overrides)


def test_predictions_are_the_labels_of_a_table_whose_columns_may_stand_in_any_order(table: Path) -> None:
    result = run(*of_table(table), track=False)
    frame = pd.read_csv(table)
    shuffled = frame[["kind", "weight", "height"]]
    (predicted,) = result.predict(shuffled)
    assert (predicted == frame["kind"]).mean() > 0.9
    assert (result.predict(frame[["height", "weight"]].to_numpy()) == predicted).all()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([[1.0, 2.0, 3.0]], r"^X: has shape \(1, 3\); must be \[examples, 2 inputs\]$"),
        ([1.0, 2.0], r"^X: has shape \(2,\)"),
        ([["a", "b"]], "^X: must be numbers"),
        ([[np.nan, 1.0]], "^X: has a value that is not finite$"),
        (pd.DataFrame({"height": [1.0]}), "^X: has no column 'weight'; must have height, weight$"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_one_line(table: Path, inputs: Any, message: str) -> None:
    result = run(*of_table(table, "epochs=1"), track=False)
    with pytest.raises(ConfigError, match=message):
        result.predict(inputs)


def test_loaded_network_needs_no_data_but_predictions_need_them_unchanged(table: Path, store: str) -> None:
    trained = run(*of_table(table, "epochs=1"), store)
    frame = pd.read_csv(table)
    frame.assign(height=frame["height"] + 1).to_csv(table, index=False)
    loaded = load(str(trained.run_id), uri=address(store))
    assert loaded.network.theta.shape == (1, 2 * 8 + 8 + 8 * 2 + 2)
    with pytest.raises(ConfigError, match="its data have changed since it was trained"):
        loaded.predict([[1.0, 2.0]])


@pytest.mark.thorough
def test_exported_folder_is_loaded_without_a_store(store: str, tmp_path: Path) -> None:
    trained = run(*SMALL, store)
    export(trained.run_id, None, str(tmp_path / "out"), TrackingConfig(address(store), "gradvitals"))
    assert_same_run(trained, load(tmp_path / "out"))


def test_wrong_overrides_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        run("activatoin=relu", f"tracking.uri={uri(tmp_path)}")
    assert not list(tmp_path.iterdir())


def test_failed_run_raises_with_its_run_id(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr("pipeline.training.loop.measure", fail)
    with pytest.raises(RunError, match=r"no luck") as failure:
        run(*SMALL, store)
    (logged,) = runs(tmp_path)
    assert logged.info.run_id in str(failure.value)
    assert logged.info.status == "FAILED"


def test_notebook_shows_verdict_numbers_and_a_picture_and_escapes_names() -> None:
    result = run(*SMALL, "name='<script>alert(1)</script>'", track=False)
    page = result._repr_html_()
    assert "<script" not in page
    assert "script&gt;" in page  # the last part of the name, after the slash
    assert result.verdict in page
    assert "data:image/png;base64," in page
    assert result.figure()._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert repr(result).startswith("<")
    assert f"not tracked): {result.verdict}, " in repr(result)


def test_run_without_norms_has_no_figure_and_no_verdict() -> None:
    result = run(*SMALL, "probes=none", track=False)
    assert (result.verdict, result.explanation) == ("", "")
    with pytest.raises(ConfigError, match="so there is no figure"):
        result.figure()
    assert "<img" not in result._repr_html_()


def parameters(result: Run) -> dict[str, Array]:
    return {f"{layer.number}/{p.name}": p.value for layer in result.network.layers for p in layer.parameters}


def test_network_has_the_parameters_of_every_replicate() -> None:
    shapes = {name: value.shape for name, value in parameters(run(*SMALL, track=False)).items()}
    assert shapes["1/W"] == (2, 6, 4)
    assert shapes["3/b"] == (2, 3, 1)
