"""Code excerpts in documents, copied from the source."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
EXCERPT = re.compile(r"<!-- (?P<file>[\w/.]+): (?P<name>[\w.]+) -->\n```python\n(?P<code>.*?)```\n", re.DOTALL)


def source_of(file: str, name: str) -> str:
    """Return the dedented source of a class, method or function such as "Dense.forward", with its decorators."""
    text = (PROJECT / file).read_text(encoding="utf-8")
    definition: ast.AST = ast.parse(text)
    for part in name.split("."):
        body = getattr(definition, "body", [])
        definition = next(n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == part)
    assert isinstance(definition, ast.ClassDef | ast.FunctionDef)
    first = min([definition.lineno, *(decorator.lineno for decorator in definition.decorator_list)])
    lines = text.splitlines()[first - 1 : definition.end_lineno]
    return textwrap.dedent("\n".join(lines)) + "\n"


def refreshed(text: str) -> str:
    """Return a document with each excerpt copied from the source again."""

    def excerpt(match: re.Match[str]) -> str:
        file, name = match["file"], match["name"]
        return f"<!-- {file}: {name} -->\n```python\n{source_of(file, name)}```\n"

    return EXCERPT.sub(excerpt, text)
