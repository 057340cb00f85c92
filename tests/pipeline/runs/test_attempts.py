"""Attempts of tasks at runs: one that was given up writes nothing more, and one that must leave saves its state."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.commands import NO_FIGURES, sweep_command
from support.stores import assert_same, content, empty, opened, uri

from pipeline import signals
from pipeline.config.compose import compose_sweep
from pipeline.errors import SupersededError
from pipeline.progress import bars
from pipeline.runs.job import RunOptions, Stack
from pipeline.runs.stack import run_stack
from pipeline.sweeps.plan import plan_sweep

CELLS = (
    "data=iris", "architecture=deep", "architecture.width=5", "architecture.depth=2", "activation=relu", "seed=0,1",
    "epochs=null", "steps=40", "schedule=every", "schedule.n=5", "schedule@chain.schedule=every", NO_FIGURES,
)  # fmt: skip
OFTEN, NEVER = "checkpoints.seconds=0", "checkpoints.seconds=3600"


class At:
    """Progress bars that call a function at one step of the first training."""

    def __init__(self, step: int, call: Callable[[], Any]) -> None:
        self._step, self._call, self._is_done = step, call, False

    @contextmanager
    def run(self, name: str, steps: int) -> Iterator[Callable[[int], None]]:
        def on_step(step: int) -> None:
            if step == self._step and not self._is_done:
                self._is_done = True
                self._call()

        yield on_step

    def advance(self) -> None:
        """Do nothing."""


def planned(folder: Path, checkpoints: str) -> Stack:
    """Return the cells as one stack."""
    return plan_sweep(compose_sweep([*CELLS, checkpoints, f"tracking.uri={uri(folder)}"]), quiet=True).jobs


def options(task: str) -> RunOptions:
    """Return the options of a task."""
    return RunOptions(command="sweep", figures=False, task={"slurm.job": task})


def train(stack: Stack, folder: Path, task: str, shown: Any = None) -> list[str | None]:
    """Train a stack as a task and return the action of each cell."""
    with bars(1, quiet=True) as hidden:
        done = list(run_stack(stack, opened(folder), options(task), shown or hidden))
    return [None if result is None else result.action for _, result in done]


def check(folder: Path, alone: Path) -> None:
    """Check that the store has the runs of an undisturbed sweep, once."""
    alone.mkdir()
    assert sweep_command(*CELLS, NEVER, f"tracking.uri={empty(uri(alone))}").code == 0
    assert_same(content(alone), content(folder))
    assert not list(folder.glob("store-checkpoints/*"))


def test_attempt_that_was_given_up_writes_nothing_more(tmp_path: Path) -> None:
    """Its locks are gone, as those of a node that lost the network, and a later attempt finishes the runs."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    stack = planned(folder, OFTEN)
    later: list[str | None] = []

    def take_over() -> None:
        for lock in (folder / "store-locks").glob("*.lock"):
            lock.unlink()
        later.extend(train(stack, folder, "later"))

    with pytest.raises(SupersededError, match="attempt 1"):
        train(stack, folder, "given up", At(20, take_over))
    assert later == ["resumed", "resumed"]
    assert {r.data.tags["slurm.job"] for r in opened(folder).search()} == {"later"}
    check(folder, tmp_path / "alone")


@pytest.mark.thorough
def test_attempt_without_checkpoints_writes_nothing_more_either(tmp_path: Path) -> None:
    folder = tmp_path / "slurm"
    folder.mkdir()
    stack = planned(folder, NEVER)

    def take_over() -> None:
        for lock in (folder / "store-locks").glob("*.lock"):
            lock.unlink()
        train(stack, folder, "later")

    with pytest.raises(SupersededError):
        train(stack, folder, "given up", At(20, take_over))
    check(folder, tmp_path / "alone")


@pytest.fixture
def _notice() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR2)
    signals.leave_after_checkpoint(signal.SIGUSR2)
    yield
    signals.leave_after_checkpoint(signal.SIGUSR2)
    signal.signal(signal.SIGUSR2, before)


@pytest.mark.usefixtures("_notice")
def test_task_at_its_time_limit_saves_its_state_and_resumes_from_it(tmp_path: Path) -> None:
    folder = tmp_path / "slurm"
    folder.mkdir()
    stack = planned(folder, NEVER)
    with pytest.raises(SystemExit, match="left at step 21"):
        train(stack, folder, "1_0", At(20, lambda: os.kill(os.getpid(), signal.SIGUSR2)))
    assert {r.info.status for r in opened(folder).search()} == {"KILLED"}
    signals.leave_after_checkpoint(signal.SIGUSR2)
    assert train(stack, folder, "1_0") == ["resumed", "resumed"]
    logs = [path.read_text() for path in folder.glob("store-artifacts/*/*/artifacts/run.1.log")]
    assert len(logs) == 2
    assert all("resumed from step 21" in log for log in logs)
    check(folder, tmp_path / "alone")
