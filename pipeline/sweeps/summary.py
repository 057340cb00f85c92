"""A sweep at its end: the table, the figures, its own run in the store, and where to look."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from pipeline.analysis.summary import show
from pipeline.reports.figures import heatmaps
from pipeline.reports.figures.profiles import RunProfile, overlay_plot
from pipeline.runs.result import RunResult
from pipeline.tracking import chart_view
from pipeline.tracking.locks import RunLocks
from pipeline.tracking.run_names import short_key
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.tracking.tags import ATTEMPTS_TAG, in_sweep
from pipeline.tracking.uri import without_user

COLUMNS = (  # headline metric, column title
    ("decades_lost_delta_rms_start", "decades lost (δ)"),
    ("decades_lost_per_layer_delta_rms_start", "per layer"),
    ("decades_lost_gradient_norm_start", "decades lost (∂C/∂W)"),
    ("final_accuracy_test", "test accuracy"),
    ("final_r2_test", "test R²"),
)


def table(outcomes: Sequence[RunResult]) -> pd.DataFrame:
    """One row a cell: swept values, status, and the final numbers with their intervals."""
    rows = []
    for o in outcomes:
        row: dict[str, Any] = {**o.swept, "status": o.status, "run_id": o.run_id}
        row["diverged_fraction"] = o.diverged_fraction
        row["verdict"] = verdict_of(o)
        for key, value in o.headline.items():
            row |= {key: float(value.mean), f"{key}_low": float(value.low), f"{key}_high": float(value.high)}
        rows.append(row)
    return pd.DataFrame(rows)


def summarise(
    store: Store,
    name: str,
    sweep_id: str,
    outcomes: Sequence[RunResult],
    texts: Mapping[str, str] | None = None,
    figures_too: Mapping[str, Figure] | None = None,
    found: Mapping[str, float | str] | None = None,
) -> str:
    """The sweep's own run: figures, table and description; written anew if it is there already. Returns its id.

    Args:
        texts, figures_too: more artifacts, by file name.
        found: more metrics (numbers) and tags (texts).
    """
    locks = RunLocks.of(store)
    lease = f"summary-{sweep_id}"
    with locks.acquire(lease, timeout=-1):
        before = store.search(f"tags.sweep_summary = '{sweep_id}'")
        tags = {"sweep_summary": sweep_id, "kind": "sweep", **locks.tags(lease)}
        times = int(before[0].data.tags.get(ATTEMPTS_TAG, "0")) + 1 if before else 0
        summary = store.resume(before[0].info.run_id) if before else store.start(f"sweep {name}", tags)
        with summary:
            summary.tags({ATTEMPTS_TAG: str(times), **locks.tags(lease)})
            if not before:  # the same cells may be told in another order; a parameter cannot change
                summary.params({"cells": len(outcomes), "swept": ", ".join(outcomes[0].swept)})
            buffer = io.StringIO()
            table(outcomes).to_csv(buffer, index=False)
            summary.text(buffer.getvalue(), "sweep.csv")
            pictures = {
                "sweep.png": picture(name, outcomes),
                "profiles.png": profiles(name, outcomes),
                **(figures_too or {}),
            }
            for file_name, figure in pictures.items():
                if figure is not None:
                    summary.figure(figure, file_name)
            for file_name, text in (texts or {}).items():
                summary.text(text, file_name)
            for key, value in (found or {}).items():
                if isinstance(value, str):
                    summary.tags({key: value})
                else:
                    summary.metric(key, value, times)
            failed = [o for o in outcomes if o.status == "FAILED"]
            summary.metric("cells_finished", sum(o.status == "FINISHED" for o in outcomes), times)
            summary.metric("cells_failed", len(failed), times)
            summary.metric("cells_with_diverged_replicates", sum(o.diverged_replicates > 0 for o in outcomes), times)
            summary.tags({"mlflow.note.content": markdown(name, sweep_id, outcomes)})
            summary.end("FAILED" if any(o.status != "FINISHED" for o in outcomes) else "FINISHED")
    return summary.run_id


def markdown(name: str, sweep_id: str, outcomes: Sequence[RunResult]) -> str:
    """The description at the top of the summary's page."""
    columns = _present(outcomes)
    heads = [short_key(k) for k in outcomes[0].swept] + [title for _, title in columns] + ["verdict", "status"]
    lines = [f"**Sweep {name}** ({sweep_id}): {len(outcomes)} runs, means over replicates with 95% intervals.", ""]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for o in outcomes:
        cells = [*o.swept.values(), *(_cell(o, key) for key, _ in columns), verdict_of(o), ending(o)]
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    lines += ["", f"Its runs: filter `{in_sweep(sweep_id)}`. The figure is the artifact `sweep.png`."]
    return "\n".join(lines)


def _present(outcomes: Sequence[RunResult]) -> list[tuple[str, str]]:
    return [(key, title) for key, title in COLUMNS if any(key in o.headline for o in outcomes)]


