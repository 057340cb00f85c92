"""The MLflow client: MLflow is imported late, kept quiet, and every call is retried."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError
from pipeline.profiling import PROFILE
from pipeline.tracking.retry import RetryPolicy
from pipeline.tracking.run_logger import LoggedDataset, Point
from pipeline.tracking.store_failure import StoreFailure
from pipeline.tracking.text_limits import NAME_LENGTH, storable, storable_params, storable_tags
from pipeline.tracking.uri import redact

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SOURCE_LENGTH = 65_535  # characters; MLflow's limit for the source of a data set
METRIC_BATCH, NAMED_BATCH = 1000, 100  # MLflow's limits for one log_batch call: of all, of params, of tags
BUSY_MILLISECONDS = 500  # short, so that our retry reports the lock and Ctrl-C is heard
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_TRUNCATE_LONG_VALUES": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "GIT_PYTHON_REFRESH": "quiet",
}


@cache
def load_mlflow() -> None:
    """Import MLflow with our settings. The import takes seconds, so it happens when a store is opened."""
    os.environ.pop("MLFLOW_RUN_ID", None)  # an exported id would adopt our runs
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # RetryPolicy retries; MLflow would be silent for minutes
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    # SQLAlchemy's pool logs a traceback for a cursor that an interruption closed first; the call itself raises.
    for name in ("alembic", "mlflow", "sqlalchemy.pool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    event.listen(Engine, "before_cursor_execute", _shorten_busy_timeout, retval=True)


def _shorten_busy_timeout(
    _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any
) -> tuple[str, Any]:  # MLflow sets 20 s, in which SQLite blocks every signal, and has no setting for it
    if statement.startswith("PRAGMA busy_timeout"):
        statement = f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}"
    return statement, parameters


class Client:
    """An MLflow client that retries every call. All calls made through it must be idempotent.

    Args:
        bare: MLflow's client.
        retry: How long to retry.
    """

    def __init__(self, bare: MlflowClient, retry: RetryPolicy) -> None:
        self.bare = bare
        self.retry = retry

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.bare, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            with PROFILE.activity("files" if "artifact" in name else "store"):
                return self.retry.call(lambda: method(*arguments, **keywords))

        return call

    def log(
        self,
        run_id: str,
        points: Sequence[Point],
        params: Mapping[str, str],
        tags: Mapping[str, str],
        waits: bool = True,
    ) -> None:
        """Log metric values, all finite, parameters and tags, in as few calls as MLflow's limits allow.

        A value sent twice is stored once, so a failed call may be repeated. ``waits`` is that of
        :meth:`pipeline.tracking.retry.RetryPolicy.call`.
        """
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(p.key, p.value, p.timestamp, p.step) for p in points]
        named = (
            [Param(key, value) for key, value in storable_params(params).items()],
            [RunTag(key, value) for key, value in storable_tags(tags).items()],
        )
        while metrics or any(named):
            some_params, some_tags = (items[:NAMED_BATCH] for items in named)
            some_metrics = metrics[: METRIC_BATCH - len(some_params) - len(some_tags)]
            call = partial(self.bare.log_batch, run_id, metrics=some_metrics, params=some_params, tags=some_tags)
            with PROFILE.activity("metrics"):
                self.retry.call(call, waits=waits)
            del metrics[: len(some_metrics)]
            for items in named:
                del items[:NAMED_BATCH]

    def log_files(self, artifact_uri: str, folder: Path) -> None:
        """Log the files of a folder as artifacts of a run.

        MLflow's client would read the run, with all its metrics, to find the place of its artifacts.

        Args:
            artifact_uri: The place of the run's artifacts.
            folder: The folder.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with PROFILE.activity("files"):
            artifacts = get_artifact_repository(artifact_uri, tracking_uri=self.bare.tracking_uri)
            self.retry.call(lambda: artifacts.log_artifacts(str(folder)))

    def log_dataset(self, run_id: str, dataset: LoggedDataset, waits: bool = True) -> None:
        """Log the data of a run. MLflow keeps one data set for all runs with the same name and digest."""
        with PROFILE.activity("store"):
            self.retry.call(lambda: self.bare.log_inputs(run_id, [_entity(dataset)]), waits=waits)


def _entity(dataset: LoggedDataset) -> Any:
    """Return MLflow's entity of a data set."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = dataset.source if len(dataset.source) <= SOURCE_LENGTH else "{}"
    entity = Dataset(storable(dataset.name, NAME_LENGTH), dataset.digest, "config", source, profile=dataset.profile)
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])


def check_reachable(uri: str, retry: RetryPolicy, wait: bool) -> None:
    """Check that a server answers at a URI; a file passes.

    MLflow would retry the first connection to a database for minutes.

    Args:
        uri: The store's URI.
        retry: How long to wait.
        wait: Whether to retry while the server does not answer. Without it the first failure is final.

    Raises:
        ConfigError: No server answers, or the database server refuses the connection.
    """
    if uri.startswith("sqlite"):
        return
    import requests
    from sqlalchemy.exc import SQLAlchemyError

    connect = partial(requests.get, uri, timeout=5) if uri.startswith("http") else partial(_connect, uri)
    try:
        if wait:
            retry.call(connect)
        else:
            connect()
    except requests.RequestException as failure:
        raise ConfigError(f"tracking.uri={redact(uri)}: no server answers there ({type(failure).__name__})") from None
    except (SQLAlchemyError, OSError, ImportError, ValueError) as failure:
        reason = StoreFailure(failure).reason
        raise ConfigError(f"tracking.uri={redact(uri)}: cannot be opened ({reason})") from None


def _connect(uri: str) -> None:
    """Connect to a database server once."""
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.pool import NullPool

    url = make_url(uri)
    if url.host and not url.host.startswith("/"):  # the drivers' own timeouts have different names
        port = url.port or {"postgresql": 5432, "mysql": 3306}[url.get_backend_name()]
        socket.create_connection((url.host, port), timeout=5).close()
    engine = create_engine(url, poolclass=NullPool)
    engine.connect().close()
