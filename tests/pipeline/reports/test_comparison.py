"""Comparisons of two logged runs."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support.commands import invoke, run_command

from pipeline.analysis.comparisons import paired, replicates_needed, unpaired
from pipeline.config.changes import config_changes
from pipeline.errors import ConfigError
from pipeline.progress import plain_console
from pipeline.reports.comparison import (
    DECADES,
    FINAL,
    ComparedRun,
    Comparison,
    Reading,
    common,
    compare,
    comparisons,
    environment_changes,
    load,
    readings,
)
from pipeline.tracking.store import Store, TrackingConfig, download
from pipeline.training.records import Record, tidy

pytestmark = pytest.mark.xdist_group("comparison")

START, END = DECADES.values()
ACCURACY, R2, COST = FINAL.values()


# Quantities of two runs


def logged(seed: int = 0, config: dict[str, Any] | None = None, **values: Any) -> ComparedRun:
    """A run with these values a replicate: accuracy=[...], cost=[...], start=[...], end=[...], r2=[...]."""
    names = {"accuracy": ACCURACY, "cost": COST, "start": START, "end": END, "r2": R2}
    result = {names[k]: Reading(10, np.array(v, dtype=np.float64)) for k, v in values.items()}
    replicates = len(next(iter(values.values())))
    node = {"seed": seed, "replicates": replicates, "cost": {"_target_": "x.C"}} | (config or {})
    return ComparedRun("0123456789", "run", node, {}, seed, replicates, result)


def comparison_of(compared: list[Comparison], quantity: str) -> Comparison:
    (comparison,) = [c for c in compared if c.quantity == quantity]
    return comparison


def test_readings_of_decades_per_layer_of_worked_example() -> None:
    """δ of three hidden layers 1e-4, 1e-2, 1e-1: three decades, two steps between; the output layer does not count."""
    start = np.array([[1e-4, 1e-3], [1e-2, 1e-3], [1e-1, 1e-3], [77.0, 77.0]])
    records = [Record(s, "delta_rms", (1, 2, 3, 4), start**power, True) for s, power in ((0, 1), (3, 0), (8, 2))]
    records.append(Record(0, "coherence", (1, 2, 3, 4), start * 5, False))
    records += [Record(s, "accuracy/test", (), np.array([[s, 2.0 * s]]), False) for s in (0, 8)]
    shuffled = tidy(records).sample(frac=1, random_state=0)
    result = readings(shuffled)
    assert list(result) == [START, END, ACCURACY]
    np.testing.assert_allclose(result[START].values, [1.5, 0], rtol=1e-12)
    np.testing.assert_allclose(result[END].values, [3, 0], rtol=1e-12)
    assert result[END].step == result[ACCURACY].step == 8
    assert result[ACCURACY].values.tolist() == [8, 16]
    assert list(readings(tidy(records[:1]))) == [START]  # a single measurement is not an end
    assert readings(tidy([Record(0, "delta_rms", (1, 2), start[:2], True)])) == {}  # one hidden layer
    assert readings(tidy([])) == {}


def test_vanished_delta_is_left_out_and_counted() -> None:
    values = np.array([[0.0, 1e-2, 1e-3], [1e-1, 1e-1, 1e-1], [1.0, 1.0, 1.0]])
    a = readings(tidy([Record(0, "delta_rms", (1, 2, 3), values, True)]))
    b = readings(tidy([Record(0, "delta_rms", (1, 2, 3), values + 1, True)]))
    node = {"seed": 0, "replicates": 3}
    (result,) = comparisons(ComparedRun("a", "a", node, {}, 0, 3, a), ComparedRun("b", "b", node, {}, 0, 3, b))
    assert isinstance(result.difference.n, int)
    assert (result.difference.n, result.difference.lost) == (2, 1)
    assert result.means()[0] == pytest.approx(1.5)
    assert result.means()[1] - result.means()[0] == pytest.approx(result.difference.mean)
    assert "1 of 3 in A, 33% [6%, 79%] (Wilson)" in result.notes[0]


def test_pairs_have_the_same_seed() -> None:
    """A has seeds 0 ... 3, B 2 ... 5: those in both are A's last and B's first two."""
    a, b = logged(0, accuracy=[9, 9, 0.5, 0.7]), logged(2, accuracy=[0.6, 0.9, 9, 9])
    assert common(a.seeds(), b.seeds()) == range(2, 4)
    (result,) = comparisons(a, b)
    assert result.difference == paired(np.array([0.5, 0.7]), np.array([0.6, 0.9]))
    assert result.means() == pytest.approx((0.6, 0.75))
    (back,) = comparisons(b, a)
    assert back.difference.mean == pytest.approx(-result.difference.mean)


def test_runs_without_shared_seeds_are_compared_unpaired() -> None:
    a, b = logged(0, accuracy=[0.1, 0.2, 0.4]), logged(3, accuracy=[0.6, 0.9])
    (result,) = comparisons(a, b)
    assert result.difference == unpaired(np.array([0.1, 0.2, 0.4]), np.array([0.6, 0.9]))
    assert "unpaired (Welch), 3 against 2 replicates" in result.sentence()


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ([0.1, 0.2, 0.3], [0.21, 0.33, 0.42], "B is higher by 0.12 [0.0952, 0.145], paired over 3 seeds"),
        ([0.21, 0.33, 0.42], [0.1, 0.2, 0.3], "B is lower by 0.12 [0.0952, 0.145], paired over 3 seeds"),
        ([0.1, 0.2], [0.2, 0.1], "no significant difference: B − A is 0 [-1.27, 1.27], paired over 2 seeds"),
        ([0.1], [0.2], "no interval can be computed, paired over 1 seed where two are needed; B is higher by 0.1"),
        ([0.1, 0.2], [0.3, 0.4], "B is higher by 0.2, paired over 2 seeds; the values do not vary, so there"),
        ([0.1, 0.2], [0.1, 0.2], "B is equal to A, paired over 2 seeds; the values do not vary, so there"),
        ([0.0, 0.0], [0.0, 0.0], "B is equal to A, paired over 2 seeds; the values do not vary, so there"),
        ([math.nan, 1], [1, math.inf], "no difference can be computed: there are no finite values to compare"),
        ([1e200, 2], [-1e200, 3], "no significant difference: B − A is -1e+200 [-inf, inf], paired over 2 seeds"),
    ],
)
def test_sentence_states_difference_and_certainty(a: list[float], b: list[float], says: str) -> None:
    """0.11, 0.13, 0.12: 0.12 ± 4.303·0.01/√3."""
    (result,) = comparisons(logged(accuracy=a), logged(accuracy=b))
    assert result.sentence().startswith(says)


def test_differences_equal_up_to_rounding_have_no_interval() -> None:
    """0.3 − 0.2 and 0.4 − 0.3 differ in the last bits; an interval of 1e-16 would be nonsense."""
    (result,) = comparisons(logged(accuracy=[0.2, 0.3]), logged(accuracy=[0.3, 0.4]))
    assert 0 < result.difference.spread < 1e-15
    assert "do not vary" in result.sentence()
    assert result.interval() == "0.1"
    assert result.replicates_for(None) == "–"


def test_replicates_for_a_precision() -> None:
    a, b = logged(accuracy=[0.1, 0.2, 0.3]), logged(accuracy=[0.21, 0.33, 0.42])
    (result,) = comparisons(a, b)
    assert result.replicates_for(None) == str(replicates_needed(0.01, 0.012)) == "6"
    assert result.replicates_for(0.001) == str(replicates_needed(0.01, 0.001)) == "387"
    assert result.replicates_for(1e-9) == "over 1,000,000,000"
    assert result.replicates_for(1e-200) == "over 1,000,000,000"
    (none,) = comparisons(logged(accuracy=[0.1, 0.2]), logged(accuracy=[0.2, 0.1]))
    assert none.replicates_for(None) == "–"  # a tenth of zero


def test_notes_name_different_steps_and_costs() -> None:
    a, b = logged(cost=[1, 2]), logged(cost=[2, 4], config={"cost": {"_target_": "x.Other"}})
    longer = ComparedRun(b.run_id, "b", b.raw_config, {}, 0, 2, {COST: Reading(20, b.readings[COST].values)})
    (result,) = comparisons(a, longer)
    assert result.notes == ("A at step 10, B at step 20", "but these are two different cost functions")
    assert comparisons(a, logged(cost=[2, 4]))[0].notes == ()


def test_runs_without_shared_quantity_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"share no quantity to compare: .* has test accuracy.* has test R²"):
        comparisons(logged(accuracy=[1, 2]), logged(r2=[1, 2]))


def test_config_changes_name_dotted_keys() -> None:
    old = {
        "seed": 1,
        "activation": {"_target_": "engine.activations.LeakyRelu", "alpha": 0.1},
        "layer_activations": {},
        "data": {"subset": None},
        "weights": [1] * 90,
        "tracking": {"uri": "here"},
        "name": "x",
    }
    new = {
        "seed": 1,
        "activation": {"_target_": "engine.activations.Tanh"},
        "layer_activations": {"layer_02": {"_target_": "engine.activations.Relu"}},
        "data": {"subset": 5},
        "weights": [1] * 89,
        "tracking": {"uri": "there"},
        "name": "y",
    }
    changes = config_changes(old, new)
    assert changes[:3] == [
        "activation: engine.activations.LeakyRelu → engine.activations.Tanh",
        "activation.alpha: 0.1 → absent",
        "data.subset: null → 5",
    ]
    assert changes[3].startswith("weights: [1, 1,")
    assert len(changes[3]) < 140
    assert changes[4:] == ["layer_activations.layer_02: absent → engine.activations.Relu"]
    assert config_changes(old, old | {"name": "z"}) == ["the configs are the same"]


def test_environment_changes_name_changed_tags() -> None:
    def run(seed: int, **tags: str) -> ComparedRun:
        return ComparedRun("r", "r", {"data": 1}, {k.replace("_", "."): v for k, v in tags.items()}, seed, 1, {})

    one = run(0, git_commit="a", data_sha256="b", python="c")
    assert environment_changes(one, one) == []
    assert environment_changes(one, run(0, data_sha256="c", python="c")) == [
        "git.commit: a → not logged",
        "data.sha256: b → c",
    ]
    assert (
        environment_changes(one, run(1, git_commit="a", data_sha256="c", python="c")) == []
    )  # other seeds, other data


# End to end

EXPLODE = ["activation@output=identity", "cost=squared_error", "optimizer.learning_rate=1e200"]
OVERRIDES = {
    "tanh": ["activation=tanh"],
    "relu": ["activation=relu", "architecture.depth=6"],
    "overlap": ["activation=tanh", "seed=3"],
    "apart": ["activation=tanh", "seed=50", "replicates=3"],
    "alone": ["activation=tanh", "replicates=1"],
    "exploded": ["activation=identity", *EXPLODE],
    "regression": ["probes=none", "data=diabetes", "cost=half_squared_error", "activation@output=identity"],
}


class Runs:
    """Small finished runs in their own store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tracking = TrackingConfig(f"sqlite:///{folder / 'mlflow.db'}", "gradvitals")
        self.store = Store.open(self.tracking)
        self._ids: dict[str, str] = {}

    def id(self, name: str) -> str:
        """Return the id of the run with these overrides. The first call trains it."""
        if name not in self._ids:
            self._ids[name] = self._train(*OVERRIDES[name])
        return self._ids[name]

    def _train(self, *overrides: str) -> str:
        base = ["experiment=smoke", "architecture.depth=4", "replicates=5", f"tracking.uri={self.tracking.uri}"]
        shown = run_command(*base, *overrides)
        assert shown.code == 0
        return str(shown.result.result.run_id)

    def artifact(self, name: str, file: str) -> Path:
        run = self.store.client.get_run(self.id(name))
        return Path(run.info.artifact_uri.removeprefix("file://")) / file

    def compared(self, a: str, b: str, precision: float | None = None) -> str:
        result = compare(self.id(a), self.id(b), precision, self.tracking)
        console = plain_console(file=io.StringIO(), width=200)
        with console.capture() as capture:
            console.print(result.table())
        return "\n".join([*result.lines(), capture.get(), *result.conclusions()])

    def comparisons(self, a: str, b: str) -> list[Comparison]:
        return comparisons(load(self.store, self.id(a)), load(self.store, self.id(b)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("store"))


def test_compare_lists_changes_and_quantities_of_runs_of_different_depth(runs: Runs) -> None:
    out = runs.compared("tanh", "relu")
    assert "architecture.depth: 4 → 6" in out
    assert "activation: engine.activations.Tanh → engine.activations.Relu" in out
    assert "seeds in both: 0 ... 4, compared pair by pair\n" in out
    for quantity in (START, END, ACCURACY, COST):
        assert out.count(quantity) == 2  # in the table, and in a sentence
    assert "paired over 5 seeds" in out
    assert "replicates for ±|B − A|/10" in out
    assert "replicates for ±0.001" in runs.compared("tanh", "relu", 0.001)


def test_means_equal_logged_metrics(runs: Runs) -> None:
    names = {
        START: "decades_lost_per_layer_delta_rms_start",
        END: "decades_lost_per_layer_delta_rms_end",
        ACCURACY: "final_accuracy_test",
        COST: "final_cost_test",
    }
    metrics = [runs.store.client.get_run(runs.id(name)).data.metrics for name in ("tanh", "relu")]
    result = runs.comparisons("tanh", "relu")
    assert len(result) == 4
    for c in result:
        expected = [m[names[c.quantity]] for m in metrics]
        assert c.means() == pytest.approx(expected, rel=1e-9)
        assert c.difference.mean == pytest.approx(expected[1] - expected[0], rel=1e-6)


@pytest.mark.thorough
def test_interval_equals_scipy_on_raw_records(runs: Runs, tmp_path: Path) -> None:
    last = []
    for name in ("tanh", "relu"):
        table = pd.read_parquet(download(runs.store, runs.id(name), "records.parquet", tmp_path / name))
        rows = table[(table["probe"] == "accuracy/test") & (table["step"] == table["step"].max())]
        last.append(rows.sort_values("replicate")["value"].to_numpy())
    ends = stats.ttest_rel(last[1], last[0]).confidence_interval(0.95)
    result = comparison_of(runs.comparisons("tanh", "relu"), ACCURACY).difference
    assert (result.low, result.high) == pytest.approx((ends.low, ends.high), rel=1e-9)


def test_shared_seeds_of_overlapping_runs_are_identical(runs: Runs) -> None:
    """Replicates 3 and 4 of one are 0 and 1 of the other, bit for bit; paired by number they would differ."""
    result = runs.comparisons("tanh", "overlap")
    assert len(result) == 4
    for c in result:
        assert c.a.tolist() == c.b.tolist()
        assert len(set(c.a.tolist())) == 2
    out = runs.compared("tanh", "overlap")
    assert "seeds in both: 3 ... 4, compared pair by pair; 6 replicates with other seeds left out" in out
    assert "B is equal to A" in out


def test_compare_of_runs_without_shared_seeds_uses_welch(runs: Runs) -> None:
    out = runs.compared("tanh", "apart")
    assert "no seed in both: compared as independent groups (Welch)" in out
    assert "5 against 3 replicates" in out
    assert "Welch t" in out


def test_one_replicate_has_means_without_interval(runs: Runs) -> None:
    out = runs.compared("relu", "alone")
    assert "seeds in both: 0, compared pair by pair; 4 replicates with other seeds left out" in out
    assert "no interval can be computed, paired over 1 seed" in out
    for c in runs.comparisons("relu", "alone"):
        assert np.isfinite(c.means()).all()


def test_compare_of_exploded_run_counts_lost_replicates(runs: Runs) -> None:
    out = runs.compared("tanh", "exploded")
    assert f"{END}: no difference can be computed" in out
    assert "left out, as not finite: 5 of 5 in B, 100% [57%, 100%] (Wilson)" in out
    assert "these are two different cost functions" in out
    result = comparison_of(runs.comparisons("tanh", "exploded"), END)
    assert math.isfinite(result.means()[0])
    assert math.isnan(result.means()[1])


def test_classification_and_regression_share_only_the_cost(runs: Runs) -> None:
    assert [c.quantity for c in runs.comparisons("tanh", "regression")] == [COST]
    assert {c.quantity for c in runs.comparisons("regression", "regression")} == {COST, R2}


def test_compare_accepts_the_start_of_an_id(runs: Runs) -> None:
    assert compare(runs.id("tanh")[:8], runs.id("relu")[:10], None, runs.tracking).a.run_id == runs.id("tanh")


def test_compare_command_prints_lines_table_and_conclusions(runs: Runs) -> None:
    a, b = runs.id("tanh"), runs.id("relu")
    result = compare(a, b, None, runs.tracking)
    invocation = invoke("compare", a, b, "--uri", str(runs.tracking.uri))
    assert (invocation.code, invocation.err) == (0, "")
    printed = invocation.out.splitlines()
    assert printed[: len(result.lines())] == result.lines()
    assert printed[-len(result.conclusions()) :] == result.conclusions()
    assert sum(line.startswith("│") for line in printed) == len(result.quantities)


def refusal(runs: Runs, a: str, b: str, precision: float | None = None) -> str:
    with pytest.raises(ConfigError) as wrong:
        compare(a, b, precision, runs.tracking)
    assert "\n" not in str(wrong.value)
    return str(wrong.value)


def test_missing_runs_and_stores_are_reported_in_one_line(runs: Runs, tmp_path: Path) -> None:
    assert "no such run" in refusal(runs, runs.id("tanh"), "0" * 32)
    assert "no such run" in refusal(runs, "short", runs.id("tanh"))
    nowhere = TrackingConfig(f"sqlite:///{tmp_path / 'none.db'}", "gradvitals")
    with pytest.raises(ConfigError, match="no store there yet"):
        compare("a" * 32, "b" * 32, None, nowhere)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("precision", [0.0, -1.0, math.nan, math.inf])
def test_precision_must_be_positive(runs: Runs, precision: float) -> None:
    assert "precision=" in refusal(runs, runs.id("tanh"), runs.id("relu"), precision)


def test_run_without_config_or_records_is_rejected(runs: Runs) -> None:
    log = runs.store.start("bare", {})
    assert "has no artifact config.yaml" in refusal(runs, runs.id("tanh"), log.run_id)
    log.text("seed: 0\nreplicates: 5\n", "config.yaml")
    log.end("FINISHED")
    assert "has no artifact records.parquet" in refusal(runs, runs.id("tanh"), log.run_id)


def broken_bytes(path: Path) -> None:
    path.write_bytes(b"PAR1 no parquet PAR1")


def other_columns(path: Path) -> None:
    pd.DataFrame({"x": [1.0]}).to_parquet(path)


def missing_column(path: Path) -> None:
    pd.read_parquet(path).drop(columns="layer").to_parquet(path)


def other_replicates(path: Path) -> None:
    table = pd.read_parquet(path)
    table[table["replicate"] < 3].to_parquet(path)


def ragged(path: Path) -> None:
    table = pd.read_parquet(path)
    table[(table["replicate"] < 4) | (table["layer"] != 2)].to_parquet(path)


@pytest.mark.parametrize("damage", [broken_bytes, other_columns, missing_column, other_replicates, ragged])
def test_unreadable_records_are_rejected(runs: Runs, damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = runs.artifact("relu", "records.parquet")
    shutil.copy(path, tmp_path / "kept")
    try:
        damage(path)
        assert "records.parquet of run" in refusal(runs, runs.id("tanh"), runs.id("relu"))
    finally:
        shutil.copy(tmp_path / "kept", path)


@pytest.mark.parametrize("text", ["seed: zero\nreplicates: 5\n", "replicates: 5\n", "[1]\n", "a: [\n", "seed: ${x}\n"])
def test_unreadable_config_is_rejected(runs: Runs, text: str) -> None:
    path = runs.artifact("relu", "config.yaml")
    kept = path.read_text()
    try:
        path.write_text(text)
        assert "config.yaml" in refusal(runs, runs.id("relu"), runs.id("tanh"))
    finally:
        path.write_text(kept)
