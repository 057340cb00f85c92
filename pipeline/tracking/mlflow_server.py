"""Start ``mlflow server`` with few processes, and with everything closed that a store of runs does not need.

MLflow's Flask application serves runs, artifacts and pages. Its default application adds an assistant that runs
commands on this machine for any local client, a gateway to language models, and an interface for jobs.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from pipeline.errors import ConfigError
from pipeline.tracking.uri import engine_uri

LOOPBACK, LOCAL_NAMES = "127.0.0.1", ("localhost", "127.0.0.1")
GUNICORN = "--threads 8 --timeout 120 --keep-alive 60 --no-control-socket --log-level warning"  # Flask application
SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PYTHONWARNINGS": "ignore",  # MLflow recommends its default application, and imports deprecated modules
}


@dataclass(frozen=True)
class ServerProcess:
    """An ``mlflow server`` that is ready to start.

    Attributes:
        uri: The store's resolved URI.
        artifacts: The folder of the artifacts that pass through the server.
        port: The port.
        host: The address to listen at.
        names: Names of this machine by which clients reach it, besides localhost; ``*`` stands for any characters.
        settings: Environment variables of the server, secrets among them.
        has_users: Whether each request needs a user and a password.
    """

    uri: str = field(repr=False)
    artifacts: Path
    port: int
    host: str = LOOPBACK
    names: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    has_users: bool = False

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"http://{self.names[0] if self.names else LOOPBACK}:{self.port}"

    def command(self) -> list[str]:
        """Return the command. The store's URI, which may have a password, is not part of it: ``ps`` shows commands."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", self.host, "--port", str(self.port)]
        command += ["--workers", "1", "--gunicorn-opts", GUNICORN]
        command += ["--artifacts-destination", self.artifacts.as_uri()]
        return [*command, "--app-name", "basic-auth"] if self.has_users else command

    def environment(self) -> dict[str, str]:
        """Return the environment. Variables of the caller that configure MLflow or its web server have no effect."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.lstrip("_").startswith("MLFLOW_") and name != "GUNICORN_CMD_ARGS"
        }
        hosts = [form for name in (*LOCAL_NAMES, *self.names) for form in _host_headers(name)]
        origins = [form for name in self.names for form in _origins(name, self.port)]
        own = {
            "MLFLOW_BACKEND_STORE_URI": engine_uri(self.uri),
            "MLFLOW_REGISTRY_STORE_URI": engine_uri(self.uri),
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),  # as options, these two need the default application
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
        }
        return inherited | SETTINGS | dict(self.settings) | own

    def serve(self) -> NoReturn:
        """Replace this process with the server."""
        command = self.command()
        os.execve(command[0], command, self.environment())  # noqa: S606 (the server replaces this process)


def _host_headers(name: str) -> list[str]:
    """Return the forms of a name in the header Host: alone, and with any port (of a tunnel)."""
    return [name] if ":" in name else [name, f"{name}:*"]


def _origins(name: str, port: int) -> list[str]:
    """Return the addresses of MLflow's own pages at a name: those served directly, and those behind a TLS proxy."""
    return [f"http://{name if ':' in name else f'{name}:{port}'}", f"https://{name}"]


def check_address(host: str, port: int) -> None:
    """Check that a server can listen at an address.

    Raises:
        ConfigError: The port is out of range or used by another program, or the host is no address of this machine.
    """
    if not 1 <= port <= 65535:
        raise ConfigError(f"port {port}: must be in 1 ... 65535")
    address = host_address(host)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind((address, port))
        except OSError as refused:
            if host == LOOPBACK:
                problem = f"port {port}: cannot be used ({refused.strerror}); give another"
            else:
                problem = f"--host={host} --port={port}: cannot be used ({refused.strerror})"
            raise ConfigError(problem) from refused


def host_address(host: str) -> str:
    """Return the IPv4 address of a host.

    Raises:
        ConfigError: The name has no IPv4 address.
    """
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError) as refused:
        problem = "must be an IPv4 address or a name of this machine, such as 0.0.0.0"
        raise ConfigError(f"--host={host}: {problem}") from refused


def is_loopback(host: str) -> bool:
    """Return whether only programs on this machine reach a server at a host."""
    return ipaddress.ip_address(host_address(host)).is_loopback
