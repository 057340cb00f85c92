"""Loading, running and answering experiments, inside and outside the repository."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure

from experiments.__main__ import main
from experiments.catalogue import catalogue, write_catalogue
from experiments.claims import Answer, Claim, markdown
from experiments.experiment import EXPERIMENTS, load, names
from experiments.runner import ExperimentResult, applicable, run_experiment, write_pages
from pipeline.analysis.estimates import Estimate
from pipeline.errors import ConfigError
from pipeline.paths import CONF
from pipeline.progress import plain_console
from pipeline.tracking.store import Store, TrackingConfig

CLAIM = {
    "key": "cost",
    "says": "an untrained net of ten classes guesses",
    "claimed": 2.302585,
    "tolerance": 0.3,
    "relative": True,
    "provenance": "derived",
    "why": "ln 10, and a random net is not quite uniform",
}
ANALYSIS = """
from matplotlib.figure import Figure
from experiments.runner import select
from pipeline.analysis.estimates import estimate


def measured(results):
    (tanh,) = select(results, "mine", activation="tanh")
    return {"cost": estimate(tanh.values("cost/test")[0])}


def figure(results):
    drawn = Figure()
    drawn.subplots().plot([r.values("delta_rms")[0, 0] for r in results])
    return drawn
"""
SWEEP = """# @package _global_
defaults:
  - override /architecture: deep
  - override /probes: essential
name: mine
epochs: 0
replicates: 2
architecture: {depth: 3, width: 8}
data: {subset: 200}
hydra: {sweeper: {params: {activation: "tanh,relu"}}}
"""


COLLECT = """
import numpy as np
from matplotlib.figure import Figure
from pipeline.analysis.estimates import estimate


def collect(slow):
    return [2.0, 2.6] if slow else [2.3]


def measured(results):
    return {"cost": estimate(np.array(results))}


def figure(results):
    drawn = Figure()
    drawn.subplots().plot(results)
    return drawn


def pages(results, command):
    return {"docs/mine.md": f"{command}: {results}", "mine/figure.png": figure(results)}
