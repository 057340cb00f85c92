"""The report of a sweep: a table of its cells, maps over the swept keys, and the profiles of all runs overlaid."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.estimates import Estimate, show
from pipeline.analysis.summary import Summary
from pipeline.errors import ConfigError, did_you_mean
from pipeline.reports import html
from pipeline.reports.figures.heatmaps import swept_figures
from pipeline.reports.figures.profiles import RunProfile, overlay_figure
from pipeline.tracking.logged_run import HEADLINE_PROBES, LoggedRun
from pipeline.tracking.run_names import run_name, short_key
from pipeline.tracking.store import Store, download
from pipeline.tracking.tags import in_sweep, sweeps_of
from pipeline.wording import DECADES_LOST, command, counted

MOST_ROWS = 2000


def report_sweep(store: Store, sweep_id: str) -> str:
    """Return the page of a sweep.

    Raises:
        ConfigError: If the sweep does not exist or the records of a run are not readable.
    """
    summary, runs = find_sweep(store, sweep_id)
    logged = [LoggedRun.from_store(store, run, HEADLINE_PROBES) for run in runs]
    title = str(summary.info.run_name) if summary else f"sweep {sweep_id}"
    return page_of_sweep(sweep_id, title, logged, swept_values(store, summary, logged))


def page_of_sweep(sweep_id: str, title: str, logged: Sequence[LoggedRun], swept: pd.DataFrame) -> str:
    """Return the page of runs that were read from a store or an exported folder.

    Args:
        sweep_id: Id of the sweep.
        title: Title of the page.
        logged: The runs.
        swept: Values of the swept keys, one row for each run, in the order of the page.
    """
    by_id = {run.run_id: run for run in logged}
    logged = [by_id[run_id] for run_id in swept.index]
    summaries = [run.summary() for run in logged]
    cells = cell_table(logged, summaries, swept)
    keys = [str(key) for key in swept.columns]
    figures = swept_figures(cells, keys)
    overlay = overlay_figure(_profiles(logged, summaries, swept))
    failed = sum(run.status == "FAILED" for run in logged)
    return html.render(
        title=title,
        kind="sweep",
        facts=[
            sweep_id,
            counted(len(logged), "run"),
            *([f"{failed} failed"] if failed else []),
            min(run.start_time for run in logged),
        ],
        verdict="",
        paragraph=_sweep_paragraph(cells, keys),
        tiles=[],
        notes=[f"{run.name}: {note}" for run in logged for note in (*html.foreign(run.tags), *run.notes)],
        heads=_heads(cells, keys),
        rows=_rows(cells, keys)[:MOST_ROWS],
        cells=len(cells),
        pictures=html.template_figures([*figures, *([overlay] if overlay else [])]),
        command=command("reproduce", run="<run id>"),
        origin=html.origin(_common([run.provenance for run in logged])),
        config=html.config_text(logged[0].config),
    )


def find_sweep(store: Store, sweep_id: str) -> tuple[Any, list[Any]]:
    """Return the summary run of a sweep (None if it has none yet) and its runs in the order of their starts."""
    everywhere = [e.experiment_id for e in store.client.search_experiments()]
    newest = ["attributes.start_time DESC"]
    if re.fullmatch(r"[^'\"`\\%\s]+", sweep_id):
        query = f"{in_sweep(sweep_id)} and tags.kind = 'run'"
        runs = store.client.search_runs(everywhere, query, order_by=["attributes.start_time ASC"], max_results=10_000)
        runs = [r for r in runs if sweep_id in sweeps_of(r.data.tags)]
        if runs:
            query = f"tags.sweep_summary = '{sweep_id}'"
            own = store.client.search_runs(everywhere, query, order_by=newest, max_results=1)
            return (own[0] if own else None), list(runs)
    summaries = store.client.search_runs(everywhere, "tags.kind = 'sweep'", order_by=newest, max_results=10)
    existing = [s.data.tags.get("sweep_summary", "") for s in summaries]
    raise ConfigError(f"sweep {sweep_id}: no such sweep in {store.uri}{did_you_mean(sweep_id, existing)}")


def swept_values(store: Store, summary: Any, logged: Sequence[LoggedRun]) -> pd.DataFrame:
    """Return the values of the swept keys as text, one row for each run.

    The summary's ``sweep.csv`` holds them as the user typed them. Runs that are not in it, and sweeps without a
    summary, take them from the runs' parameters. A group (``init=he_normal``) is then shown by the parameters that
    differ.
    """
    if summary is None:
        return swept_table(None, "", logged)
    try:
        with tempfile.TemporaryDirectory() as folder:
            text = download(store, str(summary.info.run_id), "sweep.csv", Path(folder)).read_text("utf-8", "replace")
    except (ConfigError, OSError):
        text = ""
    return swept_table(str(summary.data.params.get("swept", "")), text, logged)


def swept_table(named: str | None, csv: str, logged: Sequence[LoggedRun]) -> pd.DataFrame:
    """Return the values of the swept keys as text, one row for each run, in the order of the sweep's own table.

    Args:
        named: The summary's parameter ``swept``; None without a summary.
        csv: Text of the summary's ``sweep.csv``.
        logged: The runs.
    """
    keys = [key for key in (named or "").split(", ") if key]
    varying = [k for k in dict.fromkeys(k for run in logged for k in run.params) if k != "layer_sizes"]
    varying = [k for k in varying if len({run.params.get(k) for run in logged}) > 1]
    keys = keys or ([] if named is not None else varying)
    given, order = _given(csv, keys)
    logged = sorted(logged, key=lambda run: order.get(run.run_id, len(order)))
    rows = [{key: given.get((run.run_id, key)) or _parameter(run, key, varying) for key in keys} for run in logged]
    return pd.DataFrame(rows, index=[run.run_id for run in logged], columns=keys)


def _given(csv: str, keys: Sequence[str]) -> tuple[dict[tuple[str, str], str], dict[str, int]]:
    """Map (run id, swept key) to the value in the sweep's table, and run ids to their places in it.

    Both are empty if the table is not readable.
    """
    try:
        table = pd.read_csv(io.StringIO(csv), dtype=str, keep_default_na=False).set_index("run_id")
    except (ValueError, KeyError):
        return {}, {}
    values = {(str(i), key): str(v) for key in keys if key in table for i, v in table[key].items()}
    return values, {str(run_id): place for place, run_id in enumerate(table.index)}


def _parameter(run: LoggedRun, key: str, varying: Sequence[str]) -> str:
    place = key.lstrip("+").partition("@")[2] or key.lstrip("+")
    if place in run.params:
        return run.params[place]
    return " ".join(run.params[k] for k in varying if k.startswith(f"{place}.") and k in run.params) or "–"


def _common(facts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the facts that all runs share, and the overrides among theirs that all share."""
    given = [f.get("overrides", "").split(" ") for f in facts]
    shared = " ".join(override for override in given[0] if all(override in own for own in given))
    return {k: v for k, v in facts[0].items() if all(f.get(k) == v for f in facts)} | {"overrides": shared}


