"""The summary of a sweep: its table, its figures, its own run in the store, and links."""

from __future__ import annotations

import math
import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from pipeline.analysis.estimates import Estimate, show, show_half_width
from pipeline.profiling import PROFILE
from pipeline.reports.figures import heatmaps
from pipeline.reports.figures.profiles import RunProfile, overlay_plot
from pipeline.runs.result import RunResult
from pipeline.tracking import chart_view
from pipeline.tracking.locks import RunLocks
from pipeline.tracking.run_names import short_key
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.tracking.tags import ATTEMPTS_TAG, attempts_of, in_sweep
from pipeline.tracking.uri import redact, without_user
from pipeline.wording import DECADES_LOST, command, counted

# Headline metric, column title. A skipped cell shows it if HEADLINE_PROBES (pipeline/tracking/logged_run.py) has its
# probe; the table of the HTML page has its own columns (pipeline/reports/sweep_report.py).
COLUMNS = (
    ("decades_lost_delta_rms_start", "decades lost"),
    ("decades_lost_per_layer_delta_rms_start", "per layer"),
    ("final_accuracy_validation", "validation accuracy"),
    ("final_r2_validation", "validation R²"),
    ("final_accuracy_test", "test accuracy"),
    ("final_r2_test", "test R²"),
)


def frame(results: Sequence[RunResult]) -> pd.DataFrame:
    """Return one row for each cell: swept values, status, and the final numbers with their intervals."""
    rows = []
    for r in results:
        row: dict[str, Any] = {**r.swept, "status": r.status, "run_id": r.run_id}
        row["diverged_fraction"] = r.diverged_fraction
        row["verdict"] = verdict_of(r)
        if r.stopped_at is not None:
            row["stopped_early_at_step"] = r.stopped_at
        for key, value in r.headline.items():
            row |= {key: float(value.mean), f"{key}_low": float(value.low), f"{key}_high": float(value.high)}
        rows.append(row)
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Extras:
    """What the summary of a special kind of sweep holds in addition.

    Attributes:
        texts: Text artifacts, by file name.
        figures: Figures, by file name.
        metrics: Metrics, by name.
        tags: Tags, by name.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


NO_EXTRAS = Extras()
LOG_FILE = "sweep.log"  # where the time of the command went


def log_summary(
    store: Store, name: str, sweep_id: str, results: Sequence[RunResult], extras: Extras = NO_EXTRAS
) -> str:
    """Log figures, table and description of a sweep in a run of its own; return the run's id.

    A sweep that is run again writes to the same run.
    """
    locks = RunLocks.of(store)
    lock = f"summary-{sweep_id}"
    with locks.acquire(lock, timeout=-1):
        existing = store.search(f"tags.sweep_summary = '{sweep_id}'")
        tags = {"sweep_summary": sweep_id, "kind": "sweep", **locks.tags(lock)}
        attempt = attempts_of(existing[0].data.tags) + 1 if existing else 0
        summary = store.resume(existing[0].info.run_id) if existing else store.start(f"sweep {name}", tags)
        with summary:
            summary.tags({ATTEMPTS_TAG: str(attempt), **locks.tags(lock)})
            if not existing:  # a parameter cannot change, and the order of the cells may
                summary.params({"cells": len(results), "swept": ", ".join(results[0].swept)})
            figures = {"sweep.png": grid(name, results), "profiles.png": profiles(name, results), **extras.figures}
            for file_name, figure in figures.items():
                if figure is not None:
                    summary.figure(figure, file_name)
            texts = {"sweep.csv": frame(results).to_csv(index=False), LOG_FILE: PROFILE.text(), **extras.texts}
            for file_name, text in texts.items():
                summary.text(text, file_name)
            metrics = {
                "cells_finished": sum(r.status == "FINISHED" for r in results),
                "cells_failed": sum(r.status == "FAILED" for r in results),
                "cells_with_diverged_replicates": sum(r.diverged_replicates > 0 for r in results),
                **extras.metrics,
            }
            for key, value in metrics.items():
                summary.metric(key, value, attempt)
            summary.tags({"mlflow.note.content": markdown(name, sweep_id, results), **extras.tags})
            summary.end("FAILED" if any(r.status != "FINISHED" for r in results) else "FINISHED")
    return summary.run_id


def markdown(name: str, sweep_id: str, results: Sequence[RunResult]) -> str:
    """Return the description at the top of the summary's page in MLflow."""
    columns = _present(results)
    heads = [short_key(k) for k in results[0].swept] + [title for _, title in columns] + ["gradient flow", "status"]
    runs = counted(len(results), "run")
    lines = [f"**Sweep {name}** ({sweep_id}): {runs}, means over replicates with 95% intervals.", ""]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for r in results:
        cells = [*r.swept.values(), *(_cell(r, key) for key, _ in columns), verdict_of(r), ending(r)]
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    lines += ["", f"Its runs: filter `{in_sweep(sweep_id)}`. The figure is the artifact `sweep.png`."]
    return "\n".join(lines)


def _present(results: Sequence[RunResult]) -> list[tuple[str, str]]:
    return [(key, title) for key, title in COLUMNS if any(key in r.headline for r in results)]


def ending(result: RunResult) -> str:
    """Return how a cell ended: its error, the number of diverged replicates and its early stop, or its status."""
    if result.error:
        return result.error
    ends = []
    if result.diverged_replicates:
        ends.append(f"{result.diverged_replicates} diverged, first at step {result.diverged_at}")
    if result.stopped_at is not None:
        ends.append(f"stopped early at step {result.stopped_at}")
    return "; ".join(ends) or result.status.lower()


