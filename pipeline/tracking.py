"""The one place that knows MLflow.

A :class:`Store` is made, with its experiment, once before any fan-out; a :class:`RunLog` is one run in it. Only finite
values are sent; metrics go out in batches. MLflow takes seconds to import, so it is imported when a store is opened.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pipeline import views
from pipeline.errors import ConfigError
from pipeline.provenance import PROJECT

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

STORE = PROJECT / "store"
BATCH = 1000  # MLflow's limit for one log_batch call
PARAM_BATCH = 100


@dataclass(frozen=True)
class TrackingConfig:
    """Where runs are logged.

    Args:
        uri: an MLflow tracking URI; None for the project's own sqlite store.
        experiment: name of the MLflow experiment.
    """

    uri: str | None
    experiment: str

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise ValueError("experiment: must be a name")

    def resolved_uri(self) -> str:
        """The URI with an absolute path, whatever the current directory.

        Raises:
            ConfigError: a scheme MLflow does not speak.
        """
        if self.uri is None:
            return f"sqlite:///{STORE / 'mlflow.db'}"
        scheme, separator, rest = self.uri.partition("://")
        if not separator or scheme.partition("+")[0] not in ("sqlite", "postgresql", "mysql", "http", "https"):
            raise ConfigError(
                f"tracking.uri={self.uri}: must be sqlite:///FILE, http(s)://HOST:PORT or a database URI, or null"
            )
        if scheme == "sqlite":
            path = Path(rest.removeprefix("/")).expanduser().absolute()
            if path.is_dir():
                raise ConfigError(f"tracking.uri={self.uri}: must be sqlite:///FILE, and {path} is a directory")
            return f"sqlite:///{path}"
        return self.uri

    def existing_uri(self) -> str:
        """The same, of a store that is only read.

        Raises:
            ConfigError: no database there.
        """
        uri = self.resolved_uri()
        if uri.startswith("sqlite") and not Path(uri.removeprefix("sqlite:///")).is_file():
            raise ConfigError(f"uri={uri}: no store there yet; `make sweep` or `make run` makes it")
        return uri


def _mlflow() -> Any:
    """MLflow, imported late and kept quiet."""
    os.environ.pop("MLFLOW_RUN_ID", None)  # an exported one would adopt our runs
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_TRUNCATE_LONG_VALUES", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    import mlflow

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


@dataclass
class Store:
    """An MLflow store with one experiment in it."""

    uri: str
    experiment: str
    experiment_id: str
    client: MlflowClient = field(repr=False)

    @classmethod
    def open(cls, config: TrackingConfig) -> Store:
        """Open the store and its experiment, making both if need be, under a lock.

        Raises:
            ConfigError: a server that does not answer, a database that cannot be opened.
        """
        uri = config.resolved_uri()
        _check_reachable(uri)
        _mlflow()
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with _creation_lock(uri):
                client = MlflowClient(uri)
                experiment_id = _experiment_id(client, config.experiment, uri)
        except (MlflowException, SQLAlchemyError, OSError, ImportError) as failure:
            first = (str(failure).strip() or type(failure).__name__).splitlines()[0]
            raise ConfigError(f"tracking.uri={uri}: cannot be opened ({first})") from failure
        return cls(uri, config.experiment, experiment_id, client)

    def start(self, name: str, tags: Mapping[str, str]) -> RunLog:
        """A new run with this name and these tags."""
        run = self.client.create_run(self.experiment_id, run_name=name, tags={k: str(v) for k, v in tags.items()})
        return RunLog(self.client, run.info.run_id)

    def find(self, run_id: str) -> Run:
        """A run by its id, or by the beginning of its id (8 characters or more).

        Raises:
            ConfigError: no such run, or several.
        """
        from mlflow.exceptions import MlflowException

        with contextlib.suppress(MlflowException):
            return self.client.get_run(run_id)
        matches = []
        if len(run_id) >= 8:
            experiments = [e.experiment_id for e in self.client.search_experiments()]
            found = self.client.search_runs(experiments, max_results=50_000)
            matches = [r for r in found if r.info.run_id.startswith(run_id)]
        if len(matches) != 1:
            problem = "several runs begin so" if matches else "no such run"
            raise ConfigError(
                f"RUN={run_id}: {problem} in {self.uri}; allowed: a run id or its first 8 or more characters"
            )
        return matches[0]

    def share_view(self, key: str, state: str) -> str:
        """Keep a view of the runs page (see :mod:`pipeline.views`); returns the path that opens it in any browser."""
        self.client.set_experiment_tag(self.experiment_id, f"{views.TAG}{key}", state)
        page = f"/#/experiments/{self.experiment_id}/runs?workflowType=machine_learning"
        return f"{page}&compareRunsMode=CHART&viewStateShareKey={key}"

    def run_link(self, run_id: str, page: str = "") -> str:
        """The path that opens one run's page, or "/artifacts/NAME" of it."""
        return f"/#/experiments/{self.experiment_id}/runs/{run_id}{page}?workflowType=machine_learning"


