"""Searches: they find what theory says, resume, share a study, end what is pruned_run, and refuse what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import FrozenTrial, TrialState
from support.commands import NO_FIGURES, search_command
from support.kills import killed
from support.stores import assert_same, content, empty, opened, uri

from pipeline.analysis.verdict import Verdict, judge
from pipeline.cli import main
from pipeline.config.compose import compose_run
from pipeline.config.schema import build
from pipeline.paths import PROJECT
from pipeline.progress import bars
from pipeline.reproducibility.fingerprint import cell_key
from pipeline.runs.early_stopping import Pruning
from pipeline.runs.job import RunOptions, prepare_cell
from pipeline.runs.stack import run_stack
from pipeline.sweeps.search.search import check_space, search_of
from pipeline.sweeps.search.space import ParameterRange, SearchConfig
from pipeline.sweeps.search.study import Result, Study, is_abandoned, result_of, slot_of
from pipeline.tracking.locks import RunLocks
from pipeline.tracking.tags import SWEEP_TAG
from pipeline.training.prepare import prepare_run

SMALL = (
    "architecture=deep", "architecture.depth=8", "architecture.width=30", "init=mean_field", "init.biases.sigma_b2=0",
    "data=gaussian_noise", "data.source.examples=100", "data.validation_fraction=0.2", "probes=essential",
    "schedule=first_and_last", "epochs=0", "replicates=3", "search=tpe", "search.pruning=null",
)  # fmt: skip
SCALE = "+search.space={init.weights.sigma_w2:{low:0.5,high:8.0,log:true}}"
DECADES = ("search.metric=verdict_decades", "search.direction=zero")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with an empty store."""
    empty(uri(tmp_path))
    return tmp_path


def run_search(folder: Path, *overrides: str, **options: Any) -> tuple[int, str]:
    """Return the exit code of a search, and all that it shows."""
    shown = search_command(*overrides, f"tracking.uri={uri(folder)}", **options)
    return shown.code, shown.text


def trials_of(folder: Path) -> list[FrozenTrial]:
    """All trials of the only study there."""
    (path,) = (folder / "store-studies").glob("*.db")
    return optuna.load_study(study_name=path.stem, storage=f"sqlite:///{path}").get_trials()


def settled(trials: list[FrozenTrial]) -> dict[int, FrozenTrial]:
    """The trials that were not first, by position; each position may occur once."""
    kept = [t for t in trials if not is_abandoned(t)]
    found = {slot_of(t): t for t in kept}
    assert len(found) == len(kept), "a position was settled twice"
    return found


def config(sampler: Any = "tpe", trials: int = 15, seed: int = 0, direction: Any = "maximise") -> SearchConfig:
    space = {
        "x": ParameterRange(low=-2.0, high=3.0),
        "n": ParameterRange(low=1, high=4),
        "c": ParameterRange(choices=("a", "b")),
    }
    return SearchConfig("metric", direction, trials, sampler, seed, None, space)


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Study]:
    """A study without runs; each has a folder of its own if it is given a name."""

    def make(name: str = "", lock: str = "me", **changes: Any) -> Study:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Study(folder, "study", config(**changes), RunLocks(folder / "locks"), lock)

    return make


def objective(params: dict[str, Any]) -> float:
    return -((params["x"] - 1.0) ** 2) + params["n"] - (1.0 if params["c"] == "a" else 0.0)


def settle_trials(study: Study, count: int = 1000) -> list[dict[str, Any]]:
    """Settle so many trials; returns their parameters."""
    found: list[dict[str, Any]] = []
    while len(found) < count and (trial := study.claim()) is not None:
        study.tell(trial, Result("run", value=objective(trial.params)))
        found.append(trial.params)
    return found


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("random", marks=pytest.mark.thorough)])
@pytest.mark.thorough
def test_same_seed_gives_the_same_trials(study: Callable[..., Study], sampler: str) -> None:
    first, again = (settle_trials(study(name, sampler=sampler, trials=12)) for name in "ab")
    assert len(first) == 12
    assert first == again
    assert settle_trials(study("c", sampler=sampler, seed=1, trials=2)) != first[:2]


