"""The parts of what a notebook shows. Texts may come from a foreign run: all are escaped."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from pipeline.errors import ConfigError
from pipeline.reports.outputs import png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 90


def page(*parts: str) -> str:
    """Return parts as one piece of HTML."""
    return f"<div>{''.join(parts)}</div>"


def title(name: str, place: str, outcome: str) -> str:
    """Return the first line: a name, where it is stored, and how it ended."""
    return f"<b>{escape(name)}</b> ({escape(place)}): <b>{escape(outcome)}</b>"


def text(words: str) -> str:
    """Return a text with the parts between backticks as code."""
    with_code = re.sub("`([^`]*)`", r"<code>\1</code>", escape(words))
    return f"<p>{with_code}</p>"


def table(frame: pd.DataFrame) -> str:
    """Return a table of texts and numbers."""
    return frame.to_html(index=False, border=0, float_format="{:.3g}".format, na_rep="–", justify="left")


def picture(draw: Callable[[], Figure]) -> str:
    """Return a figure as a picture; nothing if there is none.

    Args:
        draw: Draws the figure, or raises a ConfigError.
    """
    try:
        content = base64.b64encode(png(draw(), DOTS_PER_INCH)).decode("ascii")
    except ConfigError:
        return ""
    return f'<img alt="δ against layer" src="data:image/png;base64,{content}">'
