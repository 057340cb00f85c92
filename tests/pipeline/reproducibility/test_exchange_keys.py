"""What ``verify`` accepts, ``import`` can store: both use one check, which agrees with MLflow's."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from support.commands import invoke
from support.exported import change_json, copied, with_new_manifest
from support.stores import opened, uri

from pipeline.reproducibility.exchange.facts import is_key
from pipeline.tracking.run_logger import Point
from pipeline.tracking.store import Store

pytestmark = pytest.mark.xdist_group("exchange_keys")

SMALL = ("experiment=smoke", "epochs=1", "data.subset=50", "architecture.depth=2", "tracking.figures=false")
BAD = ["a[0]", "a\nb", "", "/etc/passwd", "../up", "a//b", "a/", "a/./b", "a/../b", ".", "..", "a,b", "x" * 251, "a%b"]
GOOD = ["a", ".hidden", "a.b/c-d_e", "a b:c", "é/ß", "x" * 250, "a/..b"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    assert invoke("run", *SMALL, f"tracking.uri={uri(folder)}").code == 0
    (run,) = opened(folder).search()
    shown = invoke("export", "--run", run.info.run_id, "--to", str(folder / "out"), "--uri", uri(folder))
    assert shown.code == 0, shown.err
    return folder / "out"


def with_keys(exported: Path, to: Path, keys: list[str | None]) -> Path:
    """Return a copy of a folder whose run has metrics with these keys, sealed again."""
    folder = copied(exported, to)
    path = folder / "metrics.parquet"
    table = pd.read_parquet(path).head(len(keys)).assign(key=pd.array(keys, dtype="string"))
    table.to_parquet(path, index=False)
    return with_new_manifest(folder)


@pytest.mark.parametrize("key", [*BAD, None])
@pytest.mark.thorough
def test_metric_key_that_no_store_accepts_is_refused_by_verify_and_import(
    exported: Path, key: str | None, tmp_path: Path
) -> None:
    folder = with_keys(exported, tmp_path / "out", [key])
    store = opened(tmp_path)
    verified = invoke("verify", "--from", str(folder))
    imported = invoke("import", "--from", str(folder), "--uri", uri(tmp_path))
    for shown in (verified, imported):
        assert shown.code == 2
        assert "metrics.parquet: " in shown.err
        assert "is no key of a metric" in shown.err
        assert len(shown.err.splitlines()) == 1
    assert store.search() == []


def test_all_metric_keys_that_a_store_accepts_are_imported(exported: Path, tmp_path: Path) -> None:
    folder = with_keys(exported, tmp_path / "out", list(GOOD))
    assert invoke("verify", "--from", str(folder)).code == 0
    shown = invoke("import", "--from", str(folder), "--uri", uri(tmp_path))
    assert shown.code == 0, shown.err
    (run,) = opened(tmp_path).search()
    assert set(run.data.metrics) == set(GOOD)


def test_text_with_the_character_zero_is_refused(exported: Path, tmp_path: Path) -> None:
    """PostgreSQL cannot store it."""
    folder = copied(exported, tmp_path / "out")
    change_json(folder / "run.json", lambda facts: facts["params"].update(epochs="1\0"))
    shown = invoke("verify", "--from", str(with_new_manifest(folder)))
    assert shown.code == 2
    assert "character 0" in shown.err


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    opened_store = opened(tmp_path_factory.mktemp("accepts"))
    return opened_store, opened_store.start("keys", {}).run_id


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.sampled_from([*BAD, *GOOD]), st.text("a/.:-_ é\n%[", max_size=8)))
def test_check_of_keys_agrees_with_the_store(store: tuple[Store, str], key: str) -> None:
    """A trailing line feed, which MLflow accepts, is refused here too."""
    opened_store, run_id = store
    try:
        opened_store.client.log(run_id, [Point(key, 1.0, 1, 1)], {}, {})
        is_accepted = True
    except MlflowException:
        is_accepted = False
    assert is_key(key) == (is_accepted and not key.endswith("\n"))