@pytest.mark.thorough
def test_tpe_improves_and_random_sampling_does_not(study: Callable[..., Study]) -> None:
    tpe, random = (settle_trials(study(s, sampler=s, trials=30)) for s in ("tpe", "random"))
    late = [sum(map(objective, found[15:])) / 15 for found in (tpe, random)]
    assert late[0] > late[1] + 1
    assert study("tpe", trials=30).best().params["n"] == 4  # type: ignore[union-attr]


@pytest.mark.thorough
def test_interrupted_study_continues_as_if_uninterrupted(study: Callable[..., Study]) -> None:
    alone = settle_trials(study("alone"))
    settle_trials(study("cut"), 7)
    dead = study("cut", lock="dead")
    first = dead.claim()
    assert first is not None
    assert first.params == alone[7]
    after = settle_trials(study("cut"))
    assert [first.params, *after[1:]] == alone[7:]
    assert after[0] == first.params
    found = study("cut")
    assert found.done()
    assert [slot_of(t) for t in found.settled()] == list(range(15))


@pytest.mark.thorough
def test_more_trials_extend_the_same_study(study: Callable[..., Study]) -> None:
    whole = settle_trials(study("whole"))
    assert settle_trials(study("two", trials=6)) == whole[:6]
    assert settle_trials(study("two")) == whole[6:]


def test_trial_of_a_dead_process_is_abandoned(study: Callable[..., Study], tmp_path: Path) -> None:
    other = study("s", lock="other", trials=1)
    with RunLocks(tmp_path / "s" / "locks").acquire("other"):
        assert other.claim() is not None
        assert study("s", trials=1).claim() is None
        assert not study("s", trials=1).done()
    again = study("s", trials=1).claim()
    assert again is not None
    assert [t.state for t in other.optuna_study.get_trials()] == [TrialState.FAIL, TrialState.RUNNING]


def test_failed_and_pruned_trials_are_settled(study: Callable[..., Study]) -> None:
    s = study("s", trials=3)
    for result in (Result("", error="boom"), Result("run", pruned="vanishing"), Result("run", value=1.0)):
        trial = s.claim()
        assert trial is not None
        s.tell(trial, result)
    assert s.claim() is None
    assert [t.state for t in s.settled()] == [TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE]
    assert s.best() == s.settled()[2]


@pytest.mark.thorough
def test_search_finds_the_critical_weight_scale_of_relu(place: Path) -> None:
    """He et al. 2015: ⟨δ²⟩ is multiplied by σ_w²/2 a layer, so that 2 loses nothing."""
    code, text = run_search(place, *SMALL, *DECADES, SCALE, "activation=relu", "search.seed=1", trials=12)
    assert code == 0
    assert "12 trials: 12 with a value, 0 pruned, 0 failed" in text
    store, found = opened(place), settled(trials_of(place))
    best = min(found.values(), key=lambda t: t.value or 0.0)
    assert best.params["init.weights.sigma_w2"] == pytest.approx(2.0, rel=0.25)
    runs = {r.info.run_id: r for r in store.search("tags.kind = 'run'")}
    assert len(runs) == 12
    for trial in found.values():
        run = runs[result_of(trial).run_id]
        assert trial.value == abs(run.data.metrics["verdict_decades"])
        assert float(run.data.params["init.weights.sigma_w2"]) == trial.params["init.weights.sigma_w2"]
        assert run.data.tags["optuna_trial"] == str(trial.number)
        assert f"study {run.data.tags[SWEEP_TAG]}:" in text
    (summary,) = store.search("tags.kind = 'sweep'")
    assert {a.path for a in store.client.list_artifacts(summary.info.run_id)} == {
        "search.png",
        "search_parameters.png",
        "search.csv",
    }
    table = pd.read_csv(store.client.download_artifacts(summary.info.run_id, "search.csv", str(place)))
    assert table["|verdict_decades|"].to_list() == [found[i].value for i in range(12)]
    code, text = run_search(place, *SMALL, *DECADES, SCALE, "activation=relu", "search.seed=1", trials=12)
    assert (code, len(store.search())) == (0, 13), "the same command again runs nothing"
    assert "12 done before" in text


