"""The MLflow store: runs are created, resumed, searched and closed here.

A :class:`Store` is opened, with its experiment, once before a sweep fans out. A :class:`RunLogger` is one run in it.
Every call is retried (:mod:`pipeline.tracking.retry`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pipeline import signals
from pipeline.errors import ConfigError, DeletedError, StoreError
from pipeline.profiling import IMPORTS, PROFILE
from pipeline.tracking import chart_view
from pipeline.tracking.client import Client, check_reachable, load_mlflow
from pipeline.tracking.database import check_database, check_tables, create_database, creation_lock
from pipeline.tracking.relocation import relocate_artifacts
from pipeline.tracking.retry import RetryPolicy, seconds
from pipeline.tracking.run_logger import LEAVING, MonotonicTimestamps, wall_clock
from pipeline.tracking.run_logger import RunLogger as RunLogger
from pipeline.tracking.store_failure import StoreFailure
from pipeline.tracking.text_limits import storable_name, storable_tags
from pipeline.tracking.uri import PROXIED, artifact_root, database_path, engine_uri, redact, sidecar_dir
from pipeline.tracking.uri import TrackingConfig as TrackingConfig

if TYPE_CHECKING:
    from mlflow.entities import Run

NOTE = "mlflow.note.content"  # the tag that MLflow shows as the description
DESCRIPTION = """Runs of gradvitals: the gradients of deep networks, measured layer by layer.

