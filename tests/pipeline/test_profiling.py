"""The profile of a command: each second is charged to one activity."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from support.commands import invoke
from support.stores import opened, uri

from pipeline.profiling import IMPORTS, OTHER, STEPS, WAITING, Profile
from pipeline.tracking.store import download


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_second_is_charged_to_the_innermost_activity() -> None:
    clock = FakeClock()
    profile = Profile(clock)
    clock.now += 1
    with profile.activity("a"):
        clock.now += 4
        with profile.activity("b"):
            clock.now += 8
        clock.now += 16
    clock.now += 2
    with profile.activity(IMPORTS):  # of something that a command needs late
        clock.now += 64
    clock.now += 32
    assert profile.taken() == {IMPORTS: 65, OTHER: 34, "a": 20, "b": 8}


def test_failed_block_is_charged_too() -> None:
    clock = FakeClock()
    profile = Profile(clock)
    with contextlib.suppress(KeyError), profile.activity("a"):
        clock.now += 3
        raise KeyError
    clock.now += 1
    assert profile.taken() == {IMPORTS: 0, OTHER: 1, "a": 3}


def test_training_is_split_by_its_timer_and_sums_stay() -> None:
    clock = FakeClock()
    profile = Profile(clock)
    profile.restart(OTHER)
    with profile.activity(STEPS):
        clock.now += 10
    profile.split_training({"step": 5.0, "delta_rms": 1.0, "dead_fraction": 0.5, "evaluation": 2.0, "tracking": 1.5})
    assert profile.taken() == {OTHER: 0, STEPS: 5.0, "probes": 1.5, "evaluation": 2.0, "metrics": 1.5}


def test_shares_are_of_all_work_without_waiting() -> None:
    clock = FakeClock()
    profile = Profile(clock)
    profile.restart(OTHER)
    clock.now += 1
    with profile.activity(WAITING):
        clock.now += 5
    profile.add_worker({STEPS: 3.0})
    assert profile.rows() == [(WAITING, 5.0, 0.0), (STEPS, 0.0, 3.0), (OTHER, 1.0, 0.0)]
    assert "75.0%" in "".join(str(cell) for column in profile.table().columns for cell in column.cells)


@pytest.mark.thorough
def test_profile_command_prints_the_table_and_the_summary_keeps_it(tmp_path: Path) -> None:
    names = ("imports", "compose", "data", "initialise", "steps", "probes", "evaluation", "metrics", "files", "summary")
    done = invoke("profile", "sweep", "--jobs", "1", "experiment=smoke", f"tracking.uri={uri(tmp_path)}")
    assert done.code == 0
    assert "where the time went" in done.out
    (summary,) = opened(tmp_path).search("tags.kind = 'sweep'")
    log = download(opened(tmp_path), summary.info.run_id, "sweep.log", tmp_path).read_text()
    for name in names:
        assert name in done.out, name
        assert name in log or name == "imports", name


@pytest.mark.parametrize(
    ("argv", "problem"), [((), "COMMAND is missing"), (("nothing",), "COMMAND=nothing: no such command")]
)
def test_unknown_command_is_one_line(argv: tuple[str, ...], problem: str) -> None:
    refused = invoke("profile", *argv)
    assert refused.code == 2
    assert refused.err.startswith(f"error: {problem}; allowed: compare,")
    assert refused.err.count("\n") == 1


def test_exit_code_is_that_of_the_command(tmp_path: Path) -> None:
    assert invoke("profile", "run", "activation=unknown").code == 2
