"""Tests of the tools that write pages and pictures of docs/."""

from __future__ import annotations

import pytest

from pipeline.paths import PROJECT
from tools import costs, screenshots


def test_page_of_costs_has_a_row_for_each_command_and_names_the_space_of_a_run() -> None:
    measured = [
        costs.Cost(command, 0.4, 100.0, 24.0 if command == "sweep --jobs 1" else 0.0) for command in costs.COMMANDS
    ]
    page = costs.page(measured)
    assert page.count("| &lt; 1 | 100 |") == len(costs.COMMANDS)
    assert "A run has about 2.0 MiB in the store." in page


def test_committed_page_of_costs_has_the_commands_that_are_measured() -> None:
    text = costs.PAGE.read_text(encoding="utf-8")
    assert all(f"| `{command}` |" in text for command in costs.COMMANDS)


def test_screenshots_are_skipped_in_one_line_without_a_browser(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(screenshots, "CHROMIUM", None)
    assert screenshots.main([]) == 0
    assert capsys.readouterr().out == "skipped: Chromium is not installed\n"


def test_terminal_of_the_screenshots_has_80_columns() -> None:
    lines = screenshots.in_terminal("sweep", "--help").splitlines()
    assert 40 < max(map(len, lines)) <= screenshots.COLUMNS


@pytest.mark.parametrize("name", ["sweep", "run", "charts", "run_page", "report", "notebook", "site"])
def test_pictures_are_there_and_small(name: str) -> None:
    assert 10_000 < (PROJECT / "docs" / "pictures" / f"{name}.png").stat().st_size < 250_000
