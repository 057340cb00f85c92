"""Checkpoints on disk: a resumed run equals an uninterrupted one, and damage costs time but no exactness."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import NO_FIGURES, run_command
from support.configs import RESUMED, config, first_step
from support.stores import content, empty, opened, uri

from engine.activations import Activation
from engine.blocks import Block
from engine.normalisation import BatchNorm
from engine.residual import Residual
from pipeline.config.architecture import Deep
from pipeline.config.schedules import At
from pipeline.config.schema import CheckpointConfig
from pipeline.errors import StoreAwayError
from pipeline.paths import PROJECT
from pipeline.reproducibility.hash_chain import HashChain
from pipeline.training import array_files
from pipeline.training.checkpoints import INTERVAL_PER_DURATION, Checkpoints
from pipeline.training.divergence import Divergence
from pipeline.training.loop import Callbacks, train
from pipeline.training.prepare import PreparedRun, prepare_run
from pipeline.training.records import Record, tidy
from pipeline.training.trainer import Trainer, TrainingState

BASE = ["replicates=2", "epochs=2", "data=iris", "batching.size=10"]


class Killed(BaseException):
    """Stands for the death of the process."""


def checkpoints(folder: Path, cell: str = "cell", clock: Callable[[], float] = lambda: 0.0) -> Checkpoints:
    return Checkpoints(folder, cell, CheckpointConfig(0.0), clock)


def interrupted(run: PreparedRun, folder: Path, at: int) -> list[Divergence]:
    """Train with a checkpoint before every step, and stop before step ``at``."""
    checkpointer, divergences = checkpoints(folder), list[Divergence]()

    def diverged(divergence: Divergence) -> None:
        divergences.append(divergence)
        checkpointer.diverged(divergence)

    def step(t: int) -> None:
        if t == at:
            raise Killed

    with contextlib.suppress(Killed):
        for record in train(run, Callbacks(step, diverged, checkpointer=checkpointer)):
            checkpointer.record(record)
    return divergences


def initial_state(run: PreparedRun) -> TrainingState:
    (now,) = Trainer([run]).snapshot()
    return TrainingState(now, None, tuple(range(run.config.replicates)), (), ())


def same(first: list[Record], second: list[Record]) -> bool:
    a, b = tidy(first), tidy(second)
    left, right = (t["value"].to_numpy().view(np.int64) for t in (a, b))
    return a.drop(columns="value").equals(b.drop(columns="value")) and np.array_equal(left, right)


@pytest.mark.parametrize("overrides", RESUMED.values(), ids=RESUMED.keys())
@pytest.mark.thorough
def test_resumed_run_equals_an_uninterrupted_run(overrides: list[str], tmp_path: Path) -> None:
    run, expected = prepare_run(config(*BASE, *overrides)), list[Divergence]()
    whole = list(train(run, Callbacks(on_divergence=expected.append)))
    last = whole[-1].step
    for at in {1, max(1, last // 2), max(1, last)}:
        folder = tmp_path / str(at)
        interrupted(run, folder, at)
        checkpointer = checkpoints(folder)
        saved = checkpointer.load()
        assert saved is not None or at == 1
        resumed, divergences = list[Record](), list[Divergence]()
        if saved is not None:
            assert saved.state.now.step == at
            saved.replay(resumed.append, divergences.append)
        resumed += train(run, Callbacks(on_divergence=divergences.append), start=saved.state if saved else None)
        assert same(resumed, whole)
        assert [d.finding for d in divergences] == [d.finding for d in expected]
        assert all(same(a.last_steps, b.last_steps) for a, b in zip(divergences, expected, strict=True))


@dataclass(frozen=True)
class WithBlocks(Deep):
    """Batch norm and a residual block between the layers: a user's own architecture."""

    def sizes(self, n_in: int, n_out: int) -> list[int]:
        return [n_in, 6, 6, n_out]

    def blocks(self, sizes: Sequence[int], activations: Sequence[Activation]) -> list[Block]:
        first, second, last = super().blocks(sizes, activations)
        return [first, BatchNorm(6, 1e-5, 0.1, learned=True), Residual([second]), last]


