"""Pages in a fresh profile of Chromium, over the pipe of its DevTools protocol: no library is needed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",  # file descriptors 3 and 4
)
LOADING = 150.0  # seconds for a page, on a busy machine
HELPERS = """
const texts = (text) => {
  const walker = document.createTreeWalker(document, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) if (walker.currentNode.data.trim() === text) found.push(walker.currentNode.parentElement);
  return found;
};
const isShown = (element) => {
  const box = element.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
  return box.bottom <= innerHeight && element.contains(document.elementFromPoint(x, y));
};
"""


class Page:
    """A page in a browser.

    Args:
        commands: The file descriptor that commands are written to.
        answers: The file descriptor that answers are read from.
        size: Width and height of the visible part, pixels.
    """

    def __init__(self, commands: int, answers: int, size: tuple[int, int]) -> None:
        self._commands, self._answers, self._count, self._rest = commands, answers, 0, b""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", self._session, **metrics)

    def open(self, address: str) -> None:
        """Open an address."""
        self._call("Page.navigate", self._session, url=address)

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, which may use ``HELPERS``."""
        program = f"(() => {{ {HELPERS} return {expression}; }})()"
        answer = self._call("Runtime.evaluate", self._session, expression=program, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer)
        return answer["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until the value of an expression is true or not empty, and return it."""
        deadline = time.monotonic() + LOADING
        while not (value := self.value(expression)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{expression}: not after {LOADING} s")
            time.sleep(0.2)
        return value

    def screenshot(self) -> bytes:
        """Return the visible part as a PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", self._session, format="png")["data"])

    def _call(self, method: str, session: str | None = None, **params: Any) -> Any:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                part = os.read(self._answers, 1 << 16)
                if not part:
                    raise EOFError("the browser ended")
                self._rest += part
            text, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(answer)
                return answer["result"]


@contextmanager
def fresh_page(profile: Path, size: tuple[int, int] = (1400, 900)) -> Iterator[Page]:
    """Start a browser with a new profile, and yield a page in it. It needs Chromium.

    Args:
        profile: The profile's folder, which does not exist yet.
        size: Width and height of the visible part, pixels.
    """
    pipes = [os.pipe(), os.pipe()]
    commands, answers = pipes[0][1], pipes[1][0]
    its_ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (pipes[0][0], pipes[1][1])]  # not 3 or 4
    shell = f'exec "$@" 3<&{its_ends[0]} 4>&{its_ends[1]}'
    command = ["bash", "-c", shell, "bash", str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, pass_fds=its_ends, stderr=subprocess.DEVNULL) as browser:
        for end in (pipes[0][0], pipes[1][1], *its_ends):
            os.close(end)
        try:
            yield Page(commands, answers, size)
        finally:
            browser.terminate()
            browser.wait(timeout=30)
            os.close(commands)
            os.close(answers)
