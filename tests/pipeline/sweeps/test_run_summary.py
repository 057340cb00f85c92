"""The end of a run on the terminal."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from support.commands import run_command
from support.stores import uri

from pipeline.sweeps.run_summary import BAR, bar_chart

SHORT = ("architecture=deep", "architecture.width=8", "epochs=1")


def end_of(tmp_path: Path, *overrides: str) -> list[str]:
    """Return the lines that a run ends with."""
    return list(run_command(*overrides, f"tracking.uri={uri(tmp_path)}").result.lines())


def test_bars_are_as_long_as_their_values_on_the_printed_axis() -> None:
    lines = bar_chart({"a": -2.5, "b": 0.0, "output": -1.25, "c": -math.inf, "d": math.nan})
    assert lines[0] == f"     a   -2.50 |{'█' * round(BAR / 6)}"
    assert lines[1] == f"     b    0.00 |{'█' * BAR}"
    assert lines[2] == f"output   -1.25 |{'█' * round(BAR * 1.75 / 3)}"
    assert lines[3:5] == ["     c    zero |", "     d       – |"]
    assert lines[5].split() == ["-3", "0"]
    assert lines[5].index("-3") == lines[0].index("|")
    assert len(lines[5]) == len(lines[1])


@pytest.mark.parametrize("value", [-3.0, 0.0, 2.0])
def test_value_at_the_end_of_the_axis_has_a_bar(value: float) -> None:
    assert "█" in bar_chart({"a": value})[0]


def test_vanishing_run_ends_with_verdict_changes_chart_and_scores(tmp_path: Path) -> None:
    lines = end_of(tmp_path, *SHORT, "architecture.depth=10")
    assert max(map(len, lines[:-4])) <= 80, "only commands and links that name the store may be longer"
    assert lines[1].endswith(": vanishing")
    assert lines[3].startswith("Gradients vanish: from the last of 10 hidden layers to the first, δ")
    changes = lines[lines.index("what to change:") + 1 :]
    assert changes[0] == "  activation=relu init=he_normal"
    bars = [line for line in lines if re.match(r"( *layer +\d+| *output)", line)]
    assert len(bars) == 11
    logs = [float(line.partition("|")[0].split()[-1]) for line in bars]
    lengths = [line.count("█") for line in bars]
    assert logs == sorted(logs)
    assert lengths == sorted(lengths)
    (baseline,) = (line for line in lines if line.startswith("always the largest class"))
    assert float(baseline.split()[-1]) == pytest.approx(0.0919, abs=1e-4)
    store = re.escape(f"--uri {uri(tmp_path)}")
    assert re.fullmatch(rf"try the changes: gradvitals prescribe [0-9a-f]{{8}} {store}", lines[-4])
    assert re.fullmatch(rf"run it again: gradvitals reproduce [0-9a-f]{{8}} {store}", lines[-3])


def test_scores_of_a_regression_stand_over_the_mean(tmp_path: Path) -> None:
    lines = end_of(
        tmp_path, "data=diabetes", "activation@output=identity", "cost=half_squared_error", "replicates=2", "epochs=0"
    )
    assert [line.split("  ")[0] for line in lines if re.match("untrained|cost|R²|always", line)] == [
        "untrained",
        "cost",
        "R²",
        "always the mean",
    ]
    assert "[a, b]: 95% interval of the mean over 2 networks" in lines


def test_run_that_stops_early_says_the_step_and_has_validation_scores(tmp_path: Path) -> None:
    lines = end_of(
        tmp_path, "data=iris", "data.validation_fraction=0.3", "early_stopping=validation", "early_stopping.patience=1",
        "schedule@evaluation.schedule=every", "optimizer.learning_rate=5", "architecture.hidden=[4,3]",
    )  # fmt: skip
    (head,) = (line for line in lines if line.startswith("stopped early at step "))
    assert head.split()[-3:] == ["training", "validation", "test"]
    (accuracy,) = (line for line in lines if line.startswith("accuracy"))
    assert len(accuracy.split()) == 4
    step = head.split()[4]
    sentence = rf"Training stopped early at step {step} of \d+: the validation cost had not fallen for 1 evaluation\."
    assert re.search(sentence, " ".join(lines))


def test_diverged_run_has_no_scores(tmp_path: Path) -> None:
    lines = end_of(tmp_path, *SHORT, "activation=relu", "cost=squared_error", "activation@output=identity",
                   "optimizer.learning_rate=1e30", "replicates=7")  # fmt: skip
    assert ": diverged" in lines[1]
    assert sum(line.startswith("diverged: replicate") for line in lines) == 5
    assert "and 2 more replicates" in lines
    assert "no final scores: every network diverged" in lines


def test_long_chart_is_thinned_and_keeps_both_ends(tmp_path: Path) -> None:
    lines = end_of(tmp_path, *SHORT, "architecture.depth=50", "epochs=0")
    names = [line.partition("|")[0].split() for line in lines if re.match(r" *(layer +\d+|output) .*\|", line)]
    assert len(names) == 21
    assert names[0][:2] == ["layer", "1"]
    assert names[-1][0] == "output"


def test_run_without_delta_says_what_a_verdict_needs(tmp_path: Path) -> None:
    lines = end_of(tmp_path, "probes=none", "epochs=0")
    assert lines[1].endswith(": no verdict")
    assert "A verdict needs the probe delta_rms and a hidden layer." in lines
