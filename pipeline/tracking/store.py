"""The one place that knows MLflow.

A :class:`Store` is opened, with its experiment, once before any fan-out; a :class:`RunLogger` is one run in it. Only
finite values are sent; metrics go out in batches. MLflow takes seconds to import, so it is imported when a store is
opened. Every call is retried (:mod:`pipeline.tracking.retry`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pipeline import signals
from pipeline.errors import ConfigError, StoreError
from pipeline.tracking import chart_view
from pipeline.tracking.retry import RetryPolicy, seconds
from pipeline.tracking.run_logger import LEAVING, MonotonicTimestamps, Point
from pipeline.tracking.run_logger import RunLogger as RunLogger
from pipeline.tracking.uri import TrackingConfig as TrackingConfig
from pipeline.tracking.uri import database, redact, sidecar_dir

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

METRIC_BATCH, PARAM_BATCH = 1000, 100  # MLflow's limits for one log_batch call
PAGE = 1000
BUSY_MILLISECONDS = 500  # how long SQLite itself waits for a lock; then we can say so, and hear Ctrl-C
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
def _mlflow() -> Any:
    """MLflow, imported late and kept quiet."""
    os.environ.pop("MLFLOW_RUN_ID", None)  # an exported one would adopt our runs
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # minutes in silence; our own retry takes their place
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    event.listen(Engine, "before_cursor_execute", _impatiently, retval=True)
    return mlflow


def _impatiently(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
    """MLflow's 20 s in which SQLite waits for a lock, deaf to every signal, cut short."""
    if statement.startswith("PRAGMA busy_timeout"):
        statement = f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}"
    return statement, parameters


class Client:
    """An MLflow client that is patient in whatever it is asked; all that is asked of it may be asked twice."""

    def __init__(self, client: MlflowClient, retry: RetryPolicy) -> None:
        self.bare = client
        self.retry = retry

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.bare, name)

        def patient(*arguments: Any, **named: Any) -> Any:
            return self.retry.call(lambda: method(*arguments, **named))

        return patient

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """Values of metrics, all finite. If a part of them is accepted and the rest not, all may be sent again."""
        from mlflow.entities import Metric

        database = _sql_store(self.bare)
        if database is not None:
            self.retry.call(lambda: _insert(database, run_id, points))
            return
        metrics = [Metric(p.key, p.value, p.timestamp, p.step) for p in points]
        for at in range(0, len(metrics), METRIC_BATCH):
            self.retry.call(partial(self.bare.log_batch, run_id, metrics=metrics[at : at + METRIC_BATCH]))

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Parameters."""
        from mlflow.entities import Param

        items = [Param(key, value) for key, value in params.items()]
        for at in range(0, len(items), PARAM_BATCH):
            self.retry.call(partial(self.bare.log_batch, run_id, params=items[at : at + PARAM_BATCH]))

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags."""
        from mlflow.entities import RunTag

        items = [RunTag(key, value) for key, value in tags.items()]
        self.retry.call(lambda: self.bare.log_batch(run_id, tags=items))


def _sql_store(client: MlflowClient) -> Any | None:
    """MLflow's own store behind a client, if it is a database that we reach without a server and can write rows to."""
    store = getattr(getattr(client, "_tracking_client", None), "store", None)
    return store if getattr(store, "db_type", None) in ("sqlite", "postgresql") else None


