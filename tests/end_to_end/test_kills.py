"""Killed sweeps: every cell has one run, every run is complete, every status is true."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from support.commands import sweep_command
from support.configs import require
from support.kills import killed
from support.servers import Postgres, Server, postgres_binaries
from support.stores import assert_same, content, opened, uri

SWEEP = (
    "sweep", "--jobs", "1", "experiment=depth", "data=iris", "epochs=2", "architecture.depth=2", "activation=relu,tanh",
    "optimizer.learning_rate=0.01,0.03", "replicates=2", "schedule=every", "schedule.n=3", "checkpoints.seconds=0.02",
)  # fmt: skip


def check(tmp_path: Path, kills: int, seed: int, small: bool = False) -> None:
    """``small``: one stack only, in a store that is there before; and what is left alone is run in this process."""
    undisturbed, interrupted = tmp_path / "alone", tmp_path / "killed"
    chosen = [o.replace("relu,tanh", "relu") if small else o for o in SWEEP]
    if small:
        undisturbed.mkdir()
        began = time.monotonic()
        assert sweep_command(*chosen[3:], f"tracking.uri={uri(undisturbed)}").code == 0
        seconds = time.monotonic() - began
    else:
        seconds = killed(undisturbed, 0, 0, 0, *chosen)
    killed(interrupted, kills, seed, seconds / 3, *chosen, made=small)
    assert "was left RUNNING" in (interrupted / "output").read_text(), "no kill met a run at work"
    assert_same(content(undisturbed), content(interrupted))
    assert not list((interrupted / "store-checkpoints").glob("*")), "checkpoints of finished runs are left"
    store = opened(interrupted)
    assert len(store.search("tags.kind = 'sweep'")) == 1
    assert {r.info.status for r in store.search()} == {"FINISHED"}


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.thorough)])
def test_sweep_killed_many_times_equals_the_undisturbed_sweep(tmp_path: Path, kills: int) -> None:
    check(tmp_path, kills, 1, small=kills == 4)


@pytest.mark.thorough
def test_sweep_killed_on_postgres_behind_a_server_equals_the_undisturbed_sweep(tmp_path: Path) -> None:
    require(postgres_binaries() is not None, "PostgreSQL is not installed")
    postgres, sides = Postgres(), None
    server = Server(postgres.uri, tmp_path)
    try:
        postgres.create()
        postgres.start()
        server.start()
        seconds = killed(tmp_path / "alone", 0, 0, 0, *SWEEP)
        killed(tmp_path / "killed", 5, 3, seconds, *SWEEP, at=server.uri)
        assert_same(content(tmp_path / "alone"), content(tmp_path / "killed", server.uri))
        store = opened(tmp_path, server.uri)
        sides = store.sidecar_dir("locks").parent
        assert {r.info.status for r in store.search()} == {"FINISHED"}
        assert len(store.search("tags.kind = 'sweep'")) == 1
    finally:
        server.kill()
        postgres.remove()
        if sides is not None:
            shutil.rmtree(sides)


def check_workers(tmp_path: Path, kills: int, seed: int) -> None:
    """A cell whose worker was killed twice has failed, and is done by RETRY=1."""
    undisturbed, hurt = tmp_path / "alone", tmp_path / "hurt"
    killed(undisturbed, 0, 0, 0, *SWEEP)
    killed(hurt, kills, seed, 0.7, "sweep", "--jobs", "2", "--retry", *SWEEP[3:], what="worker")
    assert_same(content(undisturbed), content(hurt))
    statuses = {r.info.status for r in opened(hurt).search("tags.sweep != 'replaced'")}
    assert statuses == {"FINISHED"}


@pytest.mark.thorough
def test_killed_processes_change_no_result(tmp_path: Path) -> None:
    check_workers(tmp_path, 4, 5)


@pytest.mark.slow
def test_sweeps_killed_200_times(tmp_path: Path) -> None:
    for seed in range(10):
        folder = tmp_path / str(seed)
        folder.mkdir()
        check(folder, 16, seed + 100)
        (folder / "workers").mkdir()
        check_workers(folder / "workers", 6, seed + 200)
