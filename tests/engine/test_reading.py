"""Tests of docs/explanation/engine.md: excerpts equal the source, and the example runs."""

from __future__ import annotations

import re

import numpy as np
from support.excerpts import EXCERPT, PROJECT, refreshed

PAGE = PROJECT / "docs" / "explanation" / "engine.md"


def test_excerpts_equal_the_source() -> None:
    """``excerpts.refreshed`` returns the page with current excerpts."""
    text = PAGE.read_text(encoding="utf-8")
    assert len(EXCERPT.findall(text)) == text.count("<!-- ") == 12
    assert refreshed(text) == text


def test_training_loop_of_the_page_learns() -> None:
    (code,) = re.findall(r"(?<!-->\n)```python\n(import .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    variables: dict[str, object] = {}
    exec(code, variables)
    network, x, y = variables["network"], variables["x"], variables["y"]
    a = network.forward(x)  # type: ignore[attr-defined]
    assert np.mean(a.argmax(axis=0) == np.asarray(y).argmax(axis=0)) > 0.6
