"""docs/reference is what ``python -m tools.reference`` writes from the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.commands import invoke
from support.configs import raw_config
from support.stores import opened, uri

from pipeline.config.schema import build
from pipeline.errors import ConfigError
from pipeline.paths import CONF
from pipeline.reproducibility.exchange.manifest import ARTIFACTS, OLDER_FIGURES
from tools import reference


@pytest.mark.parametrize("name", reference.PAGES)
def test_committed_page_is_the_one_that_is_written(name: str) -> None:
    committed = (reference.FOLDER / name).read_text(encoding="utf-8")
    assert reference.PAGES[name]() == committed, "run python -m tools.reference"


def test_range_of_the_page_is_the_range_that_a_run_accepts() -> None:
    """A few rows, read as a person reads them."""
    rows = dict(
        re.findall(r"^\| `([\w.]+)` \|.*?\| ((?:integer|number)[^|]*?) \|", reference.config_page(), re.MULTILINE)
    )
    assert rows["optimizer.momentum"] == "number, in [0, 1)"
    assert rows["architecture.depth"] == "integer, in 1 ... 100000"
    for key, inside, outside in (("momentum", 0.99, 1.0), ("learning_rate", 0.0, -1e-9)):
        raw = raw_config()
        build(raw | {"optimizer": raw["optimizer"] | {key: inside}})
        with pytest.raises(ConfigError, match="must be"):
            build(raw | {"optimizer": raw["optimizer"] | {key: outside}})


def test_page_has_the_files_that_an_export_copies() -> None:
    assert set(ARTIFACTS) - set(OLDER_FIGURES) <= set(reference.ARTIFACTS)


@pytest.mark.thorough
def test_page_has_the_files_and_tags_that_a_run_and_a_sweep_log(tmp_path: Path) -> None:
    assert invoke("sweep", "experiment=smoke", "epochs=1", "--jobs", "1", f"tracking.uri={uri(tmp_path)}").code == 0
    store = opened(tmp_path)
    listed = [{a.path for a in store.client.list_artifacts(run.info.run_id)} for run in store.search()]
    *runs, summary = sorted(listed, key=lambda files: "sweep.csv" in files)
    assert len(runs) == 2
    for files in runs:
        assert "records.parquet" in files
        assert files <= set(reference.ARTIFACTS)
    assert summary <= set(reference.SWEEP_ARTIFACTS)
    shown = {tag for run in store.search() for tag in run.data.tags if not tag.startswith("mlflow.")}
    assert shown <= set(reference.TAGS)


def test_page_has_the_groups_of_conf() -> None:
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "probe"}
    assert groups == set(re.findall(r"^## (\w+)$", reference.config_page(), re.MULTILINE))
