"""Open the link that a sweep prints in a fresh profile of a real browser."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.commands import sweep_command
from support.configs import require
from support.stores import empty

PROJECT = Path(__file__).resolve().parents[3]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--window-size=1900,1300",
    "--virtual-time-budget=60000",
    "--dump-dom",
]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def served(uri: str) -> Iterator[int]:
    """Run ``python -m pipeline ui`` on a free port; yield the port."""
    port = free_port()
    command = [sys.executable, "-m", "pipeline", "ui", "--uri", uri, "--port", str(port)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait(port)
            yield port
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait(port: int) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError("the server did not come up")


@pytest.mark.thorough
def test_sweep_link_opens_charts_of_all_runs(tmp_path: Path) -> None:
    """All twelve runs have curves in the first charts; without the saved view MLflow shows ten."""
    require(BROWSER is not None, "needs Chromium")
    uri = empty(f"sqlite:///{tmp_path / 'mlflow.db'}")
    shown = sweep_command("experiment=depth", "epochs=0", "replicates=2", f"tracking.uri={uri}")
    link = next(line for line in shown.text.splitlines() if "viewStateShareKey" in line)
    with served(uri) as port:
        address = link.replace("127.0.0.1:5000", f"127.0.0.1:{port}")
        page = _dom(address, tmp_path)
    names = [f"{activation} d{depth}" for activation in ("sigmoid", "tanh", "relu") for depth in (2, 5, 10, 20)]
    for name in names:
        for chart in ("log10_delta_rms_by_layer/start", "log10_gradient_norm_by_layer/end"):
            assert f"{name} ({chart})" in page, f"{name} has no curve in {chart}"
    assert "Error loading shared view" not in page


def _dom(address: str, folder: Path) -> str:
    """Return the page in a fresh profile; a second attempt allows for a slow machine."""
    page = ""
    for attempt in range(2):
        command = [str(BROWSER), *FLAGS, f"--user-data-dir={folder / f'profile{attempt}'}", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, env=dict(os.environ))
        page = done.stdout
        if "log10_gradient_norm_by_layer/end)" in page:
            break
    return page