"""


def folder(
    to: Path, claims: list[Mapping[str, object]] | None = None, analysis: str = ANALYSIS, **changes: object
) -> Path:
    experiment = to / "mine"
    (experiment / "conf" / "experiment").mkdir(parents=True)
    description = {"title": "T", "source": "S", "sweeps": ["mine"], "claims": [CLAIM] if claims is None else claims}
    (experiment / "claims.yaml").write_text(yaml.safe_dump(description | changes))
    (experiment / "analysis.py").write_text(analysis)
    (experiment / "conf" / "experiment" / "mine.yaml").write_text(SWEEP)
    return experiment


def estimate_of(mean: float) -> Estimate:
    return Estimate(np.array(mean), np.array(mean - 0.1), np.array(mean + 0.1), np.array(0.0))


def printed(result: ExperimentResult) -> str:
    console = plain_console(width=200)
    with console.capture() as capture:
        console.print(result.table())
    return "\n".join([capture.get(), *result.lines()])


@pytest.mark.thorough
def test_experiment_outside_the_repository_is_run_and_logged(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'x.db'}"
    experiment = load(str(folder(tmp_path, [CLAIM, CLAIM | {"key": "other", "otherwise": "no measurement exists"}])))
    done = run_experiment(experiment, [f"tracking.uri={uri}"], False, True)
    assert [a.within for a in done.answers] == [True, False]
    assert done.failed == done.exit_code == 0
    text = printed(done)
    assert "no measurement exists" in text
    assert "OUTSIDE" in text
    assert "/artifacts/figure.png" in text
    store = Store.open(TrackingConfig(uri, "gradvitals"))
    (summary,) = store.client.search_runs([store.experiment_id], "tags.kind = 'sweep'")
    assert summary.data.tags["claim.cost"] == "within"
    assert summary.data.tags["claim.other"] == "outside"
    assert summary.data.metrics["claim/within"] == 0.5
    assert {"figure.png", "claims.md", "sweep.csv"} <= {
        a.path for a in store.client.list_artifacts(summary.info.run_id)
    }
    assert len(store.client.search_runs([store.experiment_id], "tags.experiment = 'mine'")) == 2
    page = "\n".join(catalogue([done], slow=False))
    assert "1 of 2 claims" in page
    assert "no measurement exists" in page


@pytest.mark.parametrize(("slow", "mean"), [(False, 2.3), (True, 2.3)])
@pytest.mark.thorough
def test_collected_results_are_answered_and_logged(tmp_path: Path, slow: bool, mean: float) -> None:
    uri = f"sqlite:///{tmp_path / 'x.db'}"
    experiment = load(str(folder(tmp_path, [CLAIM], COLLECT, sweeps=[])))
    done = run_experiment(experiment, [f"tracking.uri={uri}"], slow, True)
    assert done.results == ([2.0, 2.6] if slow else [2.3])
    assert [a.within for a in done.answers] == [True]
    assert done.exit_code == 0
    store = Store.open(TrackingConfig(uri, "gradvitals"))
    (summary,) = store.client.search_runs([store.experiment_id])
    assert summary.info.status == "FINISHED"
    assert summary.data.tags["kind"] == "sweep"
    assert summary.data.tags["claim.cost"] == "within"
    assert summary.data.metrics["claim/cost"] == pytest.approx(mean)
    assert {"figure.png", "claims.md"} == {a.path for a in store.client.list_artifacts(summary.info.run_id)}


def test_collecting_experiment_refuses_overrides_of_configs(tmp_path: Path) -> None:
    experiment = load(str(folder(tmp_path, [CLAIM], COLLECT, sweeps=[])))
    assert applicable(experiment, ["replicates=2", "tracking.uri=x"]) == ["tracking.uri=x"]
    with pytest.raises(ConfigError, match=r"replicates=2.*allowed: tracking"):
        run_experiment(experiment, ["replicates=2"], False, True)
    sweeping = load("chain")
    assert applicable(sweeping, ["replicates=2", "tracking.uri=x"]) == ["replicates=2", "tracking.uri=x"]


def test_pages_are_written_below_the_root(tmp_path: Path) -> None:
    experiment = load(str(folder(tmp_path, [CLAIM], COLLECT, sweeps=[])))
    done = ExperimentResult(experiment, [2.3], [], Figure(), 0, [])
    written = write_pages(done, slow=True, root=tmp_path / "root")
    page, figure = tmp_path / "root" / "docs" / "mine.md", tmp_path / "root" / "mine" / "figure.png"
    assert written == [page, figure]
    assert page.read_text(encoding="utf-8") == "python -m experiments mine --slow --write: [2.3]"
    assert figure.stat().st_size > 1000
    assert write_pages(ExperimentResult(load("chain"), [], [], Figure(), 0, []), slow=False, root=tmp_path) == []


def test_command_prints_claims_and_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"tracking.uri=sqlite:///{tmp_path / 'x.db'}"
    assert main([str(folder(tmp_path, [CLAIM], COLLECT, sweeps=[])), uri]) == 0
    output = capsys.readouterr().out
    assert "guesses" in output
    assert "/artifacts/figure.png" in output
    assert main([]) == 2
    assert "NAME is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("measured", "relative", "within"),
    [(2.0, True, True), (2.21, True, False), (1.79, True, False), (2.09, False, True), (2.11, False, False)],
)
def test_claim_is_within_its_tolerance(measured: float, relative: bool, within: bool) -> None:
    claim = Claim.model_validate(CLAIM | {"claimed": 2.0, "tolerance": 0.1, "relative": relative})
    assert claim.within(estimate_of(measured)) is within
    assert not Answer(claim, estimate_of(float("nan"))).within
    assert not Answer(claim, None).within
    assert ("OUTSIDE" in "\n".join(markdown([Answer(claim, estimate_of(measured))]))) is not within


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"claims": [CLAIM | {"tolerance": -1}]}, r"claims\.0\.tolerance"),
        ({"claims": [CLAIM | {"provenance": "hearsay"}]}, r"claims\.0\.provenance"),
        ({"claims": [{k: v for k, v in CLAIM.items() if k != "why"}]}, r"claims\.0\.why"),
        ({"title": None}, "title"),
        ({"surprise": 1}, "surprise"),
        ({"analysis": "def measured(results): ..."}, "no function figure"),
        ({"analysis": "import not_there"}, "cannot be imported"),
        ({"analysis": "def"}, "cannot be imported"),
        ({"sweeps": []}, "either sweeps in claims.yaml or collect"),
        ({"analysis": COLLECT}, "either sweeps in claims.yaml or collect"),
    ],
    ids=str,
)
def test_invalid_experiment_is_reported_in_one_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(str(folder(tmp_path, **change)))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_unknown_name_is_reported_with_the_allowed_ones() -> None:
    with pytest.raises(ConfigError, match="he_2015"):
        load("hee_2015")


@pytest.mark.parametrize("name", names())
def test_experiment_is_complete(name: str) -> None:
    """The claims have distinct keys, the sweeps exist, and the README names the command."""
    experiment = load(name)
    keys = [c.key for c in experiment.claims(slow=True)]
    assert len(set(keys)) == len(keys) > 0
    for sweep in (*experiment.description.sweeps, *experiment.description.slow):
        assert experiment.config_dir is None
        assert (CONF / "experiment" / f"{sweep}.yaml").is_file()  # test_configs.py builds its cells
    readme = (EXPERIMENTS / name / "README.md").read_text(encoding="utf-8")
    assert f"make experiment NAME={name}" in readme


@pytest.mark.skipif(not os.environ.get("GRADVITALS_SLOW"), reason="minutes long: set GRADVITALS_SLOW=1")
def test_all_experiments_are_catalogued(tmp_path: Path) -> None:
    """At least nine claims in ten are within their tolerance, and the page has all claims and figures."""
    uri = f"sqlite:///{tmp_path / 'x.db'}"
    results = [run_experiment(load(name), [f"tracking.uri={uri}"], False, True) for name in names()]
    assert all(result.exit_code == 0 for result in results)
    write_catalogue(results, slow=False, folder=tmp_path / "docs")
    page = (tmp_path / "docs" / "README.md").read_text(encoding="utf-8")
    for name in names():
        assert (tmp_path / "docs" / f"{name}.png").stat().st_size > 10_000
        assert all(claim.says.replace("|", "\\|") in page for claim in load(name).claims(slow=False))
    within, outside = page.count("| within |"), page.count("| OUTSIDE |")
    assert within >= 9 * outside
    assert "not explained" not in page
