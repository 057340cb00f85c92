"""A tracking server that several machines share: its database, its artifacts, its secret and its users.

The secret and the users are in a folder that only its owner can read (:func:`pipeline.tracking.uri.sidecar_dir`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import secrets
import socket
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pipeline.errors import ConfigError, StoreError
from pipeline.paths import store_folder
from pipeline.tracking.client import check_reachable, load_mlflow
from pipeline.tracking.database import check_database, check_tables, create_database, creation_lock
from pipeline.tracking.mlflow_server import LOCAL_NAMES, ServerProcess, check_address, is_loopback
from pipeline.tracking.retry import RetryPolicy
from pipeline.tracking.store_failure import StoreFailure
from pipeline.tracking.uri import PROXIED, TrackingConfig, engine_uri, redact, sidecar_dir, writable_folder

DATABASE_VARIABLE, PASSWORD_VARIABLE = "MLFLOW_BACKEND_STORE_URI", "MLFLOW_AUTH_ADMIN_PASSWORD"
SECRET_FILE, USERS_FILE, AUTH_FILE = "secret_key", "users.db", "basic_auth.ini"
ADMIN, SHORTEST_PASSWORD = "admin", 12  # MLflow's own limit
OLD_DEFAULT = "password1234"
HOST_NAME = re.compile(r"[\w*][\w.*-]*(:\d{1,5})?", re.ASCII)
AUTHENTICATION = """[mlflow]
admin_username = {admin}
database_uri = {users}
default_permission = EDIT
"""


@dataclass(frozen=True)
class TrackingServer:
    """A tracking server that is ready to start.

    Attributes:
        process: The server.
        password: The password of the user ``admin`` if it was made now: it is shown once and stored nowhere.
    """

    process: ServerProcess
    password: str | None = None

    def lines(self) -> list[str]:
        """Return lines that say where the data is and how clients connect."""
        process = self.process
        lines = [f"database {redact(process.uri)}, artifacts {process.artifacts}"]
        if self.password is not None:
            lines.append(f"user {ADMIN}, password {self.password} (shown this once)")
        client = f"MLFLOW_TRACKING_URI={process.url}"
        if process.has_users:
            client += " MLFLOW_TRACKING_USERNAME=... MLFLOW_TRACKING_PASSWORD=..."
        elif not is_loopback(process.host):
            lines.append(f"no authentication: everyone who reaches port {process.port} can read and change all runs")
        return [*lines, f"clients: {client}", f"pages: {process.url} (Ctrl-C ends it)"]

    def serve(self) -> NoReturn:
        """Replace this process with the server."""
        self.process.serve()


def prepare_tracking_server(
    uri: str | None,
    host: str,
    port: int,
    auth: bool | None = None,
    allowed_hosts: str = "",
    folder: Path | None = None,
) -> TrackingServer:
    """Check all settings, and create the database, the secret and the file of users where they are missing.

    Args:
        uri: The database; None for that of MLFLOW_BACKEND_STORE_URI, or else a SQLite file in the project's store.
        host: The address to listen at.
        port: The port.
        auth: Whether each request needs a user and a password; None: no on loopback, and no answer elsewhere.
        allowed_hosts: More names by which clients reach this machine, separated by commas.
        folder: The folder for artifacts, secret and users; None for folders next to a SQLite file, or else in the
            project's store.

    Returns:
        The server.

    Raises:
        ConfigError: A wrong setting, or a database that cannot be opened or holds runs with local artifacts.
    """
    check_address(host, port)
    is_local = is_loopback(host)
    if auth is None and not is_local:
        raise ConfigError(
            f"--host={host}: the network could read and change all runs; add --auth (or --no-auth to allow that)"
        )
    names = _host_names(host, is_local, allowed_hosts)
    given = _given_password() if auth else None
    resolved = _database_uri(uri)
    check_database(resolved)
    check_reachable(resolved, RetryPolicy(0.0, resolved), wait=False)
    if folder is not None:
        writable_folder(folder.expanduser(), f"--folder={folder}")
    _prepare_database(resolved)
    artifacts, private = (_folder(resolved, kind, folder) for kind in ("artifacts", "secrets"))
    try:
        private.chmod(0o700)
        settings = {"MLFLOW_FLASK_SERVER_SECRET_KEY": _secret_key(private)}
        if not auth:
            return TrackingServer(ServerProcess(resolved, artifacts, port, host, names, settings))
        settings["MLFLOW_AUTH_CONFIG_PATH"] = str(_auth_file(private))
    except OSError as refused:
        raise StoreError(f"{private}: {refused.strerror}") from refused
    generated = None
    if not _has_admin(private / USERS_FILE):
        generated = secrets.token_urlsafe(16) if given is None else None
        settings[PASSWORD_VARIABLE] = given or str(generated)
    return TrackingServer(ServerProcess(resolved, artifacts, port, host, names, settings, True), generated)


def _host_names(host: str, is_local: bool, allowed_hosts: str) -> tuple[str, ...]:
    """Return the names by which clients reach this machine, besides localhost."""
    given = [name.strip() for name in allowed_hosts.split(",") if name.strip()]
    for name in given:
        if not HOST_NAME.fullmatch(name) or not name.strip("*."):
            raise ConfigError(f"--allowed-hosts={name}: must be names such as login1, *.cluster.org or 10.0.0.7:8080")
    if not is_local:
        own = [platform.node(), socket.getfqdn(), *([] if host == "0.0.0.0" else [host])]  # noqa: S104
        given = [*given, *(name for name in own if HOST_NAME.fullmatch(name))]
    return tuple(name for name in dict.fromkeys(given) if name not in LOCAL_NAMES)


def _database_uri(uri: str | None) -> str:
    """Return the database's resolved URI."""
    given = uri or os.environ.get(DATABASE_VARIABLE) or f"sqlite:///{store_folder() / 'server.db'}"
    resolved = TrackingConfig(given, None).resolved_uri()
    if resolved.startswith("http"):
        raise ConfigError(f"uri={redact(resolved)}: is a server already; allowed: a database, or sqlite:///FILE")
    return resolved