@pytest.mark.thorough
def test_search_killed_many_times_equals_the_undisturbed_search(place: Path) -> None:
    overrides = (
        "experiment=depth", "data=iris", "epochs=2", "architecture.depth=2", "replicates=2", "probes=essential",
        "search=random", "search.pruning=null", "checkpoints.seconds=0.02", "activation=tanh",
        "data.validation_fraction=0.2", "+search.space={optimizer.learning_rate:{low:0.01,high:1.0,log:true}}",
    )  # fmt: skip
    cut, kills = place / "cut", 60 if os.environ.get("GRADVITALS_SLOW") else 4
    assert run_search(place, *overrides, trials=3)[0] == 0
    killed(cut, kills, 3, 1.5, "search", "--trials", "3", *overrides)
    assert_same(content(place), content(cut))
    one, other = settled(trials_of(place)), settled(trials_of(cut))
    assert sorted(one) == sorted(other) == [0, 1, 2]
    assert [(one[i].params, one[i].value) for i in one] == [(other[i].params, other[i].value) for i in one]
    assert TrialState.RUNNING not in {t.state for t in trials_of(cut)}
    assert {r.info.status for r in opened(cut).search()} == {"FINISHED"}


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline", "search", *arguments, NO_FIGURES, f"tracking.uri={uri(folder)}"]
    environment = {**os.environ, "CI": "1"}
    return subprocess.Popen(
        command, cwd=PROJECT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.thorough
def test_two_commands_settle_each_trial_once(place: Path) -> None:
    """One with two workers, one without."""
    arguments = ("--trials", "5", *SMALL, *DECADES, SCALE, "search.sampler=random")
    both = [started(place, "--jobs", "2", *arguments), started(place, *arguments)]
    text = [process.communicate(timeout=120)[0] for process in both]
    assert [p.returncode for p in both] == [0, 0], text
    found = settled(trials_of(place))
    assert sorted(found) == list(range(5))
    assert {t.state for t in trials_of(place)} == {TrialState.COMPLETE}
    assert len(opened(place).search("tags.kind = 'run'")) == 5
    assert len(opened(place).search("tags.kind = 'sweep'")) == 1


SLOW = pytest.mark.skipif(not os.environ.get("GRADVITALS_SLOW"), reason="two jobs cover more: GRADVITALS_SLOW=1")


@pytest.mark.thorough
@pytest.mark.parametrize("jobs", [pytest.param(1, marks=SLOW), 2])
def test_interrupted_search_ends_within_5_s_and_can_be_resumed(place: Path, jobs: int) -> None:
    arguments = ("--trials", "2", *SMALL, SCALE, "search.metric=final_cost_train")
    process = started(place, "--jobs", str(jobs), *arguments, "epochs=100000")
    store, until = opened(place), time.monotonic() + 60
    while time.monotonic() < until and len(store.search("attributes.status = 'RUNNING'")) < jobs:
        time.sleep(0.2)
    time.sleep(0.5)
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=30)[0]
    assert time.monotonic() - start < 5
    assert process.returncode == 143, text
    assert "0 of 2 trials done" in text
    assert [r.info.status for r in store.search()] == ["KILLED"] * jobs
    assert {t.state for t in trials_of(place)} == {TrialState.FAIL}
    assert all(is_abandoned(t) for t in trials_of(place))


def verdict(*overrides: str) -> Verdict:
    from pipeline.analysis.expectation import expect
    from pipeline.analysis.summary import Summary
    from pipeline.training.loop import train

    run = prepare_run(build(compose_run([*SMALL, *overrides])))
    summary = Summary(len(run.sizes) - 2)
    for record in train(run):
        summary.add(record)
    found = judge(summary, run.config, 0, expect(run), run.sizes)
    assert found is not None
    return found


def test_pruning_needs_an_interval_beyond_the_decades() -> None:
    deep = ("activation=tanh", "architecture.depth=20")
    vanishing = verdict(*deep, "init.weights.sigma_w2=0.4")
    low, high = float(vanishing.decades.low), float(vanishing.decades.high)
    assert 3 < low < float(vanishing.decades.mean) < high
    assert str(Pruning(low - 0.01).reason(vanishing)).startswith("vanishing: ")
    assert Pruning((low + high) / 2).reason(vanishing) is None, "not sure"
    exploding = verdict("activation=identity", "architecture.depth=20", "init.weights.sigma_w2=3")
    assert str(Pruning(2.0).reason(exploding)).startswith("exploding: -")
    assert Pruning(1.0).reason(verdict(*deep, "init.weights.sigma_w2=1.2")) is None
    with pytest.raises(ValueError, match=r"^decades=0.5: must be >= 1, where the verdict begins$"):
        Pruning(0.5)


