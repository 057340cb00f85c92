"""Remedy trials: a remedy changes the keys that it names, and its effect is computed seed by seed."""

from __future__ import annotations

import copy
import dataclasses
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.commands import run_command, shown
from support.configs import config

from engine.arrays import Array
from pipeline.analysis.classes import DEATH, DIVERGED, EXPLODING, SATURATION, TOO_HIGH, TOO_LOW, VANISHING
from pipeline.analysis.estimates import Estimate
from pipeline.analysis.expectation import expect
from pipeline.analysis.remedies import Remedy, remedies
from pipeline.analysis.verdict import Verdict
from pipeline.config import schema as configs
from pipeline.config.compose import compose_run
from pipeline.errors import ConfigError
from pipeline.runs.result import RunResult
from pipeline.sweeps.remedy_trials import DECADES, control, prescribe
from pipeline.sweeps.remedy_trials import compare_to_baseline as trial
from pipeline.tracking.logged_run import LoggedRun
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.tracking.tags import in_sweep
from pipeline.training.prepare import prepare_run

SMALL = ("experiment=depth", "activation=sigmoid", "architecture.depth=8", "architecture.width=16", "data.subset=200")


def verdict(*classes: str) -> Verdict:
    nothing = Estimate(*(np.array(np.nan) for _ in range(4)))
    numbers = {"relative gradient": dataclasses.replace(nothing, mean=np.array(0.02))}
    return Verdict(classes, classes[0], classes[0], nothing, nothing, numbers=numbers)


@pytest.mark.parametrize(
    "classes",
    [(VANISHING,), (EXPLODING,), (SATURATION,), (DEATH,), (DIVERGED, EXPLODING), (TOO_HIGH,), (TOO_LOW,)],
    ids=" ".join,
)
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
@pytest.mark.thorough
def test_remedies_give_valid_configs(classes: tuple[str, ...], activation: str) -> None:
    raw_config = compose_run([*SMALL, f"activation={activation}"])
    original, prepared = copy.deepcopy(raw_config), prepare_run(configs.build(raw_config))
    proposed = remedies(verdict(*classes), prepared.config, expect(prepared))
    is_critical = activation == "relu" and classes in ((VANISHING,), (SATURATION,))  # nothing of it can be mended
    assert bool(proposed) is not is_critical
    assert len({r.name for r in proposed}) == len(proposed)
    for remedy in proposed:
        changed = remedy.applied(raw_config)
        assert changed != raw_config
        assert raw_config == original, "the logged config is left as it was"
        again = prepare_run(configs.build(changed, configs.OWN_PACKAGES))
        typed = configs.build(compose_run([*SMALL, f"activation={activation}", *remedy.overrides.split()]))
        assert again.config.activation == typed.activation
        assert again.config.optimizer == typed.optimizer
        assert again.config.seed == prepared.config.seed


def test_remedy_reason_agrees_with_theory() -> None:
    """From χ = 0.056 to 1; and the remedied config's own expectation has that χ."""
    raw_config = compose_run([*SMALL])
    prepared = prepare_run(configs.build(raw_config))
    for remedy in remedies(verdict(VANISHING), prepared.config, expect(prepared)):
        assert "χ from 0.05" in remedy.reason
        after = expect(prepare_run(configs.build(remedy.applied(raw_config))))
        assert after is not None
        assert float(after.profile.chi[-3]) == pytest.approx(1.0, abs=0.02)


def test_control_is_small_and_reproducible() -> None:
    raw_config = compose_run([*SMALL])
    first, second = control(raw_config), control(raw_config)
    assert first == second
    factor = float(first.patch["optimizer.learning_rate"]) / raw_config["optimizer"]["learning_rate"]
    assert 0.8 <= factor <= 1.25
    assert factor != 1
    assert first.name == f"control: learning rate {first.patch['optimizer.learning_rate']:g}"


def test_control_of_an_untrained_run_is_a_change() -> None:
    for override in ("epochs=0", "optimizer.learning_rate=0"):
        raw_config = compose_run([*SMALL, override])
        changed = control(raw_config).applied(raw_config)
        assert changed["seed"] != raw_config["seed"]
        assert {**changed, "seed": raw_config["seed"]} == raw_config


def outcome(decades: Array, accuracy: Array) -> RunResult:
    return RunResult("x", "y", {}, "FINISHED", values={DECADES: decades, "final_accuracy_test": accuracy})


