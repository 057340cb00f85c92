"""The end of a run on the terminal: its verdict in plain words, a bar chart of δ by layer, and its scores.

All lines are plain text and fit a terminal of 80 columns.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping

import numpy as np

from pipeline.analysis.estimates import show
from pipeline.data.description import DataDescription
from pipeline.runs.result import RunResult
from pipeline.tracking.metrics import log10_mean
from pipeline.training.records import Record
from pipeline.wording import counted

WIDTH = 72  # columns of the text; a terminal of 80 has room for letters that it spells, such as delta
BAR = 56  # columns of the longest bar
MOST_DIVERGENCES = 5  # replicates whose divergence is described
MOST_BARS = 21  # layers in a chart: 20 hidden layers and the output
SCORES = {"cost": "cost", "accuracy": "accuracy", "r2": "R²"}
SETS = {"train": "training", "validation": "validation", "test": "test"}


def run_lines(result: RunResult, data: DataDescription | None, last_step: int, replicates: int) -> list[str]:
    """Return the verdict on a run, a bar chart of its δ, and its scores.

    Args:
        result: The run, which has finished.
        data: What it was trained and tested on, if the source describes it.
        last_step: Number of steps of the whole training.
        replicates: Number of its networks.
    """
    parts = [
        [f"{result.name}: {result.verdict_words or 'no verdict'}", *_divergence_lines(result)],
        _verdict_lines(result, replicates),
        _remedy_lines(result),
        _chart_lines(result),
        _score_lines(result, data, last_step),
    ]
    return ["", *(line for part in parts if part for line in (*part, ""))]


def _divergence_lines(result: RunResult) -> list[str]:
    sentences = [f"diverged: {divergence.finding.sentence()}" for divergence in result.divergences]
    more = len(sentences) - MOST_DIVERGENCES
    lines = [line for sentence in sentences[:MOST_DIVERGENCES] for line in _wrapped(sentence, "", " " * 4)]
    return [*lines, *([f"and {counted(more, 'more replicate')}"] if more > 0 else [])]


def _verdict_lines(result: RunResult, replicates: int) -> list[str]:
    if result.verdict is None:
        return ["A verdict needs the probe delta_rms and a hidden layer."]
    lines = _wrapped(result.explanation)
    if " [" in result.explanation:
        of_mean = f"of the mean over {replicates} networks"
        origin = "from theory (replicates=5 measures it)" if replicates == 1 else of_mean
        lines.append(f"[a, b]: 95% interval {origin}")
    return lines


def _remedy_lines(result: RunResult) -> list[str]:
    """Return each proposed change on a line of its own, as one types it, with its reason below."""
    lines = ["what to change:"] if result.remedies else []
    for remedy in result.remedies:
        lines += [f"  {remedy.overrides}", *_wrapped(f"{remedy.name} ({remedy.reason})", " " * 6, " " * 6)]
    return lines


def _wrapped(text: str, first: str = "", others: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


def _chart_lines(result: RunResult) -> list[str]:
    if result.profile is None:
        return []
    title = "log10 δ by layer, before training (layer 1 is next to the input)"
    return [title, *bar_chart(_logs_by_layer(result.profile))]


def _logs_by_layer(profile: Record) -> dict[str, float]:
    """Return log10 of the geometric mean over replicates by the name of the layer, at most ``MOST_BARS`` of them."""
    logs = log10_mean(profile)
    shown = np.unique(np.linspace(0, len(logs) - 1, min(len(logs), MOST_BARS)).round().astype(int))
    last = len(logs) - 1
    return {"output" if i == last else f"layer {profile.layers[i]}": float(logs[i]) for i in shown}


def bar_chart(values: Mapping[str, float]) -> list[str]:
    """Return a bar for each value, and the axis.

    Args:
        values: Finite numbers; −inf and NaN have no bar.
    """
    finite = [value for value in values.values() if math.isfinite(value)]
    if not finite:
        return ["no value is finite and above 0"]
    low, high = math.ceil(min(finite)) - 1, math.ceil(max(finite))  # so that the shortest bar can be seen
    widest = max(map(len, values))
    lines = []
    for name, value in values.items():
        filled = round(BAR * (value - low) / (high - low)) if math.isfinite(value) else 0
        number = f"{value:.2f}" if math.isfinite(value) else "zero" if value < 0 else "–"
        lines.append(f"{name:>{widest}} {number:>7} |{'█' * filled}".rstrip())
    axis = f"{low}{high:>{BAR + 1 - len(str(low))}}"
    return [*lines, f"{' ' * (widest + 9)}{axis}"]


def _score_lines(result: RunResult, data: DataDescription | None, last_step: int) -> list[str]:
    """Return final cost and score on each set, with the score of the simplest guess on the last one."""
    values = {q: {part: result.headline.get(f"final_{q}_{part}") for part in SETS} for q in SCORES}
    parts = [part for part in SETS if any(of_parts[part] is not None for of_parts in values.values())]
    if not parts:
        return [f"no final scores: {_ending(result)}"]
    rows = [
        (name, *("" if value is None else show(value) for value in (values[quantity][part] for part in parts)))
        for quantity, name in SCORES.items()
        if any(value is not None for value in values[quantity].values())
    ]
    if data is not None:
        judged = "test" if "test" in parts else "train"  # as in DataDescription.baseline
        name, score = _guess(data)
        rows.append((name, *(score if part == judged else "" for part in parts)))
    table = [(_length(result, last_step), *(SETS[part] for part in parts)), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join([f"{name:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(cells, widths[1:], strict=True))]).rstrip()
        for name, *cells in table
    ]


def _length(result: RunResult, last_step: int) -> str:
    if result.stopped_at is not None:
        return f"stopped early at step {result.stopped_at}"
    return f"after {counted(last_step, 'step')}" if last_step else "untrained"


def _ending(result: RunResult) -> str:
    return "every network diverged" if result.divergences else "nothing was evaluated"


def _guess(data: DataDescription) -> tuple[str, str]:
    """Return the simplest guess, and its accuracy or R²."""
    if data.baseline is None:
        return "always the mean", "0"
    return "always the largest class", f"{data.baseline:.3g}"
