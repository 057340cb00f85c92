"""Write and read the tables and texts of one exported run."""

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
    """Write the history of all metrics, sorted, so that the file does not depend on the store's order."""
    ordered = sorted(points, key=lambda p: (p.key, p.step, p.timestamp, p.value))
    columns = {
        "key": pa.array([p.key for p in ordered], pa.string()),
        "step": pa.array([p.step for p in ordered], pa.int64()),
        "timestamp": pa.array([p.timestamp for p in ordered], pa.int64()),
        "value": pa.array([p.value for p in ordered], pa.float64()),
    }
    pq.write_table(pa.table(columns), str(path))


def read_metrics(folder: Path) -> pd.DataFrame:
    """Read the table that :func:`write_metrics` writes.

    Raises:
        ConfigError: The file does not hold such a table.
    """
    return read_table(folder / METRICS_FILE, METRIC_COLUMNS)


def read_run(folder: Path, facts: RunFacts, probes: Collection[str] | None = None) -> LoggedRun:
    """Read an exported run, as :meth:`pipeline.tracking.logged_run.LoggedRun.from_store` reads one from a store.

    Args:
        folder: The run's folder.
        facts: The run's facts.
        probes: Probes whose records to read; None reads all.

    Raises:
        ConfigError: The metrics are not readable.
    """
    metrics = read_metrics(folder).sort_values(["step", "timestamp", "value"], kind="stable")
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