def _folder(uri: str, kind: str, folder: Path | None) -> Path:
    """Return the folder for one kind of the server's files. Create it if missing."""
    if folder is None:
        return sidecar_dir(uri, kind)
    return writable_folder(folder.expanduser().absolute() / kind, f"--folder={folder}")


def _prepare_database(uri: str) -> None:
    """Create the database's tables if they are missing, and refuse one whose artifacts do not pass through a server.

    Raises:
        ConfigError: The database cannot be opened, or an experiment has local artifacts.
    """
    load_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with creation_lock(uri):
            create_database(uri, PROXIED)
            check_tables(uri)
            store = SqlAlchemyStore(engine_uri(uri), PROXIED)
            experiments = store.search_experiments()
            store.engine.dispose()
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as failure:
        raise ConfigError(f"uri={redact(uri)}: cannot be opened ({StoreFailure(failure).reason})") from failure
    local = [e.name for e in experiments if re.match("/|file:", e.artifact_location)]
    if local:
        raise ConfigError(
            f"uri={redact(uri)}: the artifacts of experiment {local[0]} are files of this machine; allowed: a new "
            "database (export and import copy runs)"
        )


def _secret_key(folder: Path) -> str:
    """Return the server's secret; make it at the first start.

    Raises:
        ConfigError: Others can read the file.
    """
    path = folder / SECRET_FILE
    if not path.exists():
        _write(path, secrets.token_hex(32))
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path}: others can read it; allowed: mode 600 (delete the file to make a new secret)")
    return path.read_text(encoding="ascii")


def _auth_file(folder: Path) -> Path:
    """Write MLflow's settings of authentication; they hold the users' database and no password."""
    path = folder / AUTH_FILE
    users = engine_uri(f"sqlite:///{folder / USERS_FILE}", "rwc").replace("%", "%%")  # % is special in such a file
    _write(path, AUTHENTICATION.format(admin=ADMIN, users=users))
    return path


def _write(path: Path, text: str) -> None:
    """Write a file with mode 0600, as a whole."""
    descriptor, new = tempfile.mkstemp(dir=path.parent)  # has mode 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    Path(new).replace(path)


def _has_admin(users: Path) -> bool:
    """Return whether the users' database has a user; MLflow reads no password then."""
    if not users.exists():
        return False
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(users)) as database:
        return bool(database.execute("SELECT count(*) FROM users").fetchone()[0])
    return False


def _given_password() -> str | None:
    """Return the admin's password of the environment, None if there is none.

    Raises:
        ConfigError: MLflow refuses the password, or lacks a package for authentication.
    """
    if importlib.util.find_spec("flask_wtf") is None:
        raise ConfigError("--auth: needs the package Flask-WTF (pip install 'gradvitals[server]')")
    password = os.environ.get(PASSWORD_VARIABLE)
    if password and (len(password) < SHORTEST_PASSWORD or password == OLD_DEFAULT):
        raise ConfigError(
            f"{PASSWORD_VARIABLE}: must have {SHORTEST_PASSWORD} or more characters and not be MLflow's old default"
        )
    return password or None