def ending(outcome: RunResult) -> str:
    """How a cell ended: its error, how many replicates diverged, or that it finished."""
    if outcome.error:
        return outcome.error
    if outcome.diverged_replicates:
        return f"{outcome.diverged_replicates} diverged, first at step {outcome.diverged_at}"
    return outcome.status.lower()


def verdict_of(outcome: RunResult) -> str:
    """The verdict in a word or two."""
    return outcome.verdict_words or "–"


def _cell(outcome: RunResult, key: str) -> str:
    return show(outcome.headline[key]) if key in outcome.headline else "–"


def picture(name: str, outcomes: Sequence[RunResult]) -> Figure | None:
    """Decades of gradient lost per layer, and the score, over the first swept keys against the last one."""
    keys = list(outcomes[0].swept)
    if not keys:
        return None
    rows = list(dict.fromkeys(_row(o, keys) for o in outcomes))
    columns = list(dict.fromkeys(o.swept[keys[-1]] for o in outcomes))
    maps = []
    for key, title, form, colours in (
        ("decades_lost_per_layer_delta_rms_start", "decades of δ lost per layer", ".2f", "cividis"),
        ("final_accuracy_test", "test accuracy", ".2f", "viridis"),
        ("final_r2_test", "test R²", ".2f", "viridis"),
    ):
        numbers = np.full((len(rows), len(columns)), math.nan)
        for o in outcomes:
            if key in o.headline:
                numbers[rows.index(_row(o, keys)), columns.index(o.swept[keys[-1]])] = o.headline[key].mean
        if np.isfinite(numbers).any():
            maps.append((title, numbers, form, colours))
    if any(o.diverged_replicates for o in outcomes):
        numbers = np.full((len(rows), len(columns)), math.nan)
        for o in outcomes:
            numbers[rows.index(_row(o, keys)), columns.index(o.swept[keys[-1]])] = o.diverged_fraction
        maps.append(("diverged fraction", numbers, ".0%", "magma"))
    names = (", ".join(short_key(k) for k in keys[:-1]), short_key(keys[-1]))
    return heatmaps.sweep_plot(maps, rows, columns, names, f"sweep {name}") if maps else None


def profiles(name: str, outcomes: Sequence[RunResult]) -> Figure | None:
    """δ against layer at the start of training, all runs overlaid in the colours they have in the UI."""
    return overlay_plot([RunProfile(o.name, o.swept, o.profile) for o in outcomes], f"sweep {name}")


def _row(outcome: RunResult, keys: Sequence[str]) -> str:
    return ", ".join(outcome.swept[k] for k in keys[:-1])


def report(console: Console, store: Store, sweep_id: str, summary_id: str, outcomes: Sequence[RunResult]) -> None:
    """The table in the terminal, every failure, and where to look."""
    columns = _present(outcomes)
    shown = Table(title=f"sweep {sweep_id}: mean [95% interval] over replicates", title_justify="left")
    for key in outcomes[0].swept:
        shown.add_column(short_key(key))
    for _, title in columns:
        shown.add_column(title, justify="right")
    shown.add_column("verdict")
    shown.add_column("run")
    some_diverged = any(o.diverged_replicates for o in outcomes)
    if some_diverged:
        shown.add_column("ended")
    for o in outcomes:
        status = o.run_id[:8] if o.status == "FINISHED" else f"[red]{o.status.lower()}[/red]"
        end = [ending(o)] if some_diverged else []
        shown.add_row(*o.swept.values(), *(_cell(o, key) for key, _ in columns), verdict_of(o), status, *end)
    console.print(shown)
    failed = [o for o in outcomes if o.status == "FAILED"]
    for o in failed:
        console.print(f"[red]failed[/red] {o.name} (run {o.run_id}): {o.error}", highlight=False)
    where(console, store, share(store, sweep_id, outcomes), "charts of its runs")
    where(console, store, store.run_link(summary_id, "/artifacts/sweep.png"), "its summary")


def share(store: Store, sweep_id: str, outcomes: Sequence[RunResult]) -> str:
    """Keep a view with all runs of the sweep overlaid; returns its path."""
    score = "r2/test" if any("final_r2_test" in o.headline for o in outcomes) else "accuracy/test"
    return store.save_chart_view(sweep_id, chart_view.sweep_view(in_sweep(sweep_id), score))


def where(console: Console, store: Store, path: str, what: str) -> None:
    """A link on a line of its own, never broken; for a local store, with the command that serves it."""
    if store.uri.startswith("http"):
        base, hint = without_user(store.uri), ""
    else:
        own = store.uri == TrackingConfig(None, store.experiment).resolved_uri()
        serve = "make ui" if own else f'make ui ARGS="--uri {store.uri}"'
        base, hint = "http://127.0.0.1:5000", f" (after `{serve}`)"
    console.print(f"{what}{hint}:", soft_wrap=True, highlight=False)
    console.print(f"{base}{path}", soft_wrap=True, highlight=False)
