"""docs/reading_the_engine.md: its excerpts are the source, and its example runs."""

from __future__ import annotations

import re

import numpy as np
from support.excerpts import EXCERPT, PROJECT, refreshed

PAGE = PROJECT / "docs" / "reading_the_engine.md"


def test_excerpts_are_the_source() -> None:
    """To renew them: write ``excerpts.refreshed`` of the page."""
    text = PAGE.read_text(encoding="utf-8")
    assert len(EXCERPT.findall(text)) == text.count("<!-- ") == 12
    assert refreshed(text) == text


def test_the_training_loop_of_the_page_learns() -> None:
    (code,) = re.findall(r"(?<!-->\n)```python\n(import .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    found: dict[str, object] = {}
    exec(code, found)
    network, x, y = found["network"], found["x"], found["y"]
    a = network.forward(x)  # type: ignore[attr-defined]
    assert np.mean(a.argmax(axis=0) == np.asarray(y).argmax(axis=0)) > 0.6
