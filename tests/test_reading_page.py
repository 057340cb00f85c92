"""Tests of docs/explanation/code.md: its files exist, its names are defined, and each function calls the next one."""

from __future__ import annotations

import ast
import re
from itertools import pairwise

import pytest
from support.excerpts import PROJECT

TEXT = (PROJECT / "docs" / "explanation" / "code.md").read_text(encoding="utf-8")
FILES = sorted(set(re.findall(r"[\w./-]+\.(?:py|md|yaml)\b|(?<=`)[\w/]+/(?=`)", TEXT)))
NAME = r"`([\w./-]+\.py): ([\w.]+)`"
NAMES = sorted(set(re.findall(NAME, TEXT)))
WAY = re.findall(rf"^\| {NAME} \| (?!`)", TEXT, re.MULTILINE)
BRANCHES = re.findall(rf"^\| {NAME} \| {NAME} \|", TEXT, re.MULTILINE)
CALLS = [*((*caller, *called) for caller, called in pairwise(WAY)), *BRANCHES]


def definition(file: str, name: str) -> ast.AST:
    """Return the class, function, method or constant with this dotted name."""
    node: ast.AST = ast.parse((PROJECT / file).read_text(encoding="utf-8"))
    for part in name.split("."):
        defined = {n: child for child in getattr(node, "body", []) for n in names_of(child)}
        assert part in defined, f"{file}: {name} is not defined"
        node = defined[part]
    return node


def names_of(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def test_page_names_files_functions_and_calls() -> None:
    assert len(FILES) > 20
    assert len(NAMES) > 30
    assert (WAY[0], WAY[-1]) == (("pipeline/cli.py", "sweep"), ("engine/network.py", "Dense.forward"))
    assert len(BRANCHES) > 10


@pytest.mark.parametrize("file", FILES)
def test_file_of_the_page_exists(file: str) -> None:
    path = PROJECT / file
    assert path.is_dir() if file.endswith("/") else path.is_file()


@pytest.mark.parametrize(("file", "name"), NAMES)
def test_name_of_the_page_is_defined(file: str, name: str) -> None:
    assert definition(file, name)


@pytest.mark.parametrize(("caller_file", "caller", "called_file", "called"), CALLS)
def test_function_of_the_page_calls_the_next(caller_file: str, caller: str, called_file: str, called: str) -> None:
    """A function that is passed to another one counts as called."""
    assert definition(called_file, called)
    calls = [node for node in ast.walk(definition(caller_file, caller)) if isinstance(node, ast.Call)]
    functions = [function for call in calls for function in (call.func, *call.args)]
    names = {f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", None) for f in functions}
    assert called.rpartition(".")[2] in names


def test_six_calls_lead_from_the_command_to_the_equations() -> None:
    assert len(WAY) == 6
