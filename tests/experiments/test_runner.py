"""The machinery of experiments: claims read strictly, answered honestly, kept in or outside the repository."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console
from support.stores import empty

from experiments.runner import (
    EXPERIMENTS,
    Answer,
    Claim,
    catalogue,
    experiments,
    load,
    names,
    run_experiment,
    table_lines,
)
from pipeline.analysis.estimates import Estimate
from pipeline.errors import ConfigError
from pipeline.paths import CONF
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


def folder(
    to: Path, claims: list[Mapping[str, object]] | None = None, analysis: str = ANALYSIS, **changes: object
) -> Path:
    made = to / "mine"
    (made / "conf" / "experiment").mkdir(parents=True)
    told = {"title": "T", "source": "S", "sweeps": ["mine"], "claims": [CLAIM] if claims is None else claims}
    (made / "claims.yaml").write_text(yaml.safe_dump(told | changes))
    (made / "analysis.py").write_text(analysis)
    (made / "conf" / "experiment" / "mine.yaml").write_text(SWEEP)
    return made


def estimate_of(mean: float) -> Estimate:
    return Estimate(np.array(mean), np.array(mean - 0.1), np.array(mean + 0.1), np.array(0.0))


def test_one_of_ones_own_runs_from_outside_the_repository(tmp_path: Path) -> None:
    uri = empty(f"sqlite:///{tmp_path / 'x.db'}")
    experiment = load(str(folder(tmp_path, [CLAIM, CLAIM | {"key": "other", "otherwise": "nobody measured it"}])))
    out = io.StringIO()
    done = run_experiment(experiment, [f"tracking.uri={uri}"], False, True, Console(file=out, width=200))
    assert [a.within for a in done.answers] == [True, False]
    assert done.failed == 0
    printed = out.getvalue()
    assert "nobody measured it" in printed
    assert "OUTSIDE" in printed
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
    assert "nobody measured it" in page


@pytest.mark.parametrize(
    ("measured", "relative", "within"),
    [(2.0, True, True), (2.21, True, False), (1.79, True, False), (2.09, False, True), (2.11, False, False)],
)
def test_within_is_what_the_tolerance_says(measured: float, relative: bool, within: bool) -> None:
    claim = Claim.model_validate(CLAIM | {"claimed": 2.0, "tolerance": 0.1, "relative": relative})
    assert claim.within(estimate_of(measured)) is within
    assert not Answer(claim, estimate_of(float("nan"))).within
    assert not Answer(claim, None).within
    assert ("OUTSIDE" in "\n".join(table_lines([Answer(claim, estimate_of(measured))]))) is not within


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"claims": [CLAIM | {"tolerance": -1}]}, r"claims\.0\.tolerance"),
        ({"claims": [CLAIM | {"provenance": "hearsay"}]}, r"claims\.0\.provenance"),
        ({"claims": [{k: v for k, v in CLAIM.items() if k != "why"}]}, r"claims\.0\.why"),
        ({"title": None}, "title"),
        ({"surprise": 1}, "surprise"),
        ({"analysis": "def measured(results): ..."}, "no function figure"),
        ({"analysis": "import not_there"}, "cannot be imported"),
        ({"analysis": "def"}, "cannot be imported"),
    ],
    ids=str,
)
def test_mistakes_are_told_in_a_line(tmp_path: Path, change: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        load(str(folder(tmp_path, **change)))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="he_2015"):
        load("hee_2015")


@pytest.mark.parametrize("name", names())
def test_each_experiment_is_whole(name: str) -> None:
    """Its claims have distinct keys, its sweeps compose, its README says its command."""
    experiment = load(name)
    keys = [c.key for c in experiment.claims(slow=True)]
    assert len(set(keys)) == len(keys) > 0
    for sweep in (*experiment.description.sweeps, *experiment.description.slow):
        assert experiment.config_dir is None
        assert (CONF / "experiment" / f"{sweep}.yaml").is_file()  # whose cells test_configs.py builds
    readme = (EXPERIMENTS / name / "README.md").read_text(encoding="utf-8")
    assert f"make experiment NAME={name}" in readme


@pytest.mark.skipif(not os.environ.get("GRADVITALS_SLOW"), reason="minutes long: set GRADVITALS_SLOW=1")
def test_all_experiments_whole(tmp_path: Path) -> None:
    """At least nine claims in ten are within their tolerance, and the page has every one of them with its figure."""
    uri = empty(f"sqlite:///{tmp_path / 'x.db'}")
    assert experiments([f"tracking.uri={uri}"], False, True, Console(quiet=True), tmp_path / "docs") == 0
    page = (tmp_path / "docs" / "README.md").read_text(encoding="utf-8")
    for name in names():
        assert (tmp_path / "docs" / f"{name}.png").stat().st_size > 10_000
        assert all(claim.says.replace("|", "\\|") in page for claim in load(name).claims(slow=False))
    within, outside = page.count("| within |"), page.count("| OUTSIDE |")
    assert within >= 9 * outside
    assert "not explained" not in page
