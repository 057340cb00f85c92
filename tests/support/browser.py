"""Pages in a fresh profile of Chromium, for tests that are skipped without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.configs import require
from tools import browser
from tools.browser import CHROMIUM as CHROMIUM


@contextmanager
def fresh_page(profile: Path, size: tuple[int, int] = (1400, 900)) -> Iterator[browser.Page]:
    """Start a browser with a new profile, and yield a page in it. The test is skipped without Chromium."""
    require(CHROMIUM is not None, "needs Chromium")
    with browser.fresh_page(profile, size) as page:
        yield page