@pytest.mark.thorough
def test_pruned_trials_end_early_and_are_tagged(place: Path) -> None:
    space = "+search.space={init.weights.sigma_w2:{choices:[0.2,1.5]}}"
    overrides = (*SMALL, "activation=tanh", "architecture.depth=15", "epochs=2", "search.metric=final_cost_train",
                 "search.direction=minimise", "search.pruning={decades:2.0}", space)  # fmt: skip
    code, text = run_search(place, *overrides, trials=4)
    assert code == 0
    assert "pruned: vanishing: " in text
    store, found = opened(place), settled(trials_of(place))
    scales = {i: t.params["init.weights.sigma_w2"] for i, t in found.items()}
    assert set(scales.values()) == {"0.2", "1.5"}
    for i, trial in found.items():
        assert trial.state == (TrialState.PRUNED if scales[i] == "0.2" else TrialState.COMPLETE)
    runs = {r.data.params["init.weights.sigma_w2"]: r for r in store.search("tags.kind = 'run'")}
    assert len(runs) == len(store.search("tags.kind = 'run'")) == 2, "equal trials share a run, pruned ones too"
    pruned_run, healthy = runs["0.2"], runs["1.5"]
    assert (pruned_run.info.status, healthy.info.status) == ("KILLED", "FINISHED")
    assert pruned_run.data.tags["pruned"].endswith(" over the hidden layers at step 0")
    assert pruned_run.data.tags["pruned_at_step"] == "0"
    assert pruned_run.data.tags["mlflow.note.content"].startswith("**Pruned**")
    assert "pruned" not in healthy.data.tags
    assert set(read(store, pruned_run, place)["step"]) == {0}

    raw_config = compose_run([*overrides, "init.weights.sigma_w2=0.2", f"tracking.uri={uri(place)}"])
    job = prepare_cell(raw_config, "whole", {}, {})
    assert cell_key(job.cell_id) not in pruned_run.data.tags, "the cell itself has not been run"
    with bars(1, quiet=True) as hidden:
        ((_, whole),) = run_stack([job], store, RunOptions(command="c"), hidden)
    assert whole is not None
    assert (whole.action, whole.result.status) == ("new", "FINISHED")


def read(store: Any, run: Any, folder: Path) -> pd.DataFrame:
    return pd.read_parquet(store.client.download_artifacts(run.info.run_id, "records.parquet", str(folder)))


@pytest.mark.thorough
def test_fully_diverged_trial_is_pruned_and_one_without_the_metric_fails(place: Path) -> None:
    blown = ("data=diabetes", "cost=half_squared_error", "activation@output=identity", "activation=relu", "epochs=3",
             "probes=essential", "search=tpe", "search.pruning.decades=100", "replicates=1", "batching.size=50",
             "search.metric=final_cost_train", "+search.space={optimizer.learning_rate:{choices:[1e6]}}")  # fmt: skip
    code, text = run_search(place, *blown, trials=1)
    assert code == 0
    assert "pruned: all replicates diverged" in text
    (run,) = opened(place).search("tags.kind = 'run'")
    assert (run.info.status, run.data.tags["pruned"]) == ("FINISHED", "all replicates diverged")
    rare = (
        "data=iris",
        "epochs=1",
        "search=tpe",
        "search.metric=diverged_at_step",
        "+search.space={seed:{choices:[1]}}",
    )
    code, text = run_search(place, *rare, trials=1)
    assert code == 1
    assert "failed: seed=1: its run logged no diverged_at_step" in text


@pytest.mark.parametrize(
    "metric", ["final_cost_test", "accuracy/test", "interval_low/final_r2_test", "interval_high/cost/test"]
)
def test_score_on_the_test_set_is_no_objective(metric: str) -> None:
    with pytest.raises(ValueError, match=rf"^metric={metric}: is a score on the test set; .*validation with data"):
        SearchConfig(metric, "maximise", 1, "random", 0, None, {"x": ParameterRange(low=0.0, high=1.0)})


