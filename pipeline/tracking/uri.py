"""The address of the store, and the same address without secrets for everything that is shown or logged."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.errors import ConfigError, StoreError, did_you_mean
from pipeline.paths import store_folder
from pipeline.wording import command

SCHEMES = ("sqlite", "postgresql", "mysql", "http", "https")
URI_VARIABLE, EXPERIMENT_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
SECRET = "***"  # noqa: S105 (shown in place of a secret)
REFUSALS = {errno.EROFS: "the store is read-only", errno.ENOSPC: "the disk is full", errno.EACCES: "permission denied"}
SUMMARY, ALL, AUTO = "summary", "all", "auto"
PROXIED = "mlflow-artifacts:/"  # the place of artifacts that pass through a server
MOST_FIGURES = 32  # cells of a sweep whose runs have a figure by default
MetricChoice = str | tuple[str, ...]  # "summary", "all", or names of probes
_USER_INFO = re.compile(r"(?<=://)([^\s/@:]*):([^\s/]*)@")
_QUERY = re.compile(r"([?&](?:password|passwd|pwd|token)=)[^\s&]+", re.IGNORECASE)


@dataclass(frozen=True)
class TrackingConfig:
    """Where and how completely runs are logged.

    Older configs lack the keys that have defaults here.

    Args:
        uri: An MLflow tracking URI; None for that of MLFLOW_TRACKING_URI, or else for the SQLite store of
            :func:`pipeline.paths.store_folder`.
        experiment: Name of the MLflow experiment; None for that of MLFLOW_EXPERIMENT_NAME, or else "gradvitals".
        metrics: The series to log: "summary", "all", or names of probes whose every layer is logged as well.
        figures: Whether each run logs its figure; "auto" for runs of sweeps of at most ``MOST_FIGURES`` cells.
        parameters: Whether each run logs its final parameters.
    """

    uri: str | None
    experiment: str | None
    metrics: Any = SUMMARY  # a text or a list; checked here, so that the message names both
    figures: Any = AUTO
    parameters: bool = True

    def __post_init__(self) -> None:
        if self.experiment is not None and not self.experiment.strip():
            raise ValueError("experiment: must be a name")
        names = self.metrics if isinstance(self.metrics, tuple) else ()
        if self.metrics != names and self.metrics not in (SUMMARY, ALL):
            hint = did_you_mean(str(self.metrics), (SUMMARY, ALL, "a list of probes such as [dead_fraction]"))
            raise ValueError(f"metrics={_show(self.metrics)}: not an option{hint}")
        for name in names:
            if not isinstance(name, str):
                raise ValueError(f"metrics=[{_show(name)}]: must be names of probes")
        if not isinstance(self.figures, bool) and self.figures != AUTO:
            hint = did_you_mean(str(self.figures), (AUTO, "true", "false"))
            raise ValueError(f"figures={_show(self.figures)}: not an option{hint}")

    def draws_figures(self, cells: int) -> bool:
        """Return whether the runs of a command log their figures.

        Args:
            cells: The number of runs.
        """
        return cells <= MOST_FIGURES if self.figures == AUTO else bool(self.figures)

    @property
    def experiment_name(self) -> str:
        """The name of the MLflow experiment."""
        return self.experiment or os.environ.get(EXPERIMENT_VARIABLE) or "gradvitals"

    @property
    def environment_lines(self) -> list[str]:
        """One line that says what comes from MLflow's environment variables; empty if nothing does."""
        parts = []
        if self.uri is None and os.environ.get(URI_VARIABLE):
            parts.append(f"store {redact(self.resolved_uri())} from {URI_VARIABLE}")
        if self.experiment is None and os.environ.get(EXPERIMENT_VARIABLE):
            parts.append(f"experiment {self.experiment_name} from {EXPERIMENT_VARIABLE}")
        return [", ".join(parts)] if parts else []

    def resolved_uri(self) -> str:
        """Return the URI with an absolute path, whatever the current directory.

        Raises:
            ConfigError: MLflow does not know the scheme, or the file cannot be a database.
        """
        uri = os.environ.get(URI_VARIABLE) or None if self.uri is None else self.uri
        if uri is None:
            return f"sqlite:///{store_folder() / 'mlflow.db'}"
        scheme, separator, rest = uri.partition("://")
        dialect = scheme.partition("+")[0]
        if not separator or dialect not in SCHEMES:
            nothing = "not be set" if self.uri is None else "null"
            raise self._error(f"must be sqlite:///FILE, http(s)://HOST:PORT or a database URI, or {nothing}")
        if dialect != "sqlite":
            return uri
        name = rest.removeprefix("/")
        if name == ":memory:" or "?" in name.rpartition("/")[2] or "\0" in name:
            raise self._error("must be sqlite:///FILE, a file that stays, without options")
        try:
            path = Path(name).expanduser().absolute()
            is_folder = path.is_dir()
        except RuntimeError as failure:
            raise self._error(f"{str(failure).rstrip('.').lower()}") from failure
        except OSError as failure:
            raise self._error(REFUSALS.get(failure.errno or 0) or str(failure.strerror)) from failure
        if is_folder:
            raise self._error(f"must be sqlite:///FILE, and {path} is a directory")
        return f"sqlite:///{path}"

    def absolute(self) -> TrackingConfig:
        """Return this config with the address and the experiment that it means in this process."""
        return replace(self, uri=self.resolved_uri(), experiment=self.experiment_name)

    def _error(self, problem: str) -> ConfigError:
        given = f"{URI_VARIABLE}={os.environ.get(URI_VARIABLE)}" if self.uri is None else f"tracking.uri={self.uri}"
        return ConfigError(f"{redact(given)}: {problem}")

    def existing_uri(self) -> str:
        """Return the resolved URI of a store that must exist.

        Raises:
            ConfigError: There is no database.
        """
        uri = self.resolved_uri()
        path = database_path(uri)
        if path is not None and not path.exists() and not path.is_symlink():
            raise ConfigError(f"uri={uri}: no store there yet; `{command('sweep')}` or `{command('run')}` makes it")
        return uri


