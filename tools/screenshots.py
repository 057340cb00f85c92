"""``python -m tools.screenshots``: run the default sweep, and take the pictures of docs/pictures/.

It needs Chromium, which runs without a window, and for the pictures of the site the folder that ``make docs`` builds.
It takes some minutes.
"""

from __future__ import annotations

import html
import io
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path

from PIL import Image

from pipeline.paths import PROJECT
from tools.browser import CHROMIUM, fresh_page

FOLDER, SITE = PROJECT / "docs" / "pictures", PROJECT / "site"
LARGE, TERMINAL = (1400, 900), (760, 1000)
COLUMNS, ROWS = 80, 50
COLORS = 256  # of a picture's palette
SETTLING = 4.0  # seconds after the last element of a page has appeared
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
STYLE = "body{margin:0;background:#1e1e1e}pre{font:15px/1.25 'DejaVu Sans Mono',monospace;color:#ddd;margin:14px}"
CHARTS = "document.querySelectorAll('.js-plotly-plot .scatterlayer path').length > 20"
RUN_PAGE = "document.querySelectorAll('[role=status][title]').length > 3"
LOADED = "document.readyState === 'complete'"
CALM = """(() => {
  for (const bar of document.querySelectorAll('.modebar')) bar.remove();
  let panel = texts('MLflow Assistant')[0];
  while (panel && panel.querySelectorAll('button').length < 3) panel = panel.parentElement;
  if (panel) [...panel.querySelectorAll('button')][2].click();
  return 1;
})()"""  # closes the panel of MLflow's assistant, and hides the tools of charts, which a mouse would show


def in_terminal(*words: str) -> str:
    """Return what a command prints on a terminal of 80 columns."""
    ours, its = pty.openpty()
    ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "CI": "1", "TERM": "xterm"}  # CI: without progress bars
    command = [sys.executable, "-m", "pipeline", *words]
    with subprocess.Popen(command, cwd=PROJECT, stdout=its, stderr=subprocess.DEVNULL, env=environment):
        os.close(its)
        printed = b""
        while part := _read(ours):
            printed += part
    os.close(ours)
    return CONTROL.sub("", printed.decode("utf-8"))


def _read(terminal: int) -> bytes:
    """Return the next bytes of a terminal, none after its program has ended."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


@contextmanager
def served(uri: str) -> Iterator[str]:
    """Serve MLflow's pages of a store on a free port, and yield their address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pipeline", "ui", "--uri", uri, "--port", str(port)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while not _answers(port):
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=30)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def take(name: str, address: str, until: str, size: tuple[int, int] = LARGE) -> None:
    """Write a picture of a page.

    Args:
        name: The name of the picture.
        address: The page.
        until: The JavaScript expression that is true when the page is complete.
        size: Width and height, pixels.
    """
    with tempfile.TemporaryDirectory() as folder, fresh_page(Path(folder, "profile"), size) as page:
        page.open(address)
        page.until(until)
        time.sleep(SETTLING)
        page.value(CALM)
        time.sleep(SETTLING)
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    FOLDER.mkdir(exist_ok=True)
    picture.quantize(COLORS).save(FOLDER / f"{name}.png", optimize=True)
    print(f"wrote docs/pictures/{name}.png", flush=True)


def of_terminal(name: str, command: str, printed: str, folder: Path) -> None:
    """Write a picture of a terminal."""
    lines = _wrapped(f"$ {command}\n{printed.rstrip()}").splitlines()
    page = folder / f"{name}.html"
    text = html.escape("\n".join(lines))
    page.write_text(f"<meta charset=utf-8><style>{STYLE}</style><pre>{text}</pre>", encoding="utf-8")
    take(name, page.as_uri(), LOADED, (TERMINAL[0], 30 + 19 * len(lines)))


def of_store(folder: Path) -> None:
    """Write the pictures of a sweep: terminal, charts, a run's page and its report."""
    uri = f"sqlite:///{folder}/runs.db"
    printed = in_terminal("sweep", f"tracking.uri={uri}").replace(uri, "sqlite:///runs.db")
    of_terminal("sweep", "gradvitals sweep tracking.uri=sqlite:///runs.db", printed, folder)
    run = re.findall(r"^sigmoid\s+20 .*?([0-9a-f]{8})\s*$", printed, re.MULTILINE)[0]
    single = in_terminal("run", "architecture=deep", "architecture.depth=5", f"tracking.uri={uri}")
    single = single.replace(uri, "sqlite:///runs.db")
    command = "gradvitals run architecture=deep architecture.depth=5 tracking.uri=sqlite:///runs.db"
    of_terminal("run", command, single, folder)
    report = folder / "report.html"
    in_terminal("report", "--run", run, "--to", str(report), "--uri", uri)
    take("report", report.as_uri(), LOADED)
    charts = next(line for line in printed.split() if "viewStateShareKey" in line).partition("/#")[2]
    with served(uri) as base:
        take("charts", f"{base}/#{charts}", CHARTS)
        take("run_page", f"{base}/#/experiments/1/runs/{_whole(run, uri)}?workflowType=machine_learning", RUN_PAGE)


def _wrapped(text: str) -> str:
    """Return a text as a terminal of 80 columns breaks it."""
    return "\n".join(line[i : i + COLUMNS] for line in text.splitlines() for i in range(0, max(1, len(line)), COLUMNS))


def _whole(run: str, uri: str) -> str:
    """Return the whole id of a run."""
    program = f"import pipeline; print(pipeline.load({run!r}, uri={uri!r}).run_id)"
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


def of_site() -> None:
    """Write the pictures of the site, and of the notebook on it."""
    if not (SITE / "index.html").is_file():
        print("no pictures of the site: make docs builds it")
        return
    take("site", (SITE / "index.html").as_uri(), LOADED)
    take("notebook", (SITE / "files" / "examples" / "quickstart.ipynb.html").as_uri(), LOADED, (1400, 1300))


def main(arguments: Sequence[str]) -> int:
    """Take all pictures, or with the argument ``site`` those of the site."""
    if CHROMIUM is None:
        print("skipped: Chromium is not installed")
        return 0
    of_site()
    if list(arguments) != ["site"]:
        with tempfile.TemporaryDirectory() as folder:
            of_store(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