def _insert(store: Any, run_id: str, points: Sequence[Point]) -> None:
    """What ``log_batch`` does with values of metrics, in three statements instead of two objects a value.

    The rows are the same: a test compares them.
    """
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlRun
    from mlflow.utils.validation import _validate_metric_name
    from sqlalchemy import select, tuple_
    from sqlalchemy.dialects import postgresql, sqlite

    insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[store.db_type]
    newest: dict[str, Point] = {}
    for point in points:
        held = newest.get(point.key)
        if held is None:
            _validate_metric_name(point.key)
        if held is None or _recency(point) > _recency(held):
            newest[point.key] = point
    latest = insert(SqlLatestMetric.__table__)
    there, new = SqlLatestMetric.__table__.c, latest.excluded
    update = latest.on_conflict_do_update(
        index_elements=["key", "run_uuid"],
        set_={name: new[name] for name in ("value", "timestamp", "step", "is_nan")},
        where=tuple_(new.step, new.timestamp, new.value) > tuple_(there.step, there.timestamp, there.value),
    )
    with store.ManagedSessionMaker(read_only=False) as session:
        if session.execute(select(SqlRun.lifecycle_stage).where(SqlRun.run_uuid == run_id)).scalar() != "active":
            store._check_run_is_active(store._get_run(run_uuid=run_id, session=session))  # MLflow says why not
        _execute(session, insert(SqlMetric.__table__).on_conflict_do_nothing(), [_row(p, run_id) for p in points])
        _execute(session, update, [_row(newest[key], run_id) for key in sorted(newest)])