def cell_table(logged: Sequence[LoggedRun], summaries: Sequence[Summary], swept: pd.DataFrame) -> pd.DataFrame:
    """Return one tidy row for each run: swept values, status, verdict, and numbers with their intervals."""
    rows = []
    for (_, values), run, summary in zip(swept.iterrows(), logged, summaries, strict=True):
        row: dict[str, Any] = {str(k): str(v) for k, v in values.items()}
        row |= {"run_id": run.run_id, "status": run.status, "verdict": run.verdict or "–"}
        row["diverged"] = run.metrics.get("diverged_fraction", np.nan)
        headline = summary.headline()
        for column, key in (
            ("decades", "decades_lost_delta_rms_start"),
            ("decades_per_layer", "decades_lost_per_layer_delta_rms_start"),
            ("accuracy", "final_accuracy_test"),
            ("r2", "final_r2_test"),
        ):
            row |= _flat(column, headline.get(key))
        rows.append(row)
    return pd.DataFrame(rows)


PARTS = ("", "_low", "_high", "_lost")


def _flat(column: str, e: Estimate | None) -> dict[str, float]:
    values = [np.nan] * 4 if e is None else [float(v) for v in (e.mean, e.low, e.high, e.lost)]
    return {f"{column}{part}": value for part, value in zip(PARTS, values, strict=True)}


COLUMNS = {"decades": "decades of δ lost, start", "accuracy": "test accuracy", "r2": "test R²"}


def _measured(cells: pd.DataFrame) -> list[tuple[str, str]]:
    return [(column, title) for column, title in COLUMNS.items() if cells[f"{column}_lost"].notna().any()]


def _heads(cells: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    return [*map(short_key, keys), "gradient flow", *(title for _, title in _measured(cells)), "diverged", "run"]


def _rows(cells: pd.DataFrame, keys: Sequence[str]) -> list[list[str]]:
    """Return the table of cells as text."""
    rows = []
    for cell in cells.to_dict("records"):
        texts = [str(cell[key]) for key in keys] + [str(cell["verdict"])]
        for column, _ in _measured(cells):
            e = Estimate(*(np.array(cell[f"{column}{part}"]) for part in PARTS))
            texts.append(show(e) if np.isfinite(cell[f"{column}_lost"]) else "–")
        share = f"{cell['diverged']:.0%}" if np.isfinite(cell["diverged"]) else "–"
        ended = "" if cell["status"] == "FINISHED" else f" ({str(cell['status']).lower()})"
        rows.append([*texts, share, f"{str(cell['run_id'])[:8]}{ended}"])
    return rows


def _sweep_paragraph(cells: pd.DataFrame, keys: Sequence[str]) -> str:
    """State the swept keys, the number of runs with each verdict, and the diverged runs."""
    counts = cells.loc[cells["verdict"] != "–", "verdict"].value_counts()
    over = f"Swept: {', '.join(keys)}." if keys else "Nothing was swept."
    verdicts = "; ".join(f"{count} {verdict}" for verdict, count in counts.items())
    diverged = int((cells["diverged"] > 0).sum())
    runs = counted(len(cells), "run")
    ended = f"In {diverged} of {runs} replicates diverged." if diverged else "No replicate diverged."
    sentences = [over, *([f"Verdicts: {verdicts}."] if verdicts else []), ended]
    if cells["decades_lost"].notna().any():
        sentences.append(f"Decades of δ lost: {' '.join(DECADES_LOST)}.")
    return " ".join(sentences)


def _profiles(logged: Sequence[LoggedRun], summaries: Sequence[Summary], swept: pd.DataFrame) -> list[RunProfile]:
    cells = [{str(k): str(v) for k, v in row.items()} for row in swept.to_dict("records")]
    return [
        RunProfile(
            run_name(cell, run.name) if cell else run.name,
            cell,
            summary.at("delta_rms", 0),
            summary.at("delta_rms", -1),
            run.theory,
        )
        for run, summary, cell in zip(logged, summaries, cells, strict=True)
    ]
