"""The table of a sweep on the terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from support.commands import sweep_command
from support.stores import uri

from pipeline.analysis.estimates import Estimate
from pipeline.progress import plain_console
from pipeline.runs.result import RunResult
from pipeline.sweeps.summary import legend_lines, result_table

KEYS = ("decades_lost_delta_rms_start", "decades_lost_per_layer_delta_rms_start", "final_accuracy_test")
RUN_ID = "0123456789abcdef0123456789abcdef"


def cell(activation: str, depth: int, verdict: str, *numbers: tuple[float, float], replicates: int = 5) -> RunResult:
    """Return the result of a cell of the default sweep. The numbers are means and half widths of their intervals."""
    estimates = [Estimate(*(np.array(x) for x in (mean, mean - half, mean + half, 0.0))) for mean, half in numbers]
    return RunResult(
        f"{activation} d{depth}",
        RUN_ID,
        {"activation": activation, "architecture.depth": str(depth)},
        "FINISHED",
        headline=dict(zip(KEYS, estimates, strict=True)),
        values={key: np.zeros(replicates) for key in KEYS},
        verdict_words=verdict,
    )


FINE = cell("relu", 20, "healthy", (-0.0106, 0.126), (-0.00056, 0.0066), (0.869, 0.07))


def printed(results: list[RunResult], width: int = 80) -> list[str]:
    output = io.StringIO()
    plain_console(file=output, width=width).print(result_table("depth-1f3a", results))
    return [line.rstrip() for line in output.getvalue().splitlines()]


def test_table_of_the_default_sweep_fits_80_columns() -> None:
    vanishing = cell("sigmoid", 20, "vanishing", (11.96, 0.126), (0.6293, 0.0066), (0.0869, 0.0108))
    lines = printed([vanishing, FINE])
    assert lines[-4:] == printed([vanishing, FINE], width=200)[-4:], "nothing is folded"
    assert lines[-2].split() == ["sigmoid", "20", "11.96±0.13", "0.629±0.007", "0.087±0.011", "vanishing", RUN_ID[:8]]
    assert lines[-1].split() == ["relu", "20", "-0.01±0.13", "-0.001±0.007", "0.87±0.07", "healthy", RUN_ID[:8]]


def test_diverged_cell_says_so_in_the_table_once() -> None:
    diverged = replace(FINE, headline={}, diverged_fraction=1.0, diverged_replicates=2, diverged_at=7)
    lines = printed([FINE, diverged], width=200)
    assert lines[-2].endswith(RUN_ID[:8])
    assert lines[-1].endswith(f"{RUN_ID[:8]}  2, from step 7")
    assert "\n".join(lines).count("step 7") == 1
    assert any(line.startswith("diverged: ") for line in legend_lines([FINE, diverged]))


def test_legend_says_what_decades_and_intervals_are() -> None:
    lines = legend_lines([FINE])
    assert lines[0].startswith("decades lost: log10 of δ in the last hidden layer over δ in the first")
    assert lines[-1] == "±: 95% interval of the mean over 5 networks"
    alone = cell("relu", 2, "healthy", *[(0.1, np.nan)] * 3, replicates=1)
    assert not any("±" in line for line in (*legend_lines([alone]), *printed([alone])))


def test_sweep_of_one_cell_is_one_run(tmp_path: Path) -> None:
    done = sweep_command("experiment=smoke", "activation=relu", "epochs=0", f"tracking.uri={uri(tmp_path)}")
    assert "1 run: 1 trained" in done.text
    assert "1 cell, sweep" in done.text