def _execute(session: Any, statement: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """A statement for many rows, compiled once: SQLAlchemy would go through every row's every value."""
    connection = session.connection()
    compiled = statement.compile(dialect=connection.dialect, column_keys=list(rows[0]))
    given = [tuple(row[name] for name in compiled.positiontup) for row in rows] if compiled.positional else list(rows)
    connection.exec_driver_sql(compiled.string, given)


def _recency(point: Point) -> tuple[int, int, float]:
    return point.step, point.timestamp, point.value


def _row(point: Point, run_id: str) -> dict[str, Any]:
    return {**point._asdict(), "run_uuid": run_id, "is_nan": False}


@dataclass
class Store:
    """An MLflow store with one experiment in it.

    Attributes:
        uri: its address, without secrets.
    """

    uri: str
    experiment: str
    experiment_id: str
    client: Client = field(repr=False)
    _place: str = field(repr=False)

    @classmethod
    def open(cls, config: TrackingConfig, wait: bool = False) -> Store:
        """Open the store and its experiment, making both if need be, under a lock.

        Args:
            wait: whether a server that does not answer is waited for; if not, its address is taken to be wrong.

        Raises:
            ConfigError: a server that does not answer, a database that cannot be opened.
        """
        uri = config.resolved_uri()
        shown = redact(uri)
        retry = RetryPolicy(seconds(), f"tracking.uri={shown}")
        _check_reachable(uri, retry, wait)
        _mlflow()
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with _creation_lock(uri):
                _make_database(uri)
                client = Client(retry.call(lambda: MlflowClient(uri)), retry)
                experiment_id = _experiment_id(client, config.experiment, uri)
        except (MlflowException, SQLAlchemyError, OSError, ImportError) as failure:
            first = (str(failure).strip() or type(failure).__name__).splitlines()[0]
            raise ConfigError(f"tracking.uri={shown}: cannot be opened ({redact(first)})") from None
        return cls(shown, config.experiment, experiment_id, client, uri)

    @property
    def is_a_file(self) -> bool:
        """Whether the store is a file, opened without a server."""
        return database(self._place) is not None

    def sidecar_dir(self, kind: str) -> Path:
        """The local folder of what belongs to this store but is not in it: "locks", "checkpoints", "studies"."""
        return sidecar_dir(self._place, kind)

    def start(
        self, name: str, tags: Mapping[str, str], not_before: int | None = None, start_time: int | None = None
    ) -> RunLogger:
        """A new run with this name and these tags; one, however often it has to be asked for.

        Args:
            not_before: the earliest time at which it may be said to have begun, milliseconds since 1970: the order of
                runs must not depend on a clock that was set back.
            start_time: of a run that began elsewhere.

        Raises:
            StoreError: the store refuses, or does not answer.
        """
        attempt, bare = f"mlflow.attempt.{uuid.uuid4().hex}", self.client.bare
        clock = MonotonicTimestamps() if start_time is None else MonotonicTimestamps(start_time)
        clock.start = max(clock.start, not_before or 0)
        given = {k: str(v) for k, v in tags.items()} | {attempt: "1"}

        def create() -> str:
            run = bare.create_run(self.experiment_id, start_time=clock.start, run_name=name, tags=given)
            return str(run.info.run_id)

        def made() -> str | None:
            """A run whose making was answered by half a reply."""
            found = sorted(r.info.run_id for r in self._page(_has(attempt)))
            for double in found[1:]:
                bare.delete_run(double)
            return found[0] if found else None

        with self._closed_if_interrupted(made):
            return RunLogger(self.client, self.client.retry.call(create, made), clock=clock)

    def resume(self, run_id: str) -> RunLogger:
        """Go on with a run: it is RUNNING again; what it has of metrics and parameters is not sent a second time.

        Raises:
            StoreError: the store refuses, or does not answer.
        """
        run = self.client.get_run(run_id)
        with self._closed_if_interrupted(lambda: run_id):
            self.client.update_run(run_id, "RUNNING")
            latest = run.data._metric_objs
            newest = max([run.info.start_time or 0, *(m.timestamp for m in latest)])
            clock = MonotonicTimestamps()
            clock.start = max(clock.start, newest)
            return RunLogger(self.client, run_id, {m.key: m.step for m in latest}, run.data.params, clock)

    @contextlib.contextmanager
    def _closed_if_interrupted(self, begun: Callable[[], str | None]) -> Iterator[None]:
        """An interruption while a run is made leaves none RUNNING of which nobody knows.

        Args:
            begun: the run's id, None if it has not been made.
        """
        try:
            yield
        except Exception:
            raise
        except BaseException:
            signals.acknowledge()
            self.client.retry.set_deadline(LEAVING)
            for _ in range(2):  # a call that was cut short may spoil the next one, not a second
                with contextlib.suppress(Exception):
                    run_id = begun()
                    if run_id is not None:
                        self.end(run_id, "KILLED")
                    break
            raise

    def end(self, run_id: str, status: str, tags: Mapping[str, str] | None = None) -> None:
        """Close a run whose process is gone."""
        if tags:
            self.tag(run_id, tags)
        start = self.client.get_run(run_id).info.start_time or 0
        self.client.set_terminated(run_id, status, end_time=max(start, MonotonicTimestamps().start))

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        self.client.log_tags(run_id, {k: str(v) for k, v in tags.items()})

    def untag(self, run_id: str, key: str) -> None:
        """Take a tag away, if it is there."""
        if key in self.client.get_run(run_id).data.tags:
            with contextlib.suppress(_exceptions()):
                self.client.delete_tag(run_id, key)

    def search(
        self, query: str = "", limit: int | None = None, order: Sequence[str] = ("attributes.start_time ASC",)
    ) -> list[Run]:
        """Runs of the experiment that are not deleted, page by page; by default oldest first, so that new ones that
        come meanwhile do not move the pages.
        """
        found: dict[str, Run] = {}
        token: str | None = None
        while limit is None or len(found) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(found))
            page = self.client.search_runs(
                [self.experiment_id], query, max_results=size, order_by=list(order), page_token=token
            )
            found |= {run.info.run_id: run for run in page}
            token = page.token
            if not token:
                break
        return list(found.values())

    def runs_with(self, key: str) -> list[Run]:
        """Runs that have a tag with this key and the value "1", oldest first: the store's index leads to them.

        MLflow keeps tags by (key, run), so what has to be found among thousands of runs belongs into a key, such as
        ``mlflow.cell.<identity>`` (its pages hide keys that begin so), not into a value.
        """
        return self.search(_has(key))

    def runs_with_each(self, keys: Collection[str]) -> dict[str, list[Run]]:
        """:meth:`runs_with` of each key."""
        return {key: self.runs_with(key) for key in keys}

    def _page(self, query: str) -> list[Run]:
        return list(self.client.bare.search_runs([self.experiment_id], query))

    def find(self, run_id: str) -> Run:
        """A run by its id, or by the beginning of its id (8 characters or more).

        Raises:
            ConfigError: no such run, or several.
        """
        with contextlib.suppress(_exceptions()):
            return self.client.get_run(run_id)
        matches: list[Run] = []
        if len(run_id) >= 8 and run_id.isalnum():
            everywhere = [e.experiment_id for e in self.client.search_experiments()]
            matches = list(self.client.search_runs(everywhere, f"attributes.run_id LIKE '{run_id}%'", max_results=2))
        if len(matches) != 1:
            problem = "several runs begin so" if matches else "no such run"
            raise ConfigError(
                f"RUN={run_id}: {problem} in {self.uri}; allowed: a run id or its first 8 or more characters"
            )
        return matches[0]

    def save_chart_view(self, key: str, state: str) -> str:
        """Save a view of the runs page; return the path that opens it in any browser."""
        self.client.set_experiment_tag(self.experiment_id, f"{chart_view.TAG}{key}", state)
        page = f"/#/experiments/{self.experiment_id}/runs?workflowType=machine_learning"
        return f"{page}&compareRunsMode=CHART&viewStateShareKey={key}"

    def run_link(self, run_id: str, page: str = "") -> str:
        """The path that opens one run's page, or "/artifacts/NAME" of it."""
        return f"/#/experiments/{self.experiment_id}/runs/{run_id}{page}?workflowType=machine_learning"


