"""The table of a sweep on the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from support.commands import sweep_command
from support.stores import uri

from pipeline.analysis.estimates import estimate
from pipeline.progress import plain_console
from pipeline.runs.result import RunResult
from pipeline.sweeps.summary import legend_lines, result_table

KEYS = ("decades_lost_delta_rms_start", "decades_lost_per_layer_delta_rms_start", "final_accuracy_test")


def cell(activation: str, depth: int, verdict: str, *numbers: tuple[float, ...]) -> RunResult:
    """Return the result of a cell of the default sweep. The numbers are those of its replicates."""
    values = {key: np.array(v) for key, v in zip(KEYS, numbers, strict=True)}
    return RunResult(
        f"{activation} d{depth}",
        "0123456789abcdef0123456789abcdef",
        {"activation": activation, "architecture.depth": str(depth)},
        "FINISHED",
        headline={key: estimate(v) for key, v in values.items()},
        values=values,
        verdict_words=verdict,
    )


def printed(results: list[RunResult]) -> list[str]:
    output = io.StringIO()
    plain_console(file=output, width=200).print(result_table("depth-1f3a", results))
    return [line.rstrip() for line in output.getvalue().splitlines()]


def test_table_of_the_default_sweep_fits_80_columns() -> None:
    lines = printed(
        [
            cell("sigmoid", 20, "vanishing", (11.85, 12.05), (0.6237, 0.6342), (0.0868, 0.0870)),
            cell("relu", 20, "healthy", (-0.118, 0.115), (-0.00656, 0.00605), (0.869, 0.938)),
        ]
    )
    assert max(map(len, lines)) <= 80
    assert lines[-2].split() == [
        "sigmoid",
        "20",
        "11.9",
        "±1.3",
        "0.63",
        "±0.07",
        "0.0869",
        "±0.0013",
        "vanishing",
        "01234567",
    ]
    assert lines[-1].split() == ["relu", "20", "0.0", "±1.5", "0.00", "±0.08", "0.9", "±0.4", "healthy", "01234567"]


def test_diverged_cell_says_so_in_the_table_once() -> None:
    fine = cell("relu", 2, "healthy", (0.1, 0.2), (0.1, 0.2), (0.9, 0.8))
    diverged = RunResult(
        "x", "f" * 32, fine.swept, "FINISHED", diverged_fraction=1.0, diverged_replicates=2, diverged_at=7
    )
    lines = printed([fine, diverged])
    assert lines[-1].split("  ")[-1] == "2 diverged, first at step 7"
    assert "\n".join(lines).count("step 7") == 1


def test_legend_says_what_decades_and_intervals_are() -> None:
    lines = legend_lines([cell("relu", 2, "healthy", (0.1, 0.2), (0.1, 0.2), (0.9, 0.8))])
    assert lines[0].startswith("decades lost: log10 of δ in the last hidden layer over δ in the first")
    assert lines[-1] == "±: 95% interval of the mean over 2 networks"
    assert not any("±" in line for line in legend_lines([cell("relu", 2, "healthy", (0.1,), (0.1,), (0.9,))]))


def test_sweep_of_one_cell_is_one_run(tmp_path: Path) -> None:
    done = sweep_command("experiment=smoke", "activation=relu", "epochs=0", f"tracking.uri={uri(tmp_path)}")
    assert "1 run: 1 trained" in done.text
    assert "1 cell, sweep" in done.text
