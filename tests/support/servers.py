"""Stores to do harm to: an ``mlflow server``, our own PostgreSQL, a proxy that cuts replies, small file systems."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from support.configs import require

HOST = "127.0.0.1"
START = 90.0  # seconds in which a server has to be there, on a busy machine


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def until(condition: Callable[[], bool], what: str, seconds: float = START) -> None:
    """Wait for a condition; fails when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.05)


def answers(port: int, path: str = "/health") -> bool:
    """Whether an HTTP server answers there with 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass
class Server:
    """An ``mlflow server`` with one worker, which can be killed and started again.

    Args:
        backend: its database's URI.
        folder: where its artifacts and its log go.
    """

    backend: str
    folder: Path
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.backend, "--host", HOST]
        command += ["--port", str(self.port), "--workers", "1", "--artifacts-destination", str(self.folder / "files")]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True
            )
        until(lambda: answers(self.port), f"the server (see {self.folder}/server.log)")

    def kill(self) -> None:
        """End it and its worker at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def postgres_binaries() -> Path | None:
    """The folder of initdb and postgres: on the PATH, or where Debian puts it."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((p for p in places if (p / "initdb").exists() and (p / "postgres").exists()), None)


@dataclass
class Postgres:
    """Our own PostgreSQL cluster on loopback; it refuses to run as root, so root lends it the user ``postgres``."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="gradvitals-postgres-")))
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its address, for SQLAlchemy."""
        return f"postgresql+psycopg://gradvitals@{HOST}:{self.port}/postgres"

    def _command(self, *arguments: str) -> list[str]:
        binaries = postgres_binaries()
        assert binaries is not None
        lend = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        return [*lend, str(binaries / arguments[0]), *arguments[1:]]

    def create(self) -> None:
        """Make the cluster."""
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        options = ["-U", "gradvitals", "--auth=trust", "--no-sync", "-E", "UTF8", "--no-locale"]
        subprocess.run(
            self._command("initdb", "-D", str(self.folder / "data"), *options),
            check=True,
            capture_output=True,
            cwd=self.folder,
        )

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        import psycopg

        command = self._command("postgres", "-D", str(self.folder / "data"), "-h", HOST, "-p", str(self.port))
        command += ["-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "shared_buffers=16MB"]
        self._process = subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

        def there() -> bool:
            try:
                psycopg.connect(self.uri.replace("+psycopg", ""), connect_timeout=2).close()
            except psycopg.OperationalError:
                return False
            return True

        until(there, "PostgreSQL")

    def kill(self) -> None:
        """Immediate shutdown: connections are cut, the log is replayed at the next start."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGQUIT)
            self._process.wait(timeout=30)
            self._process = None

    def remove(self) -> None:
        """End it, and remove its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class CuttingProxy:
    """An HTTP proxy on loopback that cuts chosen replies in the middle, after the server has done the work.

    Args:
        port: of the server behind it.

    Attributes:
        cuts: for a part of a path, how many of the next replies to it are to be cut.
    """

    def __init__(self, port: int) -> None:
        self.cuts: dict[str, int] = {}
        self.with_length = True
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                behind = http.client.HTTPConnection(HOST, port, timeout=60)
                try:
                    behind.request(self.command, self.path, body, dict(self.headers))
                    answer = behind.getresponse()
                    content = answer.read()
                except (OSError, http.client.HTTPException):
                    self.close_connection = True  # as if it were not there either
                    return
                finally:
                    behind.close()
                part = next((p for p, left in proxy.cuts.items() if left > 0 and p in self.path), None)
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.getheader("Content-Type", "application/json"))
                if part is None or proxy.with_length:
                    self.send_header("Content-Length", str(len(content)))
                if part is not None:
                    proxy.cuts[part] -= 1
                    content = content[: max(1, len(content) // 2)]
                    self.send_header("Connection", "close")
                    self.close_connection = True
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://{HOST}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


LOCKER = """
import sqlite3, sys, time
with sqlite3.connect(sys.argv[1], isolation_level=None) as database:
    database.execute("BEGIN EXCLUSIVE")
    print("locked", flush=True)
    time.sleep(float(sys.argv[2]))
    database.execute("ROLLBACK")
"""


@contextmanager
def locked(database: Path, seconds: float, patiently: bool = True) -> Iterator[None]:
    """Another process locks an sqlite database for so long, from now on; or until we are done, if not patiently."""
    command = [sys.executable, "-S", "-c", LOCKER, str(database), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            if not patiently:
                process.kill()
            process.wait(timeout=seconds + 30)


@contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[Callable[[str], None]]:
    """A file system of its own in memory at a folder; yields what mounts it anew with options ("ro", "size=64m")."""
    folder.mkdir(parents=True, exist_ok=True)

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    kilobytes = int(megabytes * 1024)
    require(os.geteuid() == 0 and mount(f"size={kilobytes}k"), "mounting a tmpfs needs root and leave to mount")
    try:
        yield lambda options: require(mount(f"remount,{options}"), "cannot mount anew")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