def _check_reachable(uri: str) -> None:
    if not uri.startswith("http"):
        return
    import requests

    try:
        requests.get(uri, timeout=5)
    except requests.RequestException as failure:
        raise ConfigError(f"tracking.uri={uri}: no server answers there ({type(failure).__name__})") from failure


@contextlib.contextmanager
def _creation_lock(uri: str) -> Iterator[None]:
    if not uri.startswith("sqlite"):
        yield
        return
    path = Path(uri.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        yield


def _experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """The experiment's id; it is made if missing, and another process that made it first is no error."""
    from mlflow.exceptions import MlflowException

    existing = client.get_experiment_by_name(name)
    if existing is None:
        artifacts = None
        if uri.startswith("sqlite"):
            database = Path(uri.removeprefix("sqlite:///"))
            artifacts = (database.parent / f"{database.stem}-artifacts" / name).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:
            existing = client.get_experiment_by_name(name)
            if existing is None:
                raise
    if existing.lifecycle_stage != "active":
        raise ConfigError(f"tracking.experiment={name}: was deleted in {uri}; restore it or choose another name")
    return str(existing.experiment_id)


@dataclass
class RunLog:
    """One MLflow run: metrics are buffered, everything else is sent at once."""

    client: MlflowClient
    run_id: str
    _buffer: list[Metric] = field(default_factory=list, repr=False)

    def metric(self, key: str, value: float, step: int = 0) -> bool:
        """Queue one value; a non-finite one is refused (False): MLflow would store another number in its place."""
        if not math.isfinite(value):
            return False
        from mlflow.entities import Metric

        self._buffer.append(Metric(key, value, int(time.time() * 1000), step))
        if len(self._buffer) >= BATCH:
            self.flush()
        return True

    def flush(self) -> None:
        """Send what is queued. The queue is emptied only by what has been accepted."""
        while self._buffer:
            self.client.log_batch(self.run_id, metrics=self._buffer[:BATCH])
            del self._buffer[:BATCH]

    def params(self, params: Mapping[str, Any]) -> None:
        """Flat scalar parameters."""
        from mlflow.entities import Param

        items = [Param(key, str(value)) for key, value in params.items()]
        for start in range(0, len(items), PARAM_BATCH):
            self.client.log_batch(self.run_id, params=items[start : start + PARAM_BATCH])

    def tags(self, tags: Mapping[str, str]) -> None:
        """Tags; the description is ``mlflow.note.content``, Markdown."""
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def text(self, text: str, name: str) -> None:
        """A text artifact."""
        self.client.log_text(self.run_id, text, name)

    def figure(self, figure: Figure, name: str) -> None:
        """A matplotlib figure as an image artifact."""
        self.client.log_figure(self.run_id, figure, name)

    def file(self, path: Path) -> None:
        """A file as an artifact at the top of the run's folder."""
        self.client.log_artifact(self.run_id, str(path))

    def end(self, status: str) -> None:
        """Flush and close: FINISHED, FAILED or KILLED."""
        self.flush()
        self.client.set_terminated(self.run_id, status)


def download(store: Store, run_id: str, name: str, to: Path) -> Path:
    """A run's artifact as a local file.

    Raises:
        ConfigError: the run has no such artifact.
    """
    try:
        return Path(store.client.download_artifacts(run_id, name, str(to)))
    except Exception as failure:  # each kind of store raises its own
        raise ConfigError(f"RUN={run_id}: has no artifact {name} (is it a finished gradvitals run?)") from failure
