"""``python -m tools.notebook FILE``: run the code cells of a notebook, and save the notebook with their outputs.

The runs of the cells go to a temporary store, so a notebook shows the same every time, apart from run ids. If a cell
fails, the file stays as it is.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock


def run_notebook(notebook: dict[str, Any]) -> dict[str, Any]:
    """Run the code cells of a notebook in one namespace, and return a copy of it with their outputs.

    Args:
        notebook: The content of an ``.ipynb`` file, format 4.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            cell = {**cell, "execution_count": count, "outputs": _run_cell("".join(cell["source"]), namespace, count)}
        cells.append(cell)
    return {**notebook, "cells": cells}


def _run_cell(source: str, namespace: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Run a cell; return what it printed, and its last expression as a notebook shows it."""
    statements = ast.parse(source, f"cell {count}")
    last = statements.body[-1] if statements.body else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        if isinstance(last, ast.Expr):
            statements.body.pop()
        exec(compile(statements, f"cell {count}", "exec"), namespace)  # noqa: S102 (the notebook is ours)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {count}", "eval"), namespace)  # noqa: S307
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue().splitlines(keepends=True):
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        shown = {"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": _shown(value)}
        outputs.append(shown)
    return outputs


def _shown(value: object) -> dict[str, Any]:
    """Return a value in the forms that it has for a notebook."""
    forms: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    html = value._repr_html_() if hasattr(value, "_repr_html_") else None  # a figure of matplotlib may have none
    if html is not None:
        forms["text/html"] = html.splitlines(keepends=True)
    if hasattr(value, "_repr_png_"):
        forms["image/png"] = base64.b64encode(value._repr_png_()).decode("ascii")
    return forms


@contextlib.contextmanager
def temporary_store() -> Iterator[None]:
    """Let the runs of a block go to a temporary folder, unless they name a store."""
    with (
        tempfile.TemporaryDirectory(prefix="gradvitals-notebook-") as folder,
        mock.patch("pipeline.tracking.uri.store_folder", return_value=Path(folder)),
    ):
        yield


def main(path: Path) -> None:
    """Run a notebook and save it with its outputs."""
    with temporary_store():
        done = run_notebook(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