- The tag `verdict` says how the gradients of a run flow, `decades` how much is lost between the hidden layers.
- `tags.kind = 'sweep'` finds the summaries of sweeps, `tags.verdict LIKE '%vanishing%'` runs with a verdict.
- `make reproduce RUN=<run id>` trains a run again and compares every record.
"""


@dataclass
class Store:
    """An MLflow store, opened at one experiment.

    Attributes:
        uri: The store's address, without secrets.
        page_size: How many runs one search call returns.
    """

    uri: str
    experiment: str
    experiment_id: str
    client: Client = field(repr=False)
    _resolved_uri: str = field(repr=False)
    page_size: int = field(default=1000, repr=False)

    @classmethod
    def open(cls, config: TrackingConfig, wait: bool = False) -> Store:
        """Open the store and its experiment; create what is missing, under a lock.

        Args:
            config: Where runs are logged.
            wait: Whether to retry while a server does not answer. Without it a silent server is a wrong address.

        Returns:
            The open store.

        Raises:
            ConfigError: No server answers, or the database cannot be opened.
        """
        uri = config.resolved_uri()
        shown = redact(uri)
        retry = RetryPolicy(seconds(), f"tracking.uri={shown}")
        check_database(uri)
        check_reachable(uri, retry, wait)
        with PROFILE.activity(IMPORTS):
            load_mlflow()
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with PROFILE.activity("store"), creation_lock(uri):
                create_database(uri)
                retry.call(lambda: check_tables(uri))
                retry.call(lambda: relocate_artifacts(uri))
                client = Client(retry.call(lambda: MlflowClient(engine_uri(uri))), retry)
                experiment_id = _experiment_id(client, config.experiment_name, uri)
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as failure:
            first_line = (str(failure).strip() or type(failure).__name__).splitlines()[0]
            raise ConfigError(f"tracking.uri={shown}: cannot be opened ({redact(first_line)})") from None
        return cls(shown, config.experiment_name, experiment_id, client, uri)

    @property
    def is_file(self) -> bool:
        """Whether the store is a file, opened without a server."""
        return database_path(self._resolved_uri) is not None

    def sidecar_dir(self, kind: str) -> Path:
        """Return the local folder for one kind of data outside the store: "locks", "checkpoints" or "studies"."""
        return sidecar_dir(self._resolved_uri, kind)

    def start(
        self, name: str, tags: Mapping[str, str], not_before: int | None = None, start_time: int | None = None
    ) -> RunLogger:
        """Create a run. A creation whose reply was lost is detected by a unique tag, so there is one run.

        Args:
            name: The run's name.
            tags: The run's tags.
            not_before: Earliest start time, in milliseconds since 1970: the order of runs must survive a clock that
                was set back.
            start_time: Start time of a run that was recorded elsewhere; the current time by default.

        Returns:
            The logger of the new run.

        Raises:
            StoreError: The store refuses, or does not answer.
        """
        attempt, bare = f"mlflow.attempt.{uuid.uuid4().hex}", self.client.bare
        clock = MonotonicTimestamps(max(wall_clock() if start_time is None else start_time, not_before or 0))
        all_tags = storable_tags(tags) | {attempt: "1"}

        def create() -> Run:
            return bare.create_run(
                self.experiment_id, start_time=clock.start, run_name=storable_name(name), tags=all_tags
            )

        def find_created() -> Run | None:
            runs = bare.search_runs([self.experiment_id], _has_tag(attempt))
            first, *duplicates = sorted(runs, key=lambda run: run.info.run_id) or [None]
            for duplicate in duplicates:
                bare.delete_run(duplicate.info.run_id)
            return first

        def find_run_id() -> str | None:
            run = find_created()
            return None if run is None else str(run.info.run_id)

        with self._close_if_interrupted(find_run_id):
            info = self.client.retry.call(create, find_created).info
            logger = RunLogger(self.client, str(info.run_id), str(info.artifact_uri), clock=clock)
            logger.keep_whole(tags)
            return logger

    def resume(self, run_id: str) -> RunLogger:
        """Set a run to RUNNING again. Metrics and parameters already stored are not sent again.

        Args:
            run_id: The run's id.

        Returns:
            The logger of the run.

        Raises:
            StoreError: The store refuses, or does not answer.
        """
        run = self.client.get_run(run_id)
        with self._close_if_interrupted(lambda: run_id):
            self.client.update_run(run_id, "RUNNING")
            latest = run.data.to_proto().metrics  # with steps and times; run.data.metrics has values only
            stored_steps = {metric.key: int(metric.step) for metric in latest}
            clock = MonotonicTimestamps(
                max(wall_clock(), run.info.start_time or 0, *(int(metric.timestamp) for metric in latest))
            )
            return RunLogger(self.client, run_id, str(run.info.artifact_uri), stored_steps, run.data.params, clock)

    @contextlib.contextmanager
    def _close_if_interrupted(self, find_run_id: Callable[[], str | None]) -> Iterator[None]:
        """Close the run as KILLED if its creation is interrupted.

        Args:
            find_run_id: Returns the run's id, None if the run does not exist.
        """
        try:
            yield
        except Exception:
            raise
        except BaseException:
            signals.acknowledge()
            self.client.retry.set_deadline(LEAVING)
            for _ in range(2):  # a call that was cut short can make the next call fail, not a second one
                with contextlib.suppress(Exception):
                    run_id = find_run_id()
                    if run_id is not None:
                        self.end(run_id, "KILLED")
                    break
            raise

    def end(self, run_id: str, status: str, tags: Mapping[str, str] | None = None) -> None:
        """Close a run whose process has ended.

        Args:
            run_id: The run's id.
            status: FINISHED, FAILED or KILLED.
            tags: Tags to set first.
        """
        if tags:
            self.tag(run_id, tags)
        start = self.client.get_run(run_id).info.start_time or 0
        self.client.set_terminated(run_id, status, end_time=max(start, wall_clock()))

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        self.client.log(run_id, (), {}, {k: str(v) for k, v in tags.items()})

    def untag(self, run_id: str, key: str) -> None:
        """Remove a tag of a run, if the run has it."""
        from mlflow.exceptions import MlflowException

        if key in self.client.get_run(run_id).data.tags:
            with contextlib.suppress(MlflowException):
                self.client.delete_tag(run_id, key)

    def search(
        self, query: str = "", limit: int | None = None, order: Sequence[str] = ("attributes.start_time ASC",)
    ) -> list[Run]:
        """Return the runs of the experiment that pass a filter, deleted ones excepted.

        Args:
            query: An MLflow search filter.
            limit: The most runs to return; None for all.
            order: MLflow's order clauses. The default, oldest first, keeps pages stable while new runs arrive.

        Returns:
            The runs.
        """
        runs: dict[str, Run] = {}
        token: str | None = None
        while limit is None or len(runs) < limit:
            size = self.page_size if limit is None else min(self.page_size, limit - len(runs))
            page = self.client.search_runs(
                [self.experiment_id], query, max_results=size, order_by=list(order), page_token=token
            )
            runs |= {run.info.run_id: run for run in page}
            token = page.token
            if not token:
                break
        return list(runs.values())

    def runs_with(self, key: str) -> list[Run]:
        """Return the runs that have a tag with this key and the value "1", oldest first.

        MLflow indexes tags by (key, run). A run that must be found among thousands therefore has its name in a tag's
        key, such as ``mlflow.cell.<fingerprint>``, not in a value. MLflow's pages hide keys that start with "mlflow.".
        """
        return self.search(_has_tag(key))

    def find(self, run_id: str) -> Run:
        """Return a run.

        Args:
            run_id: The run's id, or its first 8 or more characters.

        Returns:
            The run.

        Raises:
            ConfigError: No such run, or several.
        """
        from mlflow.exceptions import MlflowException

        with contextlib.suppress(MlflowException, DeletedError):
            return self.client.get_run(run_id)
        runs: list[Run] = []
        if len(run_id) >= 8 and run_id.isalnum():
            experiments = [e.experiment_id for e in self.client.search_experiments()]
            runs = list(self.client.search_runs(experiments, f"attributes.run_id LIKE '{run_id}%'", max_results=2))
        if len(runs) != 1:
            problem = "several runs begin so" if runs else "no such run"
            raise ConfigError(
                f"run {run_id}: {problem} in {self.uri}; allowed: a run id or its first 8 or more characters"
            )
        return runs[0]

    def save_chart_view(self, key: str, state: str) -> str:
        """Save a view of the runs page.

        Args:
            key: The view's key.
            state: The page's state (:func:`pipeline.tracking.chart_view.sweep_view`).

        Returns:
            The path that opens the view in any browser.
        """
        self.client.set_experiment_tag(self.experiment_id, f"{chart_view.TAG}{key}", state)
        return chart_view.path_of(self.experiment_id, key)

    def run_link(self, run_id: str, page: str = "") -> str:
        """Return the path that opens a run's page, or its artifact if ``page`` is "/artifacts/NAME"."""
        return f"/#/experiments/{self.experiment_id}/runs/{run_id}{page}?workflowType=machine_learning"