def verdict_of(result: RunResult) -> str:
    """Return the verdict in a word or two."""
    return result.verdict_words or "–"


def _cell(result: RunResult, key: str, formatted: Callable[[Estimate], str] = show) -> str:
    return formatted(result.headline[key]) if key in result.headline else "–"


def grid(name: str, results: Sequence[RunResult]) -> Figure | None:
    """Draw decades lost per layer and the score, the first swept keys against the last; None without swept keys."""
    keys = list(results[0].swept)
    if not keys:
        return None
    rows = list(dict.fromkeys(_row(r, keys) for r in results))
    columns = list(dict.fromkeys(r.swept[keys[-1]] for r in results))
    maps = []
    for key, title, form, colours in (
        ("decades_lost_per_layer_delta_rms_start", "decades of δ lost per layer", ".2f", "cividis"),
        ("final_accuracy_test", "test accuracy", ".2f", "viridis"),
        ("final_r2_test", "test R²", ".2f", "viridis"),
    ):
        numbers = np.full((len(rows), len(columns)), math.nan)
        for r in results:
            if key in r.headline:
                numbers[rows.index(_row(r, keys)), columns.index(r.swept[keys[-1]])] = r.headline[key].mean
        if np.isfinite(numbers).any():
            maps.append((title, numbers, form, colours))
    if any(r.diverged_replicates for r in results):
        numbers = np.full((len(rows), len(columns)), math.nan)
        for r in results:
            numbers[rows.index(_row(r, keys)), columns.index(r.swept[keys[-1]])] = r.diverged_fraction
        maps.append(("diverged fraction", numbers, ".0%", "magma"))
    names = (", ".join(short_key(k) for k in keys[:-1]), short_key(keys[-1]))
    return heatmaps.sweep_plot(maps, rows, columns, names, f"sweep {name}") if maps else None


def profiles(name: str, results: Sequence[RunResult]) -> Figure | None:
    """Draw δ against layer at the start of training, all runs in the colours that they have in MLflow."""
    return overlay_plot([RunProfile(r.name, r.swept, r.profile) for r in results], f"sweep {name}")


def _row(result: RunResult, keys: Sequence[str]) -> str:
    return ", ".join(result.swept[k] for k in keys[:-1])


def result_table(sweep_id: str, results: Sequence[RunResult]) -> Table:
    """Return the table of a sweep for the terminal. Five numbers and a run's id fit 80 columns."""
    columns = _present(results)
    title = f"\nsweep {sweep_id}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for key in results[0].swept:
        table.add_column(short_key(key))
    for _, title in columns:
        table.add_column(_folded(title), justify="right", no_wrap=True)
    table.add_column(_folded("gradient flow"))
    table.add_column("run", no_wrap=True)
    has_diverged = any(r.diverged_replicates for r in results)
    if has_diverged:
        table.add_column("diverged")
    has_stopped = any(r.stopped_at is not None for r in results)
    if has_stopped:
        table.add_column(_folded("stopped early"), no_wrap=True)
    for r in results:
        status = r.run_id[:8] if r.status == "FINISHED" else r.status.lower()
        diverged = [f"{r.diverged_replicates}, from step {r.diverged_at}" if r.diverged_replicates else ""]
        stopped = ["" if r.stopped_at is None else f"at step {r.stopped_at}"]
        ends = [*(diverged if has_diverged else []), *(stopped if has_stopped else [])]
        numbers = (_cell(r, key, show_half_width) for key, _ in columns)
        table.add_row(*r.swept.values(), *numbers, verdict_of(r), status, *ends)
    return table


def _folded(title: str) -> str:
    """Return a title on two lines."""
    return "\n".join(textwrap.wrap(title, len(title) - 1))


def legend_lines(results: Sequence[RunResult]) -> list[str]:
    """Return what the numbers of the table mean."""
    replicates = max((len(values) for r in results for values in r.values.values()), default=0)
    lines = []
    if any("decades_lost_delta_rms_start" in r.headline for r in results):
        first, second = DECADES_LOST
        lines += [f"decades lost: {first}", f"  {second}"]
    if any(r.diverged_replicates for r in results):
        lines.append("diverged: networks with a number that is not finite, and the first such step")
    if any(r.stopped_at is not None for r in results):
        lines.append("stopped early: the validation cost no longer fell")
    if replicates > 1:
        lines.append(f"±: 95% interval of the mean over {replicates} networks")
    return lines


def summary_links(
    store: Store, sweep_id: str, results: Sequence[RunResult], summary_id: str, artifact: str
) -> list[str]:
    """Save a view of the sweep's charts; return lines with the addresses of the view and of the summary."""
    score = "r2/test" if any("final_r2_test" in r.headline for r in results) else "accuracy/test"
    charts = store.save_chart_view(sweep_id, chart_view.sweep_view(in_sweep(sweep_id), score))
    return [
        *link_lines(store, charts, "charts of its runs"),
        *link_lines(store, store.run_link(summary_id, f"/artifacts/{artifact}"), "its summary"),
    ]


def link_lines(store: Store, path: str, what: str) -> list[str]:
    """Return a link on a line of its own; for a local store, after the command that serves it."""
    if store.uri.startswith("http"):
        base, hint = without_user(store.uri), ""
    else:
        base, hint = "http://127.0.0.1:5000", f" (after `{command('ui', options=store_option(store))}`)"
    return [f"{what}{hint}:", f"{base}{path}"]


def store_option(store: Store) -> str:
    """Return the option of a command that chooses a store; "" for the project's own."""
    is_own = store.uri == TrackingConfig(None, None).resolved_uri()
    return "" if is_own else f"--uri {shlex.quote(redact(store.uri))}"
