"""Prescriptions: remedies change what they say, and their effect is taken seed by seed."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support.configs import config
from support.stores import empty

from engine.arrays import Array
from pipeline.analysis.estimates import Estimate
from pipeline.analysis.expectation import expect
from pipeline.analysis.remedies import Remedy, remedies
from pipeline.analysis.verdict import DEATH, DIVERGED, EXPLODING, SATURATION, TOO_HIGH, TOO_LOW, VANISHING, Verdict
from pipeline.config import schema as configs
from pipeline.config.compose import compose_run
from pipeline.errors import ConfigError
from pipeline.runs.result import RunResult
from pipeline.sweeps.remedy_trials import DECADES, control, prescribe, prove
from pipeline.sweeps.single import single
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.training.prepare import prepare_run

SMALL = ("experiment=depth", "activation=sigmoid", "architecture.depth=8", "architecture.width=16", "data.subset=200")


def verdict(*classes: str) -> Verdict:
    nothing = Estimate(*(np.array(np.nan) for _ in range(4)))
    return Verdict(classes, classes[0], classes[0], nothing, nothing)


@pytest.mark.parametrize(
    "classes",
    [(VANISHING,), (EXPLODING,), (SATURATION,), (DEATH,), (DIVERGED, EXPLODING), (TOO_HIGH,), (TOO_LOW,)],
    ids=" ".join,
)
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_every_remedy_is_a_config_that_stands_up(classes: tuple[str, ...], activation: str) -> None:
    node = compose_run([*SMALL, f"activation={activation}"])
    kept, run = copy.deepcopy(node), prepare_run(configs.build(node))
    proposed = remedies(verdict(*classes), run.config, expect(run))
    assert proposed
    assert len({r.name for r in proposed}) == len(proposed)
    for remedy in proposed:
        changed = remedy.applied(node)
        assert changed != node
        assert node == kept, "the logged config is left as it was"
        again = prepare_run(configs.build(changed, configs.OWN_PACKAGES))
        typed = configs.build(compose_run([*SMALL, f"activation={activation}", *remedy.overrides.split()]))
        assert again.config.activation == typed.activation
        assert again.config.optimizer == typed.optimizer
        assert again.config.seed == run.config.seed


def test_the_reason_of_a_remedy_is_what_theory_says_of_it() -> None:
    """From χ = 0.056 to 1; and the remedied config's own expectation has that χ."""
    node = compose_run([*SMALL])
    run = prepare_run(configs.build(node))
    for remedy in remedies(verdict(VANISHING), run.config, expect(run)):
        assert "χ from 0.05" in remedy.reason
        after = expect(prepare_run(configs.build(remedy.applied(node))))
        assert after is not None
        assert float(after.profile.chi[-3]) == pytest.approx(1.0, abs=0.02)


def test_the_control_is_small_and_always_the_same() -> None:
    node = compose_run([*SMALL])
    first, second = control(node), control(node)
    assert first == second
    factor = float(first.patch["optimizer.learning_rate"]) / node["optimizer"]["learning_rate"]
    assert 0.8 <= factor <= 1.25
    assert factor != 1


def outcome(decades: Array, accuracy: Array) -> RunResult:
    return RunResult("x", "y", {}, values={DECADES: decades, "final_accuracy_test": accuracy})


def test_effects_are_told_from_the_paired_differences() -> None:
    remedy = Remedy("r", "", {}, "")
    noise = np.array([0.01, -0.02, 0.0, 0.02, -0.01])
    spread = np.array([0.0, 0.5, 1.0, 1.5, 2.0])  # between seeds, far larger than the effect: pairing takes it out
    before = outcome(1 + spread, 0.1 + 0.3 * spread)
    better = prove(remedy, before, outcome(0.8 + spread + noise, 0.2 + 0.3 * spread + noise))
    assert better.told() == "flow better, score better"
    assert better.decades is not None
    assert better.decades.mean == pytest.approx(-0.2)
    assert prove(remedy, before, outcome(1.2 + spread + noise, 0.1 + 0.3 * spread + noise)).told() == "flow worse"
    assert prove(remedy, before, outcome(1 + spread + noise, 0.1 + 0.3 * spread + noise)).told().startswith("no diff")
    exploding = outcome(-1 - spread, 0.1 + 0.3 * spread)
    assert prove(remedy, exploding, outcome(0.1 + 0 * spread, 0.1 + 0.3 * spread)).told() == "flow better"
    nothing = np.full(5, np.nan)
    assert prove(remedy, before, outcome(nothing, nothing)).told() == "cannot be told"


def test_a_vanishing_run_is_cured_with_an_interval_that_excludes_zero(tmp_path: Path) -> None:
    uri = empty(f"sqlite:///{tmp_path / 'x.db'}")
    overrides = [*SMALL, "epochs=1", "replicates=2", f"tracking.uri={uri}"]
    assert single(overrides, None, True, Console(quiet=True)) == 0
    tracking = TrackingConfig(uri, "gradvitals")
    store = Store.open(tracking)
    (run,) = store.client.search_runs([store.experiment_id])
    assert run.data.tags["verdict"] == "vanishing"
    assert "Gradients vanish" in run.data.tags["mlflow.note.content"]
    assert f"make prescribe RUN={run.info.run_id}" in run.data.tags["verdict_paragraph"]
    out = io.StringIO()
    assert prescribe(run.info.run_id[:10], tracking, (), True, Console(file=out, width=200)) == 0
    assert "flow better" in out.getvalue()
    tried = store.client.search_runs([store.experiment_id], f"tags.prescribed_for = '{run.info.run_id}'")
    names = {r.info.run_name for r in tried}
    assert {"as it was", "ReLU, He", "tanh, critical", "control: random change"} == names
    assert {r.data.params["replicates"] for r in tried} == {"5"}
    (summary,) = store.client.search_runs([store.experiment_id], "tags.kind = 'sweep'")
    page = Path(store.client.download_artifacts(summary.info.run_id, "prescription.md", str(tmp_path))).read_text()
    (row,) = [line for line in page.splitlines() if line.startswith("| ReLU, He")]
    assert "flow better" in row
    assert "χ from" in row
    (control_row,) = [line for line in page.splitlines() if line.startswith("| control")]
    assert "flow" not in control_row.rsplit("|", 2)[-2]


def test_nothing_is_prescribed_for_a_healthy_run(tmp_path: Path) -> None:
    uri = empty(f"sqlite:///{tmp_path / 'x.db'}")
    healthy = [*SMALL[:1], "activation=relu", "architecture.depth=4", "data.subset=200", "epochs=0", "replicates=5"]
    assert single([*healthy, f"tracking.uri={uri}"], None, True, Console(quiet=True)) == 0
    tracking = TrackingConfig(uri, "gradvitals")
    store = Store.open(tracking)
    (run,) = store.client.search_runs([store.experiment_id])
    out = io.StringIO()
    assert prescribe(run.info.run_id, tracking, (), True, Console(file=out, width=200)) == 0
    assert "nothing to prescribe: healthy" in out.getvalue()


def test_wrong_ids_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no store there"):
        prescribe(
            "abc", TrackingConfig(f"sqlite:///{tmp_path / 'none.db'}", "gradvitals"), (), True, Console(quiet=True)
        )


def test_configs_without_a_slope_have_no_expectation() -> None:
    assert expect(prepare_run(config("data=iris", "architecture.hidden=[4,4]", "init=gaussian"))) is not None