def test_checkpoint_contains_the_state_of_blocks(tmp_path: Path) -> None:
    """Running statistics are not parameters; without them the evaluation of a resumed run would differ."""
    own = replace(config(*BASE, "schedule@evaluation.schedule=every"), architecture=WithBlocks(2, 6, None))
    run = prepare_run(own)
    whole = list(train(run))
    last = whole[-1].step
    interrupted(run, tmp_path, last // 2)
    saved = checkpoints(tmp_path).load()
    assert saved is not None
    assert sorted(saved.state.now.state) == ["block_1.mean", "block_1.variance"]
    assert all(np.abs(array).max() > 0 for array in saved.state.now.state.values())
    assert same(list(saved.records()) + list(train(run, start=saved.state)), whole)
    fresh = replace(saved.state, now=replace(saved.state.now, state=Trainer([run]).snapshot()[0].state))
    assert not same(list(saved.records()) + list(train(run, start=fresh)), whole)


def test_checkpoint_contains_the_patience_of_early_stopping(tmp_path: Path) -> None:
    """Without the evaluations that it has waited, the resumed run would stop later."""
    run = prepare_run(config(*BASE, *RESUMED["early stopping"]))
    whole = list(train(run))
    last = whole[-1].step
    assert last < run.length.last_step
    interrupted(run, tmp_path, last - 1)
    saved = checkpoints(tmp_path).load()
    assert saved is not None
    assert same(list(saved.records()) + list(train(run, start=saved.state)), whole)
    fresh = replace(saved.state, patience=None)
    assert list(train(run, start=fresh))[-1].step > last


def test_hash_chain_covers_the_parameters_of_every_block() -> None:
    run = prepare_run(replace(config(*BASE), architecture=WithBlocks(2, 6, None)))

    def heads(change: float) -> list[str]:
        chain, trainer = HashChain(run, At((0,)), ends=False), first_step(run)
        network = trainer.cell_network(0)
        network.grad[...] = trainer.network.grad[0]
        network.theta[:, -1 - network.output.n_out - 6] += change  # no W or b of a layer
        chain.on_step(0, network, trainer.rows_of(0))
        return chain.heads

    gamma_or_beta = {p.name for p in Trainer([run]).network.parameters} - {"W", "b"}
    assert gamma_or_beta == {"gamma", "beta"}
    assert heads(0.0) == heads(0.0) != heads(1e-3)


@pytest.fixture
def run() -> PreparedRun:
    return prepare_run(config(*BASE, "schedule=every", "schedule.n=1"))


def test_newest_undamaged_state_is_loaded_and_damage_is_logged(
    run: PreparedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    interrupted(run, tmp_path, 10)
    older, newest = sorted(tmp_path.glob("state-*.npz"))
    newest.write_bytes(newest.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        saved = checkpoints(tmp_path).load()
    assert saved is not None
    assert saved.state.now.step == 9
    assert f"checkpoint {newest.name} is damaged" in caplog.text
    resumed = list[Record]()
    saved.replay(resumed.append, lambda _: None)
    assert same(resumed + list(train(run, start=saved.state)), list(train(run)))
    older.write_bytes(b"")
    assert checkpoints(tmp_path).load() is None


def test_damaged_record_file_invalidates_the_states_that_need_it(run: PreparedRun, tmp_path: Path) -> None:
    interrupted(run, tmp_path, 10)
    sorted(tmp_path.glob("records-*.npz"))[-1].write_bytes(b"not what it was")
    saved = checkpoints(tmp_path).load()
    assert saved is not None
    assert saved.state.now.step == 9


def test_state_with_another_fingerprint_is_not_resumed(run: PreparedRun, tmp_path: Path) -> None:
    interrupted(run, tmp_path, 10)
    assert checkpoints(tmp_path, "another").load() is None


def test_segment_name_cannot_leave_the_folder(run: PreparedRun, tmp_path: Path) -> None:
    interrupted(run, tmp_path / "a", 5)
    (path, *_) = sorted((tmp_path / "a").glob("state-*.npz"), reverse=True)
    arrays, about = array_files.read(path)
    about["segments"] = ["../../" + name for name in about["segments"]]
    array_files.write(path, arrays, about)
    saved = checkpoints(tmp_path / "a").load()
    assert saved is not None  # only the file name counts, in this folder
    assert saved.state.now.step == 5


def test_full_disk_prevents_the_checkpoint_but_not_the_run(
    run: PreparedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(array_files, "write", full)
    checkpointer, resumed = checkpoints(tmp_path), list[Record]()
    with caplog.at_level(logging.WARNING):
        for record in train(run, Callbacks(checkpointer=checkpointer)):
            checkpointer.record(record)
            resumed.append(record)
    assert same(resumed, list(train(run)))
    assert caplog.text.count("No space left") == 1


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.checkpoints.SEGMENT_RECORDS", 7)


@pytest.mark.usefixtures("small_segments")
def test_records_between_checkpoints_are_written_in_segments(run: PreparedRun, tmp_path: Path) -> None:
    whole = list(train(run))
    before = [record for record in whole if record.step < 5]
    rest = [record for record in whole if record.step >= 5]
    checkpointer = checkpoints(tmp_path)
    for record in before:
        checkpointer.record(record)
    assert len(list(tmp_path.glob("records-*.npz"))) == len(before) // 7 > 2
    checkpointer.save(initial_state(run))
    for record in rest:
        checkpointer.record(record)
    resumed = checkpoints(tmp_path)
    saved = resumed.load()
    assert saved is not None
    assert saved.record_count == len(before)
    assert same(list(saved.records()), before)
    assert sorted(saved.segments) == sorted(tmp_path.glob("records-*.npz")), "segments after the state are deleted"
    for record in rest:
        resumed.record(record)
    resumed.save(initial_state(run))
    again = checkpoints(tmp_path).load()
    assert again is not None
    assert same(list(again.records()), whole)


@pytest.mark.usefixtures("small_segments")
def test_files_wait_until_the_store_can_say_who_owns_the_run(run: PreparedRun, tmp_path: Path) -> None:
    is_away = True

    def check_owner() -> None:
        if is_away:
            raise StoreAwayError("the store does not answer")

    checkpointer, whole = checkpoints(tmp_path), list(train(run))
    checkpointer.check_owner = check_owner
    for record in whole[:-1]:
        checkpointer.record(record)
    checkpointer.save(initial_state(run))
    assert not list(tmp_path.iterdir())
    is_away = False
    checkpointer.record(whole[-1])
    checkpointer.save(initial_state(run))
    saved = checkpoints(tmp_path).load()
    assert saved is not None
    assert same(list(saved.records()), whole)


@pytest.mark.usefixtures("small_segments")
def test_segment_that_cannot_be_written_ends_the_checkpoints_but_not_the_run(
    run: PreparedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "file"
    folder.write_text("not a folder")
    checkpointer, records = checkpoints(folder), list[Record]()
    with caplog.at_level(logging.WARNING):
        for record in train(run, Callbacks(checkpointer=checkpointer)):
            checkpointer.record(record)
            records.append(record)
    assert same(records, list(train(run)))
    assert caplog.text.count("no checkpoints from step 0 on") == 1
    assert not checkpointer.due(10**9)


def test_checkpoints_take_at_most_a_hundredth_of_the_time(tmp_path: Path) -> None:
    now = 0.0

    def save_for_3_seconds() -> None:
        nonlocal now
        now += 3.0

    checkpointer = Checkpoints(tmp_path, "cell", CheckpointConfig(10.0), lambda: now, save_for_3_seconds)
    assert not checkpointer.due(5)
    now = 10.0
    assert checkpointer.due(5)
    checkpointer.save(initial_state(prepare_run(config(*BASE))))
    assert now == 13.0
    now = 13.0 + 3.0 * INTERVAL_PER_DURATION - 0.1
    assert not checkpointer.due(6)
    now += 0.2
    assert checkpointer.due(6)
    never = Checkpoints(tmp_path, "cell", CheckpointConfig(None), lambda: now)
    assert not never.due(6)


def test_at_most_two_states_are_kept(run: PreparedRun, tmp_path: Path) -> None:
    interrupted(run, tmp_path, 10)
    assert len(list(tmp_path.glob("state-*"))) == 2
    checkpoints(tmp_path).remove()
    assert not tmp_path.exists()


LONG = [
    "data=digits", "architecture.hidden=[30]", "epochs=50", "schedule=every", "schedule.n=1000", "replicates=2",
    "checkpoints.seconds=0.1",
]  # fmt: skip


def alone(folder: Path) -> str:
    """Run LONG in this process, and return what it printed."""
    shown = run_command(*LONG, f"tracking.uri={uri(folder)}")
    assert shown.code == 0
    return shown.text


def test_killed_run_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    argv = [sys.executable, "-m", "pipeline", "run", *LONG, NO_FIGURES, f"tracking.uri={empty(uri(cut))}"]
    process = subprocess.Popen(argv, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list(cut.glob("store-checkpoints/*/state-*.npz")) and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert [r.info.status for r in opened(cut).search()] == ["RUNNING"]
    assert "resumed an interrupted run" in alone(cut)
    assert "resumed" not in alone(whole)
    ((name, (status, points, records, *rest)),) = content(whole).items()
    assert status == "FINISHED"
    again = content(cut)[name]
    assert (status, points, rest) == (again[0], again[1], list(again[3:]))
    pd.testing.assert_frame_equal(records, again[2], check_exact=True)
    (run,) = opened(cut).search()
    log = Path(opened(cut).client.download_artifacts(run.info.run_id, "run.1.log", str(tmp_path))).read_text()
    assert "resumed from step " in log
    assert "resumed from step 0\n" not in log


def test_training_state_has_the_fields_that_are_written() -> None:
    """A new field that is not written would be lost silently."""
    written = {"now", "previous", "active", "known_harmless", "recent", "patience"}
    assert set(TrainingState.__dataclass_fields__) == written
