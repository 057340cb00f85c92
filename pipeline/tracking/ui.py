"""The MLflow UI of a store, on loopback, with few processes."""

from __future__ import annotations

import os
import sys

from pipeline.errors import ConfigError
from pipeline.tracking.store import TrackingConfig


def serve(uri: str | None, port: int) -> int:
    """Replace this process with ``mlflow server``.

    Raises:
        ConfigError: no store yet, or a port that is no port.
    """
    if not 1 <= port <= 65535:
        raise ConfigError(f"PORT={port}: must be in 1 ... 65535")
    resolved = TrackingConfig(uri, "gradvitals").existing_uri()
    if resolved.startswith("http"):
        raise ConfigError(f"uri={resolved}: is a server already; open it in a browser")
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", resolved]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    print(f"http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    os.execve(sys.executable, command, environment)  # noqa: S606 (the server takes this process's place)
