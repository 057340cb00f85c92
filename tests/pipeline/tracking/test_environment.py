"""MLflow's environment variables choose the store and the experiment where the config names none."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import invoke
from support.stores import empty, uri

from pipeline.tracking.store import Store
from pipeline.tracking.uri import TrackingConfig

TINY = ("data=iris", "architecture.hidden=[4]", "epochs=0", "probes=none")


def experiments_of(folder: Path) -> dict[str, int]:
    """Return the number of runs in each experiment of a folder's store that has any."""
    store = Store.open(TrackingConfig(uri(folder), "gradvitals"))
    names = {e.name: e.experiment_id for e in store.client.search_experiments()}
    counts = {name: len(store.client.search_runs([number])) for name, number in names.items()}
    return {name: count for name, count in counts.items() if count}


def test_variables_count_where_the_config_names_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty(uri(tmp_path)))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "team")
    line = f"store {uri(tmp_path)} from MLFLOW_TRACKING_URI, experiment team from MLFLOW_EXPERIMENT_NAME"
    first = invoke("run", *TINY)
    assert (first.code, first.out.splitlines()[0]) == (0, line)
    named = invoke("run", *TINY, "tracking.experiment=named")
    assert (named.code, named.out.splitlines()[0]) == (0, line.partition(",")[0])
    own = invoke("run", *TINY, f"tracking.uri={empty(uri(tmp_path / 'own'))}", "tracking.experiment=gradvitals")
    assert (own.code, "MLFLOW_" in own.out) == (0, False)
    assert experiments_of(tmp_path) == {"team": 1, "named": 1}
    assert experiments_of(tmp_path / "own") == {"gradvitals": 1}
    run_id = Store.open(TrackingConfig(None, None)).search()[0].info.run_id
    again = invoke("reproduce", run_id)
    assert (again.code, again.out.splitlines()[0]) == (0, line)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("databricks", "must be sqlite:///FILE, http(s)://HOST:PORT or a database URI, or not be set"),
        ("sqlite:///:memory:", "must be sqlite:///FILE, a file that stays"),
    ],
)
def test_unusable_address_names_the_variable(address: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    for command in (("run", *TINY), ("compare", "a", "b"), ("ui",)):
        done = invoke(*command)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"error: MLFLOW_TRACKING_URI={address}: {says}")
        assert done.err.count("\n") == 1


def test_empty_variable_is_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    own = TrackingConfig(None, None).resolved_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "")
    tracking = TrackingConfig(None, None)
    assert (tracking.resolved_uri(), tracking.experiment_name, tracking.environment_lines) == (own, "gradvitals", [])


def test_password_of_an_address_from_the_environment_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host/db")
    assert TrackingConfig(None, "x").environment_lines == ["store postgresql://me:***@host/db from MLFLOW_TRACKING_URI"]
