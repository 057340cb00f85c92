"""Serve the MLflow UI of a store on loopback, with few processes."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from pipeline.errors import ConfigError
from pipeline.tracking.uri import TrackingConfig


def server_command(uri: str | None, port: int) -> list[str]:
    """Return the command that serves a store.

    Args:
        uri: The store's address, None for the project's own store.
        port: The port on loopback.

    Returns:
        The command.

    Raises:
        ConfigError: There is no store, the store is a server already, or the port is out of range.
    """
    if not 1 <= port <= 65535:
        raise ConfigError(f"PORT={port}: must be in 1 ... 65535")
    resolved = TrackingConfig(uri, "gradvitals").existing_uri()
    if resolved.startswith("http"):
        raise ConfigError(f"uri={resolved}: is a server already; open it in a browser")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", resolved]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]


def serve(command: list[str]) -> NoReturn:
    """Replace this process with a server (:func:`server_command`)."""
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    os.execve(command[0], command, environment)  # noqa: S606 (the server replaces this process)
