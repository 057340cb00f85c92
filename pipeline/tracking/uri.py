"""Where runs are logged: the store's address, without its secrets wherever anybody may read it."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, StoreError
from pipeline.paths import STORE

SCHEMES = ("sqlite", "postgresql", "mysql", "http", "https")
SECRET = "***"  # noqa: S105 (what stands in a secret's place)
REFUSALS = {errno.EROFS: "the store is read-only", errno.ENOSPC: "the disk is full", errno.EACCES: "permission denied"}
_USER_INFO = re.compile(r"(?<=://)([^\s/@:]*):([^\s/]*)@")
_QUERY = re.compile(r"([?&](?:password|passwd|pwd|token)=)[^\s&]+", re.IGNORECASE)


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
            ConfigError: a scheme MLflow does not speak, a file that cannot be a database.
        """
        if self.uri is None:
            return f"sqlite:///{STORE / 'mlflow.db'}"
        scheme, separator, rest = self.uri.partition("://")
        dialect = scheme.partition("+")[0]
        if not separator or dialect not in SCHEMES:
            raise self._wrong("must be sqlite:///FILE, http(s)://HOST:PORT or a database URI, or null")
        if dialect != "sqlite":
            return self.uri
        name = rest.removeprefix("/")
        if name == ":memory:" or "?" in name:
            raise self._wrong("must be sqlite:///FILE, a file that stays, without options")
        try:
            path = Path(name).expanduser().absolute()
        except RuntimeError as unknown:
            raise self._wrong(f"{str(unknown).rstrip('.').lower()}") from unknown
        if path.is_dir():
            raise self._wrong(f"must be sqlite:///FILE, and {path} is a directory")
        return f"sqlite:///{path}"

    def _wrong(self, problem: str) -> ConfigError:
        return ConfigError(f"tracking.uri={redact(str(self.uri))}: {problem}")

    def existing_uri(self) -> str:
        """The same, of a store that is only read.

        Raises:
            ConfigError: no database there.
        """
        uri = self.resolved_uri()
        path = database(uri)
        if path is not None and not path.is_file():
            raise ConfigError(f"uri={uri}: no store there yet; `make sweep` or `make run` makes it")
        return uri


def database(uri: str) -> Path | None:
    """The file of an sqlite store; None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite") else None


def sidecar_dir(uri: str, kind: str) -> Path:
    """The local folder of what belongs to a store but is not in it: locks, checkpoints, studies. Made if missing.

    Raises:
        StoreError: nothing can be written there.
    """
    path = database(uri)
    if path is not None:
        path = path.resolve()  # whichever way led there
        folder = path.parent / f"{path.stem}-{kind}"
    else:
        folder = STORE / "servers" / hashlib.sha256(without_user(uri).encode()).hexdigest()[:16] / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise OSError(errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES, "")
    except OSError as refused:
        raise StoreError(f"tracking.uri={redact(uri)}: {REFUSALS.get(refused.errno or 0, refused)}") from refused
    return folder


def redact(text: str) -> str:
    """Text in which no address tells its password."""
    return _QUERY.sub(rf"\g<1>{SECRET}", _USER_INFO.sub(rf"\g<1>:{SECRET}@", text))


def without_user(uri: str) -> str:
    """An address without who asks: for links, and the same for whoever asks."""
    return re.sub(r"(?<=://)[^/]*@", "", redact(uri)).rstrip("/")


def redacted_config(node: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config as it may be logged."""
    tracking = node.get("tracking")
    if not isinstance(tracking, Mapping) or not isinstance(tracking.get("uri"), str):
        return dict(node)
    return {**node, "tracking": {**tracking, "uri": redact(tracking["uri"])}}
