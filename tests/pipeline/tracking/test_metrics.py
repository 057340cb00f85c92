"""Metrics: which series are logged, under which names, and that a name that is not logged is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import invoke, run_command
from support.configs import config, raw_config
from support.stores import empty, opened, runs, uri

from pipeline.analysis.expectation import expect
from pipeline.cli import main
from pipeline.errors import ConfigError
from pipeline.reproducibility.fingerprint import fingerprint
from pipeline.sweeps.plan import tracking_of
from pipeline.sweeps.sweep import SweepOptions
from pipeline.tracking.metric_names import WORST, check_metric, metric_names
from pipeline.tracking.metrics import MetricLogger, layer_mean, worst
from pipeline.tracking.run_logger import RunLogger
from pipeline.tracking.uri import MOST_FIGURES, MetricChoice, TrackingConfig
from pipeline.training.divergence import Divergence
from pipeline.training.loop import Callbacks, train
from pipeline.training.prepare import PreparedRun, prepare_run
from pipeline.training.records import Record

SMALL = ("experiment=smoke", "architecture.depth=4", "data.subset=100", "epochs=1", "probes=standard")
EXPLODING = ("init=gaussian", "init.weights.std=1e60", "activation=relu", "optimizer.learning_rate=1e80")
EVERYTHING = ("probes=full", "epochs=1")
CHOICES: list[MetricChoice] = ["summary", "all", ("z_mean_square", "dead_fraction")]


class NullClient:
    """A store that accepts everything."""

    def log(self, *_: Any) -> None:
        """Do nothing."""


class Points(RunLogger):
    """A logger that keeps the values of each key by step."""

    def metric(self, key: str, value: float, step: int = 0) -> bool:
        self.points.setdefault(key, {})[step] = value
        return True

    @property
    def points(self) -> dict[str, dict[int, float]]:
        return self.__dict__.setdefault("_points", {})


def logged(run: PreparedRun, choice: MetricChoice = "summary") -> tuple[dict[str, dict[int, float]], list[Divergence]]:
    """Train a run; return the values of each metric by step, and the divergences."""
    points, divergences = Points(NullClient(), "run"), list[Divergence]()
    logger = MetricLogger(points, run.config.replicates, list(run.config.probes), divergences, expect(run), choice)
    for record in train(run, Callbacks(on_divergence=logger.diverged)):
        logger.record(record)
    return points.points, divergences


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize(
    "overrides", [(), ("replicates=1",), EXPLODING, EVERYTHING], ids=["replicates", "single", "exploding", "full"]
)
@pytest.mark.thorough
def test_metric_names_that_are_logged_are_allowed(overrides: tuple[str, ...], choice: MetricChoice) -> None:
    run = prepare_run(config(*SMALL, *overrides))
    keys, divergences = logged(run, choice)
    assert len(keys) > 20
    assert bool(divergences) is (overrides == EXPLODING)
    assert not set(keys) - set(metric_names(run, choice))
    for key in keys:
        check_metric(key, run, "search.metric", choice)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("replicates", [1, 2])
@pytest.mark.thorough
def test_metrics_of_a_finished_run_are_the_allowed_ones(tmp_path: Path, choice: MetricChoice, replicates: int) -> None:
    """Only metrics of what did not happen are allowed and not logged."""
    text = choice if isinstance(choice, str) else f"[{','.join(choice)}]"
    overrides = [*SMALL, f"replicates={replicates}", "checkpoints.seconds=0"]
    assert run_command(*overrides, f"tracking.metrics={text}", f"tracking.uri={uri(tmp_path)}").code == 0
    (run,) = runs(tmp_path)
    missing = set(metric_names(prepare_run(config(*overrides)), choice)) - set(run.data.metrics)
    last_layer = re.compile(r"(.*/)?(log10_)?(saturated|dead)_fraction/layer_05")  # measured in hidden layers only
    not_magnitudes = re.compile(r"log10_(activation_mean|activation_std|coherence|saturated_fraction|dead_fraction)/.*")
    allowed = re.compile(rf"non_finite/.*|diverged_at_step|{last_layer.pattern}|{not_magnitudes.pattern}")
    assert not [name for name in missing if not allowed.fullmatch(name)]
    assert not set(run.data.metrics) - set(metric_names(prepare_run(config(*overrides)), choice))


@pytest.mark.parametrize("overrides", [("replicates=2", "checkpoints.seconds=0"), ("replicates=1",)], ids=str)
def test_run_of_twenty_hidden_layers_has_at_most_150_metrics(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    small = ("architecture=deep", "architecture.depth=20", "architecture.width=8", "data.subset=60", "epochs=1")
    assert run_command(*small, *overrides, f"tracking.uri={uri(tmp_path)}").code == 0
    (run,) = runs(tmp_path)
    assert {"overhead/tracking", "diverged_fraction", "delta_rms/layer_21"} <= set(run.data.metrics)
    assert ("interval_low/final_cost_test" in run.data.metrics) == ("replicates=2" in overrides)
    assert not [key for key in run.data.metrics if key.startswith("interval_") and "/layer_" in key]
    assert len(run.data.metrics) <= 150


def test_summary_is_the_mean_and_the_worst_over_layers() -> None:
    """Recomputed from the series of all layers."""
    points, _ = logged(prepare_run(config(*SMALL)), "all")
    for probe, geometric, extreme in (
        ("dead_fraction", False, max),
        ("activation_std", False, min),
        ("z_mean_square", True, max),
        ("update_to_weight", True, min),
        ("activation_mean", False, lambda values: max(values, key=abs)),
        ("theory_residual", False, lambda values: max(values, key=abs)),
    ):
        layers = [values for key, values in points.items() if key.startswith(f"{probe}/layer_")]
        for step, mean in points[f"{probe}/mean"].items():
            values = [layer[step] for layer in layers]
            expected = 10 ** np.log10(values).mean() if geometric else np.mean(values)
            assert mean == pytest.approx(expected, rel=1e-12), probe
            assert points[f"{probe}/worst"][step] == extreme(values), probe


def test_values_that_are_not_finite_are_left_out_of_mean_and_worst() -> None:
    values = [1.0, math.nan, 100.0, math.inf, -math.inf]
    assert layer_mean(values, geometric=False) == 50.5
    assert layer_mean(values[:3], geometric=True) == pytest.approx(10.0)
    assert layer_mean([0.0, 4.0], geometric=True) == 0
    assert layer_mean([1.7e308, 1.7e308], geometric=False) == pytest.approx(1.7e308)
    assert [worst(name, values) for name in ("coherence", "dead_fraction", "mine")] == [1.0, 100.0, 100.0]
    assert worst("mine", [-3.0, 2.0]) == -3.0
    for nothing in ([], [math.nan]):
        assert math.isnan(layer_mean(nothing, geometric=False))
        assert math.isnan(worst("dead_fraction", nothing))


def test_dropped_values_are_counted() -> None:
    points = Points(NullClient(), "run")
    run = prepare_run(config(*SMALL))
    logger = MetricLogger(points, run.config.replicates, list(run.config.probes), [], None)
    logger.record(Record(0, "dead_fraction", (1, 2), np.array([[0.5, math.nan], [0.25, 0.25]]), geometric=False))
    assert points.points == {
        "diverged_fraction": {0: 0.0},
        "non_finite/dead_fraction": {0: 1},
        "dead_fraction/mean": {0: 0.375},
        "dead_fraction/worst": {0: 0.5},
    }


def test_metric_name_that_is_not_logged_is_refused() -> None:
    run = prepare_run(config(*SMALL))
    for choice in CHOICES:
        with pytest.raises(
            ConfigError, match=r"search\.metric=delta_rsm: no run of this config logs it; did you mean delta"
        ):
            check_metric("delta_rsm", run, "search.metric", choice)
        for key in ("delta_rms/layer_99", "interval_low/accuracy", "overhead/nothing", "dead_fraction", ""):
            with pytest.raises(ConfigError, match="no run of this config logs it"):
                check_metric(key, run, "search.metric", choice)


@pytest.mark.parametrize(
    ("metric", "wider"),
    [
        ("coherence/layer_02", "tracking.metrics=all or tracking.metrics=[coherence]"),
        ("interval_low/delta_rms/layer_01", "tracking.metrics=all"),
        ("theory_residual/layer_01", "tracking.metrics=all"),
        ("overhead/delta_rms", "tracking.metrics=all"),
    ],
)
def test_metric_of_another_choice_is_refused_with_the_choice(metric: str, wider: str) -> None:
    run = prepare_run(config(*SMALL))
    with pytest.raises(ConfigError) as refused:
        check_metric(metric, run, "search.metric")
    assert str(refused.value) == f"search.metric={metric}: is logged with {wider} only"
    check_metric(metric, run, "search.metric", "all")


def test_search_for_a_metric_of_another_choice_is_refused(tmp_path: Path) -> None:
    overrides = ("experiment=search_tanh", "search.metric=coherence/layer_02", f"tracking.uri={uri(tmp_path)}")
    refused = invoke("search", *overrides)
    assert (refused.code, refused.out) == (2, "")
    assert "search.metric=coherence/layer_02: is logged with tracking.metrics=all or" in refused.err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tracking.metrics=al", "tracking.metrics=al: not an option; did you mean all? (allowed: "),
        ("tracking.metrics=dead_fraction", "tracking.metrics=dead_fraction: not an option (allowed: a list of probes"),
        ("tracking.metrics=[coherenc]", "tracking.metrics=[coherenc]: no such probe in this config; did you mean coh"),
        ("tracking.metrics=[sharpness]", "tracking.metrics=[sharpness]: no such probe in this config (allowed: "),
        ("tracking.metrics=[3]", "tracking.metrics=[3]: must be names of probes"),
        ("tracking.metrics=3", "tracking.metrics=3: not an option (allowed: a list of probes"),
        ("tracking.metrics=null", "tracking.metrics=null: not an option (allowed: a list of probes"),
        ("tracking.metric=all", "tracking.metric: unknown key"),
        ("tracking.figures=yess", "tracking.figures=yess: not an option (allowed: auto, false, true)"),
        ("tracking.figures=1", "tracking.figures=1: not an option (allowed: auto, false, true)"),
    ],
)
@pytest.mark.parametrize("command", ["run", "sweep"])
@pytest.mark.thorough
def test_wrong_choice_is_refused_before_any_work(
    tmp_path: Path, command: str, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("experiment=smoke", override, f"tracking.uri=sqlite:///{tmp_path}/none/x.db")
    assert main([command, *overrides]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {message}")
    assert not (tmp_path / "none").exists()


def test_config_of_an_older_run_has_the_defaults() -> None:
    raw = raw_config(*SMALL)
    del raw["tracking"]["metrics"], raw["tracking"]["figures"]
    assert (tracking_of(raw).metrics, tracking_of(raw).figures) == ("summary", "auto")


def test_tracking_is_not_part_of_the_fingerprint() -> None:
    prints = {
        fingerprint(raw_config(*SMALL, *overrides), "data")
        for overrides in ((), ("tracking.metrics=all",), ("tracking.metrics=[coherence]", "tracking.figures=false"))
    }
    assert len(prints) == 1


@pytest.mark.parametrize(
    ("figures", "few", "many"), [("auto", True, False), (True, True, True), (False, False, False)], ids=str
)
def test_figures_are_off_by_themselves_in_large_sweeps(figures: Any, few: bool, many: bool) -> None:
    tracking = TrackingConfig(None, "x", figures=figures)
    options = SweepOptions()
    assert options.run_options(tracking, MOST_FIGURES).figures is few
    assert options.run_options(tracking, MOST_FIGURES + 1).figures is many


@pytest.mark.parametrize(("figures", "pictures"), [("false", []), ("true", ["gradient_norm_by_layer.png"])])
def test_figures_of_a_run_follow_the_key(tmp_path: Path, figures: str, pictures: list[str]) -> None:
    where = f"tracking.uri={empty(uri(tmp_path))}"
    assert run_command(*SMALL, f"tracking.figures={figures}", where).code == 0
    (run,) = runs(tmp_path)
    names = [a.path for a in opened(tmp_path).client.list_artifacts(run.info.run_id)]
    assert [name for name in names if name.endswith(".png")] == pictures


def test_probes_of_the_project_have_a_worst_layer() -> None:
    """A probe without an entry uses the value farthest from 0; those of the project state theirs."""
    run = prepare_run(config(*SMALL, "probes=full"))
    names = {name.removesuffix("/worst") for name in metric_names(run, "summary") if name.endswith("/worst")}
    without_layers = re.compile(r".*_exponents|sharpness|input_output_jacobian_.*")
    assert {name for name in names if not without_layers.fullmatch(name)} == set(WORST)
