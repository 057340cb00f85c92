"""Sweeps that are killed: nothing is lost, nothing is there twice, every run's state is true."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.provenance import PROJECT
from pipeline.tracking import Store, TrackingConfig, download

SWEEP = (
    "sweep", "experiment=depth", "data=iris", "epochs=2", "architecture.depth=2,3", "activation=relu,tanh",
    "replicates=2", "schedule=every", "schedule.n=3", "checkpoints.seconds=0.02",
)  # fmt: skip


def uri(folder: Path) -> str:
    return f"tracking.uri=sqlite:///{folder / 'store.db'}"


def killed(folder: Path, kills: int, seed: int, longest: float, *argv: str) -> int:
    """Run a command that is killed so many times before it may end; returns how often it was."""
    folder.mkdir()
    command = [sys.executable, str(PROJECT / "tests" / "killing.py"), str(kills), str(seed), str(longest)]
    done = subprocess.run(
        [*command, str(folder / "output"), *argv, uri(folder)],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "CI": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    output = (folder / "output").read_text()
    assert done.returncode == 0, output + done.stderr
    assert "Traceback" not in output, output
    return int(done.stdout)


Points = list[tuple[str, int, float]]


def content(folder: Path) -> dict[str, Any]:
    """All that a store holds of a sweep's runs, by their names, except what tells time or attempts."""
    store = Store.open(TrackingConfig(f"sqlite:///{folder / 'store.db'}", "gradvitals"))
    found: dict[str, Any] = {}
    for run in store.search("tags.kind = 'run'"):
        run_id, name = run.info.run_id, run.info.run_name
        assert name not in found, f"{name} is there twice"
        points: Points = []
        for key in run.data.metrics:
            if not key.startswith("overhead/"):
                points += [(m.key, m.step, m.value) for m in store.client.get_metric_history(run_id, key)]
        records = pd.read_parquet(download(store, run_id, "records.parquet", folder / "artifacts"))
        artifacts = {a.path for a in store.client.list_artifacts(run_id) if not a.path.endswith(".log")}
        tags = {k: run.data.tags[k] for k in ("sweep", "cell", "verdict", "config.sha256", "data.sha256")}
        found[name] = (run.info.status, sorted(points), records, artifacts, tags, run.data.params)
    return found


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, (status, points, records, *rest) in one.items():
        assert status == other[name][0] == "FINISHED"
        assert points == other[name][1], name
        pd.testing.assert_frame_equal(records, other[name][2], check_exact=True)
        assert rest == list(other[name][3:])


def check(tmp_path: Path, kills: int, seed: int) -> None:
    left_alone, interrupted = tmp_path / "alone", tmp_path / "killed"
    assert killed(left_alone, 0, 0, 0, *SWEEP) == 0
    assert killed(interrupted, kills, seed, 2.0, *SWEEP) == kills
    assert_same(content(left_alone), content(interrupted))
    assert not list((interrupted / "store-checkpoints").glob("*")), "checkpoints of finished runs are left"
    store = Store.open(TrackingConfig(f"sqlite:///{interrupted / 'store.db'}", "gradvitals"))
    assert len(store.search("tags.kind = 'sweep'")) == 1
    assert {r.info.status for r in store.search()} == {"FINISHED"}


def test_a_sweep_killed_20_times_is_the_sweep_left_alone(tmp_path: Path) -> None:
    check(tmp_path, 20, 1)


@pytest.mark.skipif(not os.environ.get("GRADVITALS_SLOW"), reason="takes minutes: GRADVITALS_SLOW=1")
def test_sweeps_killed_200_times(tmp_path: Path) -> None:
    for seed in range(10):
        folder = tmp_path / str(seed)
        folder.mkdir()
        check(folder, 20, seed + 100)