def test_search_selects_by_the_validation_set_by_default() -> None:
    config = search_of(compose_run(["experiment=search_tanh"]), [], None)
    assert (config.metric, config.direction) == ("final_accuracy_validation", "maximise")
    check_space(config, ["experiment=search_tanh"], None)


WRONG = [
    (("experiment=smoke",), "search: this config describes no search; give one: experiment=search_tanh"),
    (("search=tpe",), "search.space={}: must name at least one key"),
    (("search=tpi",), "search=tpi: no such option; did you mean tpe?"),
    ((*SMALL, "+search.space={nothing:{low:0,high:1}}"), "nothing: unknown key 'nothing'"),
    ((*SMALL, "+search.space={optimizer.learning_rat:{low:0.1,high:1}}"), "optimizer.learning_rat: unknown key"),
    ((*SMALL, "+search.space={seed:{low:3,high:1}}"), "search.space.seed.low=3: must be below high=1"),
    ((*SMALL, "+search.space={seed:{low:3}}"), "search.space.seed.high: is missing"),
    ((*SMALL, "+search.space={seed:{lo:3}}"), "search.space.seed.lo: unknown key; did you mean low?"),
    ((*SMALL, "+search.space={seed:5}"), "search.space.seed=5: must be a mapping"),
    ((*SMALL, "+search.space={seed:{choices:[]}}"), "search.space.seed.choices=[]: must hold at least one value"),
    ((*SMALL, "+search.space={seed:{choices:[1,1]}}"), "search.space.seed.choices: must differ, but 1 is there twice"),
    ((*SMALL, "+search.space={seed:{choices:[1],low:0}}"), "search.space.seed.choices: must stand alone"),
    ((*SMALL, "+search.space={seed:{low:0,high:5,log:true}}"), "search.space.seed.low=0: must be > 0 with log: true"),
    ((*SMALL, "+search.space={seed:{low:0,high:5,step:9}}"), "search.space.seed.step=9: must be > 0 and at most"),
    ((*SMALL, "+search.space={seed:{low:0.5,high:5}}"), "seed=0.5: must be an integer"),
    ((*SMALL, "+search.space={batching.size:{low:0,high:5}}"), "batching.size=0: must be >= 1"),
    ((*SMALL, "+search.space={activation:{choices:[tanh,tanhh]}}"), "activation=tanhh: no such option"),
    ((*SMALL, SCALE, "search.metric=accuracy"), "search.metric=accuracy: no run of this config logs it; did you mean"),
    ((*SMALL, SCALE, "search.metric=final_r2_validation"), "search.metric=final_r2_validation: no run of this config"),
    ((*SMALL, SCALE, "search.metric=final_accuracy_test"), "search.metric=final_accuracy_test: is a score on the test"),
    ((*SMALL, SCALE, "search.metric=r2/test"), "search.metric=r2/test: is a score on the test set"),
    ((*SMALL, SCALE, "data.validation_fraction=0"),
     "search.metric=final_accuracy_validation: this config has no validation set; set data.validation_fraction"),
    ((*SMALL, SCALE, "search.metric=delta_rms/layer_99"), "search.metric=delta_rms/layer_99: no run"),
    ((*SMALL, SCALE, "search.direction=up"), "search.direction=up: not an option"),
    ((*SMALL, SCALE, "search.sampler=grid"), "search.sampler=grid: not an option (allowed: random, tpe)"),
    ((*SMALL, SCALE, "search.trials=0"), "search.trials=0: must be >= 1"),
    ((*SMALL, SCALE, "search.pruning={decades:0.1}"), "search.pruning.decades=0.1: must be >= 1"),
    (("--trials", "0", *SMALL, SCALE), "TRIALS=0: must be >= 1"),
    (("--jobs", "0", *SMALL, SCALE), "JOBS=0: must be >= 1"),
    ((*SMALL, SCALE, "init.weights.sigma_w2=1"), "search.space={}: must name at least one key"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[message[:50] for _, message in WRONG])
@pytest.mark.thorough
def test_invalid_search_is_refused_in_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", *arguments, f"tracking.uri={uri(tmp_path / 'none')}"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {message}")
    assert not (tmp_path / "none").exists()
