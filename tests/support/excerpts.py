"""Code excerpts in documents that are taken from the source."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
EXCERPT = re.compile(r"<!-- (?P<file>[\w/.]+): (?P<name>[\w.]+) -->\n```python\n(?P<code>.*?)```\n", re.DOTALL)


def source_of(file: str, name: str) -> str:
    """The source of a class, method or function such as "Dense.forward", with its decorators, not indented."""
    text = (PROJECT / file).read_text(encoding="utf-8")
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        body = getattr(node, "body", [])
        node = next(n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == part)
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    return textwrap.dedent("\n".join(lines)) + "\n"


def refreshed(text: str) -> str:
    """A document with each excerpt as the source has it."""

    def excerpt(found: re.Match[str]) -> str:
        file, name = found["file"], found["name"]
        return f"<!-- {file}: {name} -->\n```python\n{source_of(file, name)}```\n"

    return EXCERPT.sub(excerpt, text)