def _has(key: str) -> str:
    return f"tags.`{key}` = '1'"


def _exceptions() -> type[Exception]:
    from mlflow.exceptions import MlflowException

    found: type[Exception] = MlflowException
    return found


def _check_reachable(uri: str, retry: RetryPolicy, wait: bool) -> None:
    if not uri.startswith("http"):
        return
    import requests

    try:
        if wait:
            retry.call(lambda: requests.get(uri, timeout=5))
        else:
            requests.get(uri, timeout=5)
    except (requests.RequestException, StoreError) as failure:
        shown = redact(uri)
        raise ConfigError(f"tracking.uri={shown}: no server answers there ({type(failure).__name__})") from None


@contextlib.contextmanager
def _creation_lock(uri: str) -> Iterator[None]:
    """One process at a time makes a database; one that is there and may not be written to is only read."""
    path = database(uri)
    if path is None:
        yield
        return
    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:
        if not path.is_file():
            raise
    try:
        yield
    finally:
        lock.release()


def _make_database(uri: str) -> None:
    """A new database is made beside its place and put there whole: a half-made one would be refused for ever."""
    path = database(uri)
    if path is None or path.exists():
        return
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    for left in path.parent.glob(f"{path.name}.*.new*"):  # by a process that was killed: we hold the lock
        left.unlink(missing_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    engine = create_sqlalchemy_engine(f"sqlite:///{beside}")
    try:
        _initialize_tables(engine)
    finally:
        engine.dispose()
    beside.replace(path)


def _experiment_id(client: Client, name: str, uri: str) -> str:
    """The experiment's id; it is made if missing, and another process that made it first is no error."""
    existing = client.get_experiment_by_name(name)
    if existing is None:
        artifacts = None
        location = database(uri)
        if location is not None:
            artifacts = (location.parent / f"{location.stem}-artifacts" / name).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except _exceptions():
            existing = client.get_experiment_by_name(name)
            if existing is None:
                raise
    if existing.lifecycle_stage != "active":
        shown = redact(uri)
        raise ConfigError(f"tracking.experiment={name}: was deleted in {shown}; restore it or choose another name")
    return str(existing.experiment_id)


def download(store: Store, run_id: str, name: str, to: Path) -> Path:
    """A run's artifact as a local file.

    Raises:
        ConfigError: the run has no such artifact.
        OSError: there is no room for it.
    """
    try:
        return Path(store.client.download_artifacts(run_id, name, str(to)))
    except StoreError:
        raise
    except Exception as failure:  # each kind of store raises its own, and MLflow does not always say what it came from
        found = [a.file_size or 0 for a in store.client.list_artifacts(run_id) if a.path == name]
        if found and shutil.disk_usage(to).free < found[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(to)) from failure
        raise ConfigError(f"RUN={run_id}: has no artifact {name} (is it a finished gradvitals run?)") from failure
