"""Serve the MLflow UI of a store on loopback, with few processes."""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
from typing import NoReturn

from pipeline.errors import ConfigError
from pipeline.tracking.client import check_reachable
from pipeline.tracking.database import check_database
from pipeline.tracking.relocation import relocate_artifacts
from pipeline.tracking.retry import RetryPolicy
from pipeline.tracking.uri import TrackingConfig, engine_uri

HOST = "127.0.0.1"


def server_command(uri: str | None, port: int) -> list[str]:
    """Return the command that serves a store.

    Args:
        uri: The store's address, None for the project's own store.
        port: The port on loopback.

    Returns:
        The command.

    Raises:
        ConfigError: There is no store, the store is a server already, or the port is out of range or not free.
    """
    if not 1 <= port <= 65535:
        raise ConfigError(f"PORT={port}: must be in 1 ... 65535")
    _check_port(port)
    resolved = TrackingConfig(uri, "gradvitals").existing_uri()
    if resolved.startswith("http"):
        raise ConfigError(f"uri={resolved}: is a server already; open it in a browser")
    check_database(resolved)
    check_reachable(resolved, RetryPolicy(0.0, resolved), wait=False)
    try:
        relocate_artifacts(resolved)
    except sqlite3.Error as failure:
        raise ConfigError(f"uri={resolved}: cannot be opened ({failure})") from failure
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", engine_uri(resolved)]
    return [*command, "--host", HOST, "--port", str(port), "--workers", "1"]


def _check_port(port: int) -> None:
    """Check that a server can listen on the port.

    Raises:
        ConfigError: Another program listens on it, or the system does not allow it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind((HOST, port))
        except OSError as refused:
            raise ConfigError(f"PORT={port}: cannot be used ({refused.strerror}); give another: PORT=...") from refused


def serve(command: list[str]) -> NoReturn:
    """Replace this process with a server (:func:`server_command`)."""
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    os.execve(command[0], command, environment)  # noqa: S606 (the server replaces this process)
