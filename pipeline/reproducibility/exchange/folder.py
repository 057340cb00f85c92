"""The tables and texts of one exported run, written and read back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.reproducibility.exchange.facts import RunFacts
from pipeline.reproducibility.exchange.manifest import METRICS_FILE
from pipeline.tracking.logged_run import FolderFiles, LoggedRun, format_time
from pipeline.tracking.run_logger import Point
from pipeline.tracking.safe_reading import read_table

METRIC_COLUMNS = ("key", "step", "timestamp", "value")


def write_metrics(points: Sequence[Point], path: Path) -> None:
    """The history of all metrics: one way to write it, whatever the store's order."""
    ordered = sorted(points, key=lambda p: (p.key, p.step, p.timestamp, p.value))
    columns = {
        "key": pa.array([p.key for p in ordered], pa.string()),
        "step": pa.array([p.step for p in ordered], pa.int64()),
        "timestamp": pa.array([p.timestamp for p in ordered], pa.int64()),
        "value": pa.array([p.value for p in ordered], pa.float64()),
    }
    pq.write_table(pa.table(columns), str(path))


def metrics_table(folder: Path) -> pd.DataFrame:
    """What :func:`write_metrics` wrote.

    Raises:
        ConfigError: something else.
    """
    return read_table(folder / METRICS_FILE, METRIC_COLUMNS)


def read_run(folder: Path, facts: RunFacts, probes: Collection[str] | None = None) -> LoggedRun:
    """An exported run, as :meth:`pipeline.tracking.logged_run.LoggedRun.from_store` has it from a store.

    Raises:
        ConfigError: metrics that are not readable.
    """
    metrics = metrics_table(folder).sort_values(["step", "timestamp", "value"], kind="stable")
    latest = metrics.groupby("key", sort=True)["value"].last()
    return LoggedRun(
        facts.run_id,
        facts.name,
        facts.status,
        format_time(facts.start),
        facts.tags,
        facts.params,
        {str(key): float(value) for key, value in latest.items()},
        FolderFiles(folder),
        probes,
        folder,
    )