def test_effects_follow_from_paired_differences() -> None:
    remedy = Remedy("r", "", {}, "")
    noise = np.array([0.01, -0.02, 0.0, 0.02, -0.01])
    spread = np.array([0.0, 0.5, 1.0, 1.5, 2.0])  # between seeds, far larger than the effect: pairing takes it out
    before = outcome(1 + spread, 0.1 + 0.3 * spread)
    better = trial(remedy, before, outcome(0.8 + spread + noise, 0.2 + 0.3 * spread + noise))
    assert better.effect() == "flow better, score better"
    assert better.decades is not None
    assert better.decades.mean == pytest.approx(-0.2)
    assert trial(remedy, before, outcome(1.2 + spread + noise, 0.1 + 0.3 * spread + noise)).effect() == "flow worse"
    assert trial(remedy, before, outcome(1 + spread + noise, 0.1 + 0.3 * spread + noise)).effect().startswith("no diff")
    exploding = outcome(-1 - spread, 0.1 + 0.3 * spread)
    assert trial(remedy, exploding, outcome(0.1 + 0 * spread, 0.1 + 0.3 * spread)).effect() == "flow better"
    nothing = np.full(5, np.nan)
    assert trial(remedy, before, outcome(nothing, nothing)).effect() == "cannot be shown"


def test_vanishing_run_is_cured_with_an_interval_that_excludes_zero(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'x.db'}"
    overrides = [*SMALL, "epochs=1", "replicates=2", f"tracking.uri={uri}"]
    assert run_command(*overrides).code == 0
    tracking = TrackingConfig(uri, "gradvitals")
    store = Store.open(tracking)
    (logged,) = store.client.search_runs([store.experiment_id])
    assert logged.data.tags["verdict"] == "vanishing"
    assert "Gradients vanish" in logged.data.tags["mlflow.note.content"]
    explanation = LoggedRun.from_store(store, logged).explanation
    assert f"gradvitals prescribe {logged.info.run_id}" in explanation
    result = shown(lambda: prescribe(logged.info.run_id[:10], tracking, (), quiet=True))
    assert result.code == 0
    assert "flow better" in result.text
    assert "Decades per layer: log10 of δ" in result.text
    assert re.search(r"gradvitals compare [0-9a-f]{8} [0-9a-f]{8}$", result.text, re.MULTILINE)
    tried = store.client.search_runs([store.experiment_id], f"tags.prescribed_for = '{logged.info.run_id}'")
    names = {r.info.run_name for r in tried}
    assert {"baseline", "ReLU, He", "tanh, critical"} == names - {
        name for name in names if name.startswith("control: learning rate ")
    }
    assert len(names) == 4
    assert {r.data.params["replicates"] for r in tried} == {"5"}
    (summary,) = store.client.search_runs([store.experiment_id], "tags.kind = 'sweep'")
    page = Path(store.client.download_artifacts(summary.info.run_id, "prescription.md", str(tmp_path))).read_text()
    (row,) = [line for line in page.splitlines() if line.startswith("| ReLU, He")]
    assert "flow better" in row
    assert "χ from" in row
    (control_row,) = [line for line in page.splitlines() if line.startswith("| control")]
    assert "flow" not in control_row.rsplit("|", 2)[-2]


def test_nothing_is_prescribed_for_a_healthy_run(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'x.db'}"
    healthy = [*SMALL[:1], "activation=relu", "architecture.depth=4", "data.subset=200", "epochs=0", "replicates=5"]
    assert run_command(*healthy, f"tracking.uri={uri}").code == 0
    tracking = TrackingConfig(uri, "gradvitals")
    store = Store.open(tracking)
    (logged,) = store.client.search_runs([store.experiment_id])
    result = shown(lambda: prescribe(logged.info.run_id, tracking, (), quiet=True))
    assert result.code == 0
    assert "nothing to prescribe: healthy" in result.text


def test_unknown_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no store there"):
        prescribe("abc", TrackingConfig(f"sqlite:///{tmp_path / 'none.db'}", "gradvitals"), (), quiet=True)


def test_configs_without_a_slope_have_no_expectation() -> None:
    assert expect(prepare_run(config("data=iris", "architecture.hidden=[4,4]", "init=gaussian"))) is not None


@pytest.mark.thorough
def test_prescriptions_for_a_short_and_a_full_id_are_one_sweep(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'x.db'}"
    assert run_command(*SMALL, "epochs=0", "replicates=5", f"tracking.uri={uri}").code == 0
    tracking = TrackingConfig(uri, "gradvitals")
    store = Store.open(tracking)
    (logged,) = store.client.search_runs([store.experiment_id])
    for run_id in (logged.info.run_id[:9], logged.info.run_id):
        assert shown(partial(prescribe, run_id, tracking, (), quiet=True)).code == 0
        sweep_id = f"prescribe-{logged.info.run_id[:8]}"
        in_it = [r.info.run_name for r in store.search(in_sweep(sweep_id)) if r.data.tags["kind"] == "run"]
        assert len(in_it) == len(set(in_it)) == 4, "the runs of the second prescription replace those of the first"
