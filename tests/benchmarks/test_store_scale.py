"""The benchmark of the store fills a store, writes its page, and reports growth."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.store import COLOURS, Row, failures, main


def rows(law: dict[int, float]) -> list[Row]:
    return [Row(runs, dict.fromkeys(COLOURS, seconds)) for runs, seconds in law.items()]


def test_growth_is_measured_from_the_first_full_sweep() -> None:
    assert failures(rows({10: 0.001, 100: 0.002, 1000: 0.003, 10_000: 0.004})) == []
    assert failures(rows({10: 9.0, 100: 0.002, 1000: 0.002, 10_000: 0.002})) == []
    assert len(failures(rows({10: 0.001, 100: 0.002, 1000: 0.003, 10_000: 0.008}))) == len(COLOURS)


@pytest.mark.thorough
def test_benchmark_fills_a_store_and_writes_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--sizes", "4", "12", "--seconds", "0", "--no-check", "--write", str(tmp_path / "x.md")]
    assert main(arguments) == 0
    page = (tmp_path / "x.md").read_text(encoding="utf-8")
    assert "| 4 |" in page
    assert "| 12 |" in page
    assert (tmp_path / "x.png").stat().st_size > 10_000
    assert "12 runs ..." in capsys.readouterr().err