def _has_tag(key: str) -> str:
    return f"tags.`{key}` = '1'"


def _experiment_id(client: Client, name: str, uri: str) -> str:
    """Return the experiment's id; create the experiment unless another process has."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        path = database_path(uri)
        artifacts = None if path is None else (artifact_root(path) / _folder_name(name)).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=artifacts, tags={NOTE: DESCRIPTION}))
        except MlflowException:
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    shown = redact(uri)
    if experiment.artifact_location.startswith(PROXIED) and not uri.startswith("http"):
        raise ConfigError(f"tracking.uri={shown}: is the database of a tracking server; allowed: the server's address")
    if experiment.lifecycle_stage != "active":
        raise DeletedError(f"tracking.experiment={name}: was deleted in {shown}; restore it or choose another name")
    return str(experiment.experiment_id)


def _folder_name(experiment: str) -> str:
    """Return the name of an experiment's folder: its own name, or an encoded one if that would leave the store."""
    is_path = "/" in experiment or "\0" in experiment or experiment in (".", "..")
    return quote(experiment, safe="").replace(".", "%2E") if is_path else experiment


def download(store: Store, run_id: str, name: str, to: Path) -> Path:
    """Download one artifact of a run.

    Args:
        store: The run's store.
        run_id: The run's id.
        name: The artifact's name.
        to: Folder for the file.

    Returns:
        The local file.

    Raises:
        ConfigError: The run has no such artifact.
        StoreError: The store has the artifact, and cannot read it or does not answer.
        OSError: The disk is full.
    """
    from mlflow.exceptions import MlflowException

    sizes = [a.file_size for a in store.client.list_artifacts(run_id) if a.path == name]

    def read() -> Path:
        try:
            path = Path(store.client.bare.download_artifacts(run_id, name, str(to)))
        except MlflowException as failure:  # it hides the cause
            if sizes and not store.is_file and shutil.disk_usage(to).free > (sizes[0] or 0):
                raise ConnectionResetError(f"{name} was not sent whole") from failure
            raise
        if sizes and sizes[0] not in (None, path.stat().st_size):  # the reply had no length that MLflow could check
            raise ConnectionResetError(f"{name} was not sent whole")
        return path

    try:
        with PROFILE.activity("files"):
            return store.client.retry.call(read)
    except StoreError:
        raise
    except Exception as failure:  # each kind of store raises its own, and MLflow hides some causes
        if sizes and shutil.disk_usage(to).free < (sizes[0] or 0):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(to)) from failure
        if sizes and sizes[0] is not None:  # it is there, but the store does not give it
            raise StoreError(f"{store.uri}: {name} of run {run_id}: {StoreFailure(failure).reason}") from failure
        raise ConfigError(f"run {run_id}: has no artifact {name} (is it a finished gradvitals run?)") from failure
