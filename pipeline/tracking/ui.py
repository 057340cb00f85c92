"""Serve the MLflow UI of a store on loopback, with few processes."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from pipeline.errors import ConfigError
from pipeline.tracking import chart_view
from pipeline.tracking.client import check_reachable, load_mlflow
from pipeline.tracking.database import check_database
from pipeline.tracking.mlflow_server import LOOPBACK, ServerProcess, check_address
from pipeline.tracking.relocation import relocate_artifacts
from pipeline.tracking.retry import RetryPolicy
from pipeline.tracking.store_failure import StoreFailure
from pipeline.tracking.uri import TrackingConfig, engine_uri, redact, sidecar_path


@dataclass(frozen=True)
class Server:
    """A server of MLflow's pages that is ready to start.

    Attributes:
        tracking: The store.
        process: The server.
    """

    tracking: TrackingConfig
    process: ServerProcess

    def lines(self) -> list[str]:
        """Return lines with the address of the newest sweep's charts, if there is a sweep, and of the start page."""
        base = self.process.url
        charts = newest_charts(self.process.uri)
        links = [] if charts is None else [f"charts of the newest sweep, {charts.sweep_id}:", f"{base}{charts.path}"]
        return [*self.tracking.environment_lines, *links, f"all runs: {base} (Ctrl-C ends it)"]

    def serve(self) -> NoReturn:
        """Replace this process with the server."""
        self.process.serve()


def prepare_server(uri: str | None, port: int) -> Server:
    """Check a store and a port.

    Args:
        uri: The store's address, None for the project's own store.
        port: The port on loopback.

    Returns:
        The server of the store.

    Raises:
        ConfigError: There is no store, the store is a server already, or the port is out of range or not free.
    """
    check_address(LOOPBACK, port)
    tracking = TrackingConfig(uri, None)
    resolved = tracking.existing_uri()
    if resolved.startswith("http"):
        raise ConfigError(f"uri={resolved}: is a server already; open it in a browser")
    check_database(resolved)
    check_reachable(resolved, RetryPolicy(0.0, resolved), wait=False)
    try:
        relocate_artifacts(resolved)
    except sqlite3.Error as failure:
        raise ConfigError(f"uri={resolved}: cannot be opened ({failure})") from failure
    return Server(tracking, ServerProcess(resolved, sidecar_path(resolved, "artifacts"), port))


class Charts(NamedTuple):
    """A sweep with a shared view of its charts, and the path that opens the view."""

    sweep_id: str
    path: str


def newest_charts(uri: str) -> Charts | None:
    """Return the charts of the sweep that ended last in a store; None if no sweep has a shared view.

    Args:
        uri: The store's resolved address.
    """
    load_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(engine_uri(uri))
        experiments = {e.experiment_id: e for e in client.search_experiments()}
        newest = ["attributes.end_time DESC"]
        for run in client.search_runs(list(experiments), "tags.kind = 'sweep'", order_by=newest, max_results=10):
            sweep_id, experiment = run.data.tags["sweep_summary"], experiments[run.info.experiment_id]
            if f"{chart_view.TAG}{sweep_id}" in experiment.tags:
                return Charts(sweep_id, chart_view.path_of(experiment.experiment_id, sweep_id))
    except MlflowException as failure:
        raise ConfigError(f"uri={redact(uri)}: cannot be opened ({StoreFailure(failure).reason})") from failure
    return None
