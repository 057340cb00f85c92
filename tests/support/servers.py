"""Stores to break: an ``mlflow server``, our own PostgreSQL, a proxy that cuts replies, small file systems."""

from __future__ import annotations

import contextlib
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

from pipeline.paths import PROJECT
from support.configs import require

HOST = "127.0.0.1"
START = 300.0  # seconds for a server to start, on a busy machine


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], bool], what: str, seconds: float = START) -> None:
    """Wait for a condition, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not after {seconds} s"
        time.sleep(0.05)


def answers(port: int, path: str = "/health") -> bool:
    """Return whether an HTTP server answers with 200."""
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
    """A tracking server, as ``gradvitals server`` starts it, which can be killed and restarted.

    Args:
        backend: URI of its database.
        folder: Folder for its files and its log.
        port: Its port.
        options: Further options of the command.
        environment: Further environment variables.
    """

    backend: str
    folder: Path
    port: int = field(default_factory=free_port)
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The server's address."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        command = [sys.executable, "-m", "pipeline", "server", "--uri", self.backend, "--port", str(self.port)]
        command += ["--folder", str(self.folder / "server")]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self.options],
                cwd=PROJECT,
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(lambda: answers(self.port), f"the server (see {self.folder}/server.log)")

    def kill(self) -> None:
        """Kill the server and its worker."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End the server as Ctrl-C does, and wait for its first process."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=60)

    def _files(self, name: str) -> list[str]:
        """Return one file of /proc for each process of the server."""
        assert self._process is not None
        texts = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # the process has ended
                group = (folder / "stat").read_text().rpartition(")")[2].split()[2]
                if int(group) == self._process.pid:
                    texts.append((folder / name).read_text().replace("\0", " "))
        return texts

    def processes(self) -> list[str]:
        """Return the command lines of the server's processes."""
        return self._files("cmdline")

    def environments(self) -> list[str]:
        """Return the environments of the server's processes."""
        return self._files("environ")


def postgres_binaries() -> Path | None:
    """Return the folder of initdb and postgres: on the PATH, or where Debian installs it."""
    initdb = shutil.which("initdb")
    folders = [Path(initdb).resolve().parent] if initdb else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


@dataclass
class Postgres:
    """Our own PostgreSQL cluster on loopback. It refuses to run as root, so root runs it as the user ``postgres``."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="gradvitals-postgres-")))
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The database's address, for SQLAlchemy."""
        return f"postgresql+psycopg://gradvitals@{HOST}:{self.port}/postgres"

    def _command(self, *arguments: str) -> list[str]:
        binaries = postgres_binaries()
        assert binaries is not None
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        return [*prefix, str(binaries / arguments[0]), *arguments[1:]]

    def create(self) -> None:
        """Create the cluster."""
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
        """Start PostgreSQL, and wait until it accepts connections."""
        import psycopg

        command = self._command("postgres", "-D", str(self.folder / "data"), "-h", HOST, "-p", str(self.port))
        command += ["-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "shared_buffers=16MB"]
        self._process = subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

        def is_ready() -> bool:
            try:
                psycopg.connect(self.uri.replace("+psycopg", ""), connect_timeout=2).close()
            except psycopg.OperationalError:
                return False
            return True

        until(is_ready, "PostgreSQL")

    def kill(self) -> None:
        """Shut down at once: connections are cut, and the next start replays the log."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGQUIT)
            self._process.wait(timeout=30)
            self._process = None

    def remove(self) -> None:
        """Stop PostgreSQL and remove its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class CuttingProxy:
    """An HTTP proxy on loopback that cuts chosen replies in the middle, after the server did the work.

    Args:
        port: The server's port.

    Attributes:
        cuts: For a part of a path, how many of the next replies to cut.
        with_length: Whether a cut reply announces its full length.
    """

    def __init__(self, port: int) -> None:
        self.cuts: dict[str, int] = {}
        self.with_length = True
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                upstream = http.client.HTTPConnection(HOST, port, timeout=60)
                try:
                    upstream.request(self.command, self.path, body, dict(self.headers))
                    answer = upstream.getresponse()
                    content = answer.read()
                except (OSError, http.client.HTTPException):
                    self.close_connection = True  # as if the proxy were down too
                    return
                finally:
                    upstream.close()
                part = next((p for p, remaining in proxy.cuts.items() if remaining > 0 and p in self.path), None)
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

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://{HOST}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop the proxy."""
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
def locked(database: Path, seconds: float, wait: bool = True) -> Iterator[None]:
    """Lock an SQLite database by another process for so many seconds; without ``wait``, for the block at most."""
    command = [sys.executable, "-S", "-c", LOCKER, str(database), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            if not wait:
                process.kill()
            process.wait(timeout=seconds + 30)


@contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[Callable[[str], None]]:
    """Mount a small file system in memory at a folder; yield a function that remounts it ("ro", "size=64m")."""
    folder.mkdir(parents=True, exist_ok=True)

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    kilobytes = int(megabytes * 1024)
    require(os.geteuid() == 0 and mount(f"size={kilobytes}k"), "mounting a tmpfs needs root and leave to mount")
    try:
        yield lambda options: require(mount(f"remount,{options}"), "cannot remount")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
