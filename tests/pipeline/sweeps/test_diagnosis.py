"""Verdicts on networks that were trained elsewhere: those that a run with the same measurements has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.commands import NO_FIGURES, invoke
from support.stores import empty, opened, uri

from pipeline import ConfigError, diagnose, load, run, runs
from pipeline.reports.run_report import report_run

pytestmark = pytest.mark.xdist_group("diagnosis")

SMALL = ("data=iris", "epochs=2", "architecture.depth=6", "architecture.width=8", NO_FIGURES)
SICK = {
    "vanishing": ("activation=sigmoid", "init=glorot_normal"),
    "exploding": ("activation=relu", "init=gaussian", "init.weights.std=3", "optimizer.learning_rate=1e-12"),
    "healthy": ("activation=relu", "init=he_normal", "replicates=20", "architecture.width=64"),
    "diverged": ("activation=relu", "init=he_normal", "optimizer.learning_rate=1e9"),
}


@pytest.fixture(scope="module", params=SICK)
def trained(request: pytest.FixtureRequest) -> Any:
    """Runs of five networks each, with a verdict that has their name in it."""
    result = run(*SMALL, "replicates=5", *SICK[request.param], track=False)
    assert request.param in result.verdict
    return result


def test_verdict_without_a_config_is_that_of_the_run(trained: Any) -> None:
    """Oracle: the run's own verdict, from the same records and its config."""
    judged = diagnose(trained.records, name="mine", track=False)
    assert judged.verdict == trained.verdict
    assert judged.explanation.split(" Not judged")[0].partition(".")[0] == trained.explanation.partition(".")[0]
    assert judged.scores == trained.scores
    assert "Not judged without a config" in judged.explanation
    assert "RUN=" not in judged.explanation


def wide(decades: float, replicates: int = 3, **columns: Any) -> pd.DataFrame:
    """A network with nine hidden layers whose δ loses this many decades, at two steps."""
    rows = [
        {"step": s, "layer": n, "replicate": r, "delta_rms": (1 + r / 50) * 10 ** (-decades * (9 - n) / 8)}
        for s in (0, 10)
        for n in range(1, 11)
        for r in range(replicates)
    ]
    return pd.DataFrame(rows).assign(**columns)


@pytest.mark.parametrize(("decades", "verdict"), [(3.0, "vanishing"), (-3.0, "exploding"), (0.2, "healthy")])
def test_verdict_follows_from_a_slope_that_was_planted(decades: float, verdict: str) -> None:
    judged = diagnose(wide(decades), track=False)
    assert judged.verdict == verdict
    assert judged.estimates["decades_lost_delta_rms_start"].mean == pytest.approx(decades)


def test_single_network_is_judged_alone_and_that_is_said() -> None:
    judged = diagnose(wide(3.0, replicates=1), track=False)
    assert judged.verdict == "vanishing"
    assert "The verdict is about this one network: other seeds may differ." in judged.explanation
    assert "[" not in judged.explanation


def test_explanation_names_the_columns_that_more_could_be_judged_from() -> None:
    assert "dead units (dead_fraction)" in diagnose(wide(0.0), track=False).explanation
    complete = wide(0.0, dead_fraction=0.0, saturated_fraction=0.0)
    assert "lacks the columns for the learning rate (cost_train)." in diagnose(complete, track=False).explanation
    assert diagnose(wide(0.0, dead_fraction=1.0), track=False).verdict == "dead"
    assert diagnose(wide(0.0, saturated_fraction=0.9), track=False).verdict == "saturated"


def test_command_logs_a_run_with_report_and_no_config(tmp_path: Path) -> None:
    address = empty(uri(tmp_path))
    wide(3.0).to_parquet(tmp_path / "mine.parquet")
    done = invoke("diagnose", str(tmp_path / "mine.parquet"), "--uri", address)
    assert done.code == 0, done.err
    assert "mine: vanishing" in done.out
    table = runs(uri=address)
    (run_id,) = table["run_id"]
    assert run_id[:8] in done.out
    assert table["decades"][0] == pytest.approx(3.0)
    loaded = load(run_id, uri=address)
    judged = diagnose(wide(3.0), track=False)
    assert (loaded.verdict, loaded.explanation, loaded.scores) == (judged.verdict, judged.explanation, judged.scores)
    pd.testing.assert_frame_equal(loaded.records, judged.records, check_exact=True)
    assert loaded.figure() is not None
    page = report_run(opened(tmp_path), run_id)
    assert "was trained elsewhere" in page
    assert "Run it again" not in page
    for missing in ("network", "config"):
        with pytest.raises(ConfigError, match="was trained elsewhere"):
            getattr(loaded, missing)
    refused = invoke("reproduce", run_id, "--uri", address)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "config.yaml" in refused.err


def test_network_that_diverged_is_logged_as_one_trained_here(tmp_path: Path) -> None:
    table = wide(3.0)
    table.loc[(table["step"] == 10) & (table["replicate"] == 1), "delta_rms"] = float("nan")
    address = empty(uri(tmp_path))
    logged = diagnose(table, name="mine", uri=address)
    assert logged.verdict.startswith("diverged")
    (found,) = opened(tmp_path).search("tags.kind = 'run'")
    assert found.data.tags["diverged_replicates"] == "1"
    assert found.data.metrics["diverged_at_step"] == 10
    assert found.data.metrics["diverged_fraction"] == pytest.approx(1 / 3)
    assert "Where it diverged" in report_run(opened(tmp_path), str(logged.run_id))


def test_folder_is_no_table(tmp_path: Path) -> None:
    done = invoke("diagnose", str(tmp_path))
    assert (done.code, done.err) == (2, f"error: {tmp_path}: is a folder; must be a parquet or .csv file\n")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.parquet", None, "no such file; must be a parquet or .csv file"),
        ("broken.parquet", b"PAR1 and no more", "is not readable as parquet"),
        ("broken.csv", b"\xff\xfe\x00", "is not readable as CSV"),
        ("empty.csv", b"", "is not readable as CSV"),
        ("text.csv", b"step,layer,delta_rms\n0,1,high\n0,2,low\n", "delta_rms='high' in row 0: must be a number"),
    ],
)
def test_files_that_hold_no_table_are_refused_before_anything_is_written(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = invoke("diagnose", str(tmp_path / name), "--uri", uri(tmp_path / "store"))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert says in done.err
    assert not (tmp_path / "store").exists()


def test_csv_and_parquet_files_have_the_same_verdict(tmp_path: Path) -> None:
    wide(3.0).to_csv(tmp_path / "mine.csv", index=False)
    from_csv = diagnose(tmp_path / "mine.csv", track=False)
    assert from_csv.explanation == diagnose(wide(3.0), track=False).explanation