def _show(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def database_path(uri: str) -> Path | None:
    """Return the file of an SQLite store, None for any other store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite") else None


def engine_uri(uri: str, mode: str = "rw") -> str:
    """Return an address as SQLAlchemy reads it: the same file whatever its path contains.

    SQLAlchemy decodes ``%41`` in a path, and SQLite decodes it once more in a ``file:`` address.

    Args:
        uri: The store's resolved URI.
        mode: "rw" opens a file that exists. "rwc" also creates it.

    Returns:
        The address for SQLAlchemy and MLflow; the URI itself for a server.
    """
    path = database_path(uri)
    return uri if path is None else f"sqlite+pysqlite:///file:{quote(quote(str(path)))}?mode={mode}&uri=true"


def artifact_root(path: Path) -> Path:
    """Return the folder of the artifacts of a SQLite store: next to the file, also if the path is a link to it."""
    path = path.resolve()
    return path.parent / f"{path.stem}-artifacts"


def sidecar_path(uri: str, kind: str) -> Path:
    """Return the local folder for one kind of a store's data that is not in its database.

    Args:
        uri: The store's resolved URI.
        kind: "locks", "checkpoints", "studies"; of a server's database "artifacts" or "secrets".
    """
    path = database_path(uri)
    if path is not None:
        path = path.resolve()  # the same folder for every link to the file
        return path.parent / f"{path.stem}-{kind}"
    return store_folder() / "servers" / hashlib.sha256(without_user(uri).encode()).hexdigest()[:16] / kind


def sidecar_dir(uri: str, kind: str) -> Path:
    """Return the folder of :func:`sidecar_path`. Create it if missing.

    Raises:
        StoreError: The folder is not writable.
    """
    return writable_folder(sidecar_path(uri, kind), f"tracking.uri={redact(uri)}")


def writable_folder(folder: Path, key: str) -> Path:
    """Return a folder. Create it if missing.

    Args:
        folder: The folder.
        key: What the user gave, for the message.

    Raises:
        StoreError: The folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise OSError(errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES, "")
    except OSError as refusal:
        raise StoreError(f"{key}: {REFUSALS.get(refusal.errno or 0, refusal)}") from refusal
    return folder


def redact(text: str) -> str:
    """Return a text with the passwords of all addresses in it replaced."""
    return _QUERY.sub(rf"\g<1>{SECRET}", _USER_INFO.sub(rf"\g<1>:{SECRET}@", text))


def without_user(uri: str) -> str:
    """Return an address without its user, so that it is the same for every user."""
    return re.sub(r"(?<=://)[^/]*@", "", redact(uri)).rstrip("/")


def redacted_config(raw_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved config without the store's password, as it may be logged."""
    tracking = raw_config.get("tracking")
    if not isinstance(tracking, Mapping) or not isinstance(tracking.get("uri"), str):
        return dict(raw_config)
    return {**raw_config, "tracking": {**tracking, "uri": redact(tracking["uri"])}}
