"""The report of a sweep: its cells as a table, as maps over the swept keys, and as profiles, one over the other."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.estimates import Estimate
from pipeline.analysis.summary import Summary, show
from pipeline.errors import ConfigError, did_you_mean
from pipeline.reports import html
from pipeline.reports.figures import profiles
from pipeline.reports.figures.sweep import Profiled, over_keys, overlaid
from pipeline.tracking.logged_run import HEADLINE_PROBES, LoggedRun
from pipeline.tracking.run_names import run_name, short_key
from pipeline.tracking.store import Store, download
from pipeline.tracking.tags import in_sweep, sweeps_of

MOST_ROWS = 2000


def report_sweep(store: Store, sweep_id: str) -> str:
    """The page about a sweep.

    Raises:
        ConfigError: no such sweep, records of a run that are not readable.
    """
    summary, runs = find_sweep(store, sweep_id)
    logged = [LoggedRun.from_store(store, run, HEADLINE_PROBES) for run in runs]
    title = str(summary.info.run_name) if summary else f"sweep {sweep_id}"
    return page_of_sweep(sweep_id, title, logged, swept_values(store, summary, logged))


def page_of_sweep(sweep_id: str, title: str, logged: Sequence[LoggedRun], swept: pd.DataFrame) -> str:
    """The page about these runs, wherever they were read from.

    Args:
        swept: the values of the swept keys, one row a run.
    """
    summaries = [one.summary() for one in logged]
    cells = cell_table(logged, summaries, swept)
    keys = [str(key) for key in swept.columns]
    drawn = over_keys(cells, keys)
    overlay = overlaid(_profiled(logged, summaries, swept))
    failed = sum(one.status == "FAILED" for one in logged)
    first = logged[0]
    return html.render(
        title=title,
        kind="sweep",
        facts=[sweep_id, f"{len(logged)} runs", *([f"{failed} failed"] if failed else []), first.start_time],
        verdict="",
        paragraph=_sweep_paragraph(cells, keys),
        tiles=[],
        notes=[f"{one.name}: {note}" for one in logged for note in (*html.foreign(one.tags), *one.notes)],
        heads=_heads(cells, keys),
        rows=_rows(cells, keys)[:MOST_ROWS],
        cells=len(cells),
        pictures=html.shown([*drawn, *([overlay] if overlay else [])]),
        command="make reproduce RUN=<run id>",
        origin=html.origin(_common([one.tags for one in logged])),
        config=html.config_text(first.config),
    )


def find_sweep(store: Store, sweep_id: str) -> tuple[Any, list[Any]]:
    """The summary run of a sweep, None if it has none (yet), and its runs in the order in which they began."""
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
    known = [s.data.tags.get("sweep_summary", "") for s in summaries]
    raise ConfigError(f"SWEEP={sweep_id}: no such sweep in {store.uri}{did_you_mean(sweep_id, known)}")


def swept_values(store: Store, summary: Any, logged: Sequence[LoggedRun]) -> pd.DataFrame:
    """The swept keys of a sweep and each run's values, as text, one row a run.

    They are in the summary's ``sweep.csv`` as they were given. Of a sweep without a summary, and of runs that are not
    in it, parameters speak; of a group of several parts (``init=he_normal``) those parts that differ.
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
    """The same from the summary's parameter "swept", None without a summary, and the text of its ``sweep.csv``."""
    keys = [key for key in (named or "").split(", ") if key]
    varying = [k for k in dict.fromkeys(k for one in logged for k in one.params) if k != "layer_sizes"]
    varying = [k for k in varying if len({one.params.get(k) for one in logged}) > 1]
    keys = keys or ([] if named is not None else varying)
    given = _given(csv, keys)
    rows = [{key: given.get((one.run_id, key)) or _parameter(one, key, varying) for key in keys} for one in logged]
    return pd.DataFrame(rows, index=[one.run_id for one in logged], columns=keys)


def _given(csv: str, keys: Sequence[str]) -> dict[tuple[str, str], str]:
    """(run id, swept key) -> value, as the sweep's table has it; empty if it has none that can be read."""
    try:
        table = pd.read_csv(io.StringIO(csv), dtype=str, keep_default_na=False).set_index("run_id")
    except (ValueError, KeyError):
        return {}
    return {(str(i), key): str(v) for key in keys if key in table for i, v in table[key].items()}


def _parameter(one: LoggedRun, key: str, varying: Sequence[str]) -> str:
    place = key.lstrip("+").partition("@")[2] or key.lstrip("+")
    if place in one.params:
        return one.params[place]
    return " ".join(one.params[k] for k in varying if k.startswith(f"{place}.") and k in one.params) or "–"


def _common(tags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Tags that all runs have in common."""
    return {k: v for k, v in tags[0].items() if all(other.get(k) == v for other in tags)}


def cell_table(logged: Sequence[LoggedRun], summaries: Sequence[Summary], swept: pd.DataFrame) -> pd.DataFrame:
    """Tidy, one row a run: swept values, how it ended, and the numbers to compare with their intervals."""
    rows = []
    for (_, values), one, summary in zip(swept.iterrows(), logged, summaries, strict=True):
        row: dict[str, Any] = {str(k): str(v) for k, v in values.items()}
        row |= {"run_id": one.run_id, "status": one.status, "verdict": one.tags.get("verdict", "–")}
        row["diverged"] = one.metrics.get("diverged_fraction", np.nan)
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
    found = [np.nan] * 4 if e is None else [float(v) for v in (e.mean, e.low, e.high, e.lost)]
    return {f"{column}{part}": value for part, value in zip(PARTS, found, strict=True)}


COLUMNS = (
    ("decades", "decades of δ lost, start"),
    ("accuracy", "test accuracy"),
    ("r2", "test R²"),
)


def _measured(cells: pd.DataFrame) -> list[tuple[str, str]]:
    return [(column, title) for column, title in COLUMNS if cells[f"{column}_lost"].notna().any()]


def _heads(cells: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    return [*map(short_key, keys), "verdict", *(title for _, title in _measured(cells)), "diverged", "run"]


def _rows(cells: pd.DataFrame, keys: Sequence[str]) -> list[list[str]]:
    """The table of cells, as text."""
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
    """How many runs got which verdict, and over what."""
    counts = cells.loc[cells["verdict"] != "–", "verdict"].value_counts()
    over = f"Swept: {', '.join(keys)}." if keys else "Nothing was swept."
    told = "; ".join(f"{count} {verdict}" for verdict, count in counts.items())
    diverged = int((cells["diverged"] > 0).sum())
    ended = f"In {diverged} of {len(cells)} runs replicates diverged." if diverged else "No replicate diverged."
    return " ".join([over, *([f"Verdicts: {told}."] if told else []), ended])


def _profiled(logged: Sequence[LoggedRun], summaries: Sequence[Summary], swept: pd.DataFrame) -> list[Profiled]:
    values = [{str(k): str(v) for k, v in row.items()} for row in swept.to_dict("records")]
    colours = profiles.run_colours(values)
    return [
        Profiled(
            run_name(cell, one.name) if cell else one.name,
            colour,
            next(iter(cell.values()), one.name),
            (summary.at("delta_rms", 0), summary.at("delta_rms", -1)),
            one.theory,
        )
        for one, summary, cell, colour in zip(logged, summaries, values, colours, strict=True)
    ]
