"""The runs of a store as a table: parameters, scores, decades and verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from pipeline.errors import ConfigError, did_you_mean
from pipeline.tracking.logged_run import format_time
from pipeline.tracking.store import Store
from pipeline.tracking.tags import in_sweep, sweeps_of, verdict_of

PAGE = 1000  # runs of one call
FINAL = "final_"  # how the metrics of final costs and scores begin
DECADES = {"decades": "verdict_decades", "decades_low": "verdict_decades_low", "decades_high": "verdict_decades_high"}


def run_table(store: Store, sweep_id: str | None, wanted: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row for each run that matches, oldest first.

    Args:
        store: The store; all its experiments are searched.
        sweep_id: The sweep that a run must belong to; None for any.
        wanted: The value that each of these parameters must have. Numbers are compared as numbers.

    Returns:
        Run id, name, status, start time, sweeps, verdict, decades with their interval, final costs and scores, and all
        parameters.

    Raises:
        ConfigError: No run of the store or of the sweep has a parameter of a wanted name.
    """
    runs = [run for run in _runs(store, sweep_id) if sweep_id is None or sweep_id in sweeps_of(run.data.tags)]
    known = {name for run in runs for name in run.data.params}
    for name in wanted:
        if runs and name not in known:
            raise ConfigError(f"{name}: no run has such a parameter{did_you_mean(name, known)}")
    matching = [run for run in runs if all(_equals(run.data.params.get(k), v) for k, v in wanted.items())]
    table = pd.DataFrame([_row(run) for run in matching])
    parameters = pd.DataFrame([run.data.params for run in matching]).apply(_as_numbers)
    return pd.concat([table, parameters], axis=1)


def _runs(store: Store, sweep_id: str | None) -> Iterator[Any]:
    """Yield the runs of all experiments, or those that may belong to a sweep, oldest first."""
    everywhere = [e.experiment_id for e in store.client.search_experiments()]
    query = "tags.kind = 'run'" + ("" if sweep_id is None else f" and {in_sweep(sweep_id)}")
    token: str | None = None
    while True:
        page = store.client.search_runs(
            everywhere, query, order_by=["attributes.start_time ASC"], max_results=PAGE, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _row(run: Any) -> dict[str, Any]:
    tags, metrics = run.data.tags, run.data.metrics
    row = {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "started": format_time(run.info.start_time),
        "sweep": tags.get("sweep", ""),
        "verdict": verdict_of(tags),
    }
    row |= {column: metrics.get(metric) for column, metric in DECADES.items()}
    return row | {name.removeprefix(FINAL): value for name, value in metrics.items() if name.startswith(FINAL)}


def _equals(logged: str | None, wanted: Any) -> bool:
    if logged is None:
        return False
    try:
        return float(logged) == float(wanted)
    except (TypeError, ValueError):
        return logged.lower() == str(wanted).lower()  # True is true


def _as_numbers(column: pd.Series) -> pd.Series:
    """Return a column of texts as numbers, if all of them are."""
    try:
        return pd.to_numeric(column)
    except (TypeError, ValueError):
        return column
