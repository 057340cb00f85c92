"""Progress where stderr is no terminal: a line now and then, none for a short command."""

from __future__ import annotations

import pytest

from pipeline.progress import FEW, bars, track


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.progress.PAUSE", 0.0)


@pytest.mark.usefixtures("_impatient")
def test_runs_of_a_sweep_are_counted_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with bars(3, quiet=False) as progress:
        with progress.run("a run", 10) as on_step:
            on_step(5)
        progress.advance()
        progress.advance()
    assert capsys.readouterr().err == "runs: 1 of 3\nruns: 2 of 3\n"


@pytest.mark.usefixtures("_impatient")
def test_steps_of_a_single_run_are_counted_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with bars(1, quiet=False) as progress, progress.run("a \x1b[31mrun", 2000) as on_step:
        for step in (4, 5):
            on_step(step)
    shown = capsys.readouterr().err
    assert shown.endswith("steps: 4 of 2000\n")
    assert "\x1b" not in shown


@pytest.mark.usefixtures("_impatient")
def test_many_items_are_counted_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with track(range(FEW + 1), "checked", quiet=False) as items:
        assert list(items) == list(range(FEW + 1))
    assert capsys.readouterr().err.splitlines()[1] == f"checked: 1 of {FEW + 1}"


@pytest.mark.parametrize("pause", [0.0, 15.0])
def test_quiet_and_short_commands_show_none(
    pause: float, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.progress.PAUSE", pause)
    with bars(3, quiet=pause == 0) as progress:
        progress.advance()
    assert capsys.readouterr().err == ""
