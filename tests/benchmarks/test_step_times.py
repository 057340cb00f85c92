"""The benchmarks of steps run with and without PyTorch and write complete pages. The times are not checked."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.nets import DTYPES, NETS
from benchmarks.report import BARE, INLINE, OURS, PEER, PROBED, TUTORIAL, Row
from benchmarks.timing import interleaved, median_with_interval

PROJECT = Path(__file__).resolve().parent.parent.parent
HAS_TORCH = importlib.util.find_spec("torch") is not None
NUMBER = re.compile(r"\d+(\.\d+)?")


@pytest.mark.thorough
def test_quick_run_writes_every_row(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    command = [
        sys.executable,
        "-m",
        "benchmarks.step",
        "--quick",
        "--no-check",
        "--write",
        str(page),
        "--date",
        "today",
    ]
    environment = os.environ | {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "512"}  # the benchmark drops them
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert " on today." in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| 7"]
    rows += [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| 6"]
    assert sorted((row[0], row[3]) for row in rows) == sorted((net.name, dtype) for net in NETS for dtype in DTYPES)
    for row in rows:
        ours, theirs = (*row[4:8], *row[12:15]), (*row[8:12], row[15])
        assert all(NUMBER.fullmatch(cell) for cell in ours)
        for cell in theirs:
            assert NUMBER.fullmatch(cell) if HAS_TORCH else cell == "-"
    if not HAS_TORCH:
        assert "pip install" in text
        assert not any("tutorial" in row[-1] or "PyTorch /" in row[-1] for row in rows)


@pytest.mark.parametrize(
    ("net", "ours", "failures"),
    [(0, 1.0, 0), (0, 1.2, 1), (0, 1.3, 2), (3, 1.2, 0), (3, 3.6, 2), (5, 1.0, 0), (5, 1.2, 1), (5, 4.0, 3)],
)
def test_claim_fails_if_the_whole_interval_is_on_the_wrong_side(net: int, ours: float, failures: int) -> None:
    times = {BARE: 1.0, INLINE: 1.0, OURS: ours, PROBED: 3.0, PEER: 3.5, TUTORIAL: 4.0}
    row = Row(NETS[net], "float32", {name: np.full(20, value) for name, value in times.items()}, "some way")
    assert len(row.failures()) == failures
    assert (row.verdict() == "pass") == (failures == 0)


def test_claim_holds_if_its_interval_contains_the_limit() -> None:
    ratios = np.linspace(3.3, 3.6, 21)
    row = Row(NETS[0], "float32", {OURS: np.ones(21), INLINE: np.ones(21), TUTORIAL: ratios}, "some way")
    assert row.failures() == []


def test_interval_contains_the_median() -> None:
    middle, low, high = median_with_interval(np.arange(101.0))
    assert middle == 50
    assert 35 < low < 50 < high < 65


def test_contenders_have_equal_rounds() -> None:
    counts = {"a": 0, "b": 0}

    def count(name: str) -> None:
        counts[name] += 1

    times = interleaved({name: lambda name=name: count(name) for name in counts}, 0.0, least_rounds=4)  # type: ignore[misc]
    assert {len(t) for t in times.values()} == {4}
    assert min(counts.values()) > 4


@pytest.mark.thorough
def test_measuring_page_has_every_row(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    command = [sys.executable, "-m", "benchmarks.measuring", "--quick", "--no-check", "--write", str(page)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert all(f"| {net.name} | {net.batch} | {dtype} |" in text for net in NETS for dtype in DTYPES)
    assert all(f"| {probe} |" in text for probe in ("delta_rms", "lost_updates", "sharpness", "gradient_exponents"))
