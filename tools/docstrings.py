"""Markdown from docstrings: tables, first paragraphs, and what is said about each argument."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

SECTION = re.compile(r"\n\s*(?:Args|Attributes|Returns|Raises):")
ARGUMENTS = re.compile(r"^Args:\n(.*?)(?:\n\w+:\n|\Z)", re.DOTALL | re.MULTILINE)
ARGUMENT = re.compile(r"^    ([\w, ]+): ((?:.|\n     )*)", re.MULTILINE)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. A column without any text is left out."""
    cells = [[_cell(text) for text in row] for row in rows]
    kept = [i for i, _ in enumerate(head) if any(row[i] for row in cells)]
    lines = [[head[i] for i in kept], ["---"] * len(kept), *([row[i] for i in kept] for row in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Return a text for a table: bars are escaped, and "<" as well outside of code, or it would begin a tag."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts))


def code(values: Iterable[object]) -> str:
    """Return values as code, separated by commas."""
    return ", ".join(f"`{value}`" for value in values)


def summary(thing: Any) -> str:
    """Return the first paragraph of a docstring in one line."""
    return _plain((inspect.getdoc(thing) or "").split("\n\n")[0])


def description(thing: Any) -> str:
    """Return a docstring without its sections, in one line."""
    return _plain(SECTION.split(inspect.getdoc(thing) or "")[0])


def meanings(*kinds: Any) -> dict[str, str]:
    """Return what classes, or their bases, say about each argument, in one line."""
    found: dict[str, str] = {}
    for base in (base for kind in kinds for base in reversed(inspect.getmro(kind))):
        section = ARGUMENTS.search(inspect.cleandoc(base.__doc__ or ""))
        for names, text in ARGUMENT.findall(section[1] if section else ""):
            found |= dict.fromkeys(names.split(", "), _plain(text).rstrip(".").replace("None", "null"))
    return found


def _plain(text: str) -> str:
    """Return a text in one line: without "Return the" at its start, and with roles as code."""
    text = " ".join(text.split())
    text = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", text).replace("``", "`")
    noun = re.sub(r"^Return (the )?", "", text)
    starts_with_a_word = re.match(r"[a-z]{2,} ", noun) is not None or noun.startswith("an ")
    return noun[:1].upper() + noun[1:] if starts_with_a_word else noun
