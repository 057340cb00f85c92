"""A run or its experiment is deleted by somebody else while it is used: its cell fails, the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import Shown, invoke, run_command, sweep_command
from support.packages import own_package
from support.stores import empty, opened, uri

from pipeline.tracking import run_logger
from pipeline.tracking.store import Store

SMALL = ["data=iris", "epochs=2", "architecture=deep", "architecture.width=5", "replicates=2", "name=small"]
PROBE = ["+probes.own._target_=deletingprobe.deletes", "+probes.own._partial_=true"]
STACK, STACKS = "seed=1,2,3", "architecture.depth=2,3,4"
PACKAGE = """
import contextlib
import numpy as np

def deletes(layer):
    taken = FLAG.with_suffix(".taken")
    if FLAG.exists() and FLAG.read_text().startswith("experiment"):
        with contextlib.suppress(FileNotFoundError):  # another process deletes it
            FLAG.rename(taken)
            from mlflow.tracking import MlflowClient

            client = MlflowClient(taken.read_text().split()[1])
            client.delete_experiment(client.get_experiment_by_name("gradvitals").experiment_id)
    elif FLAG.exists():
        from mlflow.tracking import MlflowClient

        name, uri = FLAG.read_text().split()
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("gradvitals").experiment_id
        query = "attributes.status = 'RUNNING'" + ("" if name == "any" else f" and attributes.run_name = '{name}'")
        runs = client.search_runs([experiment], query)
        for run in runs:
            FLAG.unlink()
            client.delete_run(run.info.run_id)
    return np.ones(layer.W.shape[:-2])
"""


@pytest.fixture
def flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that names the run, or the experiment, that is deleted; its package is importable in all processes."""
    with own_package(tmp_path, monkeypatch, "deletingprobe", PACKAGE) as file:
        yield file


def swept(folder: Path, *overrides: str, jobs: int = 1) -> Shown:
    return sweep_command(*SMALL, *PROBE, *overrides, f"tracking.uri={uri(folder)}", jobs=jobs)


def statuses(store: Store) -> dict[str, str]:
    """The status of each run of a cell that is not deleted, by name."""
    return {r.info.run_name: r.info.status for r in store.search("tags.kind = 'run'")}


@pytest.mark.parametrize("queue", [1, 4000], ids=["found while it trains", "found at its end"])
@pytest.mark.parametrize(("key", "name", "others"), [(STACK, "s2", ("s1", "s3")), (STACKS, "d3", ("d2", "d4"))])
@pytest.mark.thorough
def test_deleted_run_fails_its_cell_in_one_line_and_the_others_finish(
    tmp_path: Path,
    flag: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    queue: int,
    key: str,
    name: str,
    others: tuple[str, str],
) -> None:
    monkeypatch.setattr(run_logger, "QUEUE", queue)
    flag.write_text(f"{name} {empty(uri(tmp_path))}")
    done = swept(tmp_path, key)
    assert not flag.exists()
    assert done.code == 1
    (message,) = {line for line in done.text.splitlines() if line.startswith("failed: ") and "(run " not in line}
    assert message.startswith(f"failed: {name}: ")
    assert message.endswith("was deleted while it was used")
    assert "3 runs: 3 trained" in done.text
    assert "Traceback" not in done.text
    assert capsys.readouterr().err == ""
    assert statuses(opened(tmp_path)) == dict.fromkeys(others, "FINISHED")
    assert not list((tmp_path / "store-checkpoints").glob("*"))


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_deleted_experiment_fails_its_cells_in_one_line_each(
    tmp_path: Path, flag: Path, capsys: pytest.CaptureFixture[str], jobs: int
) -> None:
    flag.write_text(f"experiment {empty(uri(tmp_path))}")
    done = swept(tmp_path, STACKS, jobs=jobs)
    assert not flag.exists()
    assert done.code == 1
    failed = [line for line in done.text.splitlines() if line.startswith("failed: ") and "(run " not in line]
    names = [line.split(": ")[1] for line in sorted(failed)]
    assert names == ["d2", "d3", "d4"] or (jobs == 2 and names[1:] == ["d4"])  # one may finish before
    assert all("was deleted" in line for line in failed)
    assert "the summary is not logged: " in done.text
    assert "Traceback" not in done.text
    assert capsys.readouterr().err == ""
    refused = invoke("run", *SMALL, f"tracking.uri={uri(tmp_path)}")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "tracking.experiment=gradvitals: was deleted in" in refused.err


def test_deleted_run_of_its_own_fails_in_one_line(
    tmp_path: Path, flag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag.write_text(f"any {empty(uri(tmp_path))}")
    done = run_command("experiment=smoke", *PROBE, f"tracking.uri={uri(tmp_path)}")
    assert not flag.exists()
    assert done.code == 1
    assert sum("was deleted while it was used" in line for line in done.text.splitlines()) == 1
    assert "Traceback" not in done.text
    assert capsys.readouterr().err == ""
