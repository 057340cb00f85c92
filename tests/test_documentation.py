"""Tests of README, docs/ and the READMEs of experiments: links lead somewhere, commands and code can be run."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import yaml
from support.excerpts import PROJECT

import pipeline
from engine.activations import Elementwise
from experiments.command import experiment
from pipeline.cli import commands
from pipeline.config.compose import compose_run, compose_sweep, is_a_sweep
from pipeline.config.schema import build
from pipeline.errors import ConfigError

PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "experiments/*/README.md") for path in PROJECT.glob(pattern)
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
COMMAND = re.compile(r"^(?:\$ )?((?:[A-Z_]+=\S+ )*)((?:make|gradvitals|\.venv/bin/gradvitals) [a-z].*)$")
COMPOSING = ("run", "sweep", "show", "data", "trace", "search")
PLACEHOLDERS = re.compile(r"\bmine\b|my_conf|NAME=path")  # of a user's own files
QUICK = ("README.md", "docs/tutorial.md")
REFUSED = ("activation@output=tanh cost=cross_entropy",)  # commands that a page shows because they are refused


def name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and Python-Markdown both make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = [unicodedata.normalize("NFKC", h) for h in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", h).strip().lower()) for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_of_a_page_lead_to_files_and_headings(page: Path) -> None:
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert not broken


def test_all_pages_are_looked_at() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/glossary.md", "docs/experiments/README.md"} <= set(map(name, PAGES))
    assert sum(len(list(commands_of(page))) for page in PAGES) > 100


def test_readme_is_short() -> None:
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 80


def commands_of(page: Path) -> Iterator[str]:
    """Yield the commands in the code blocks of a page, without variables of the environment and comments."""
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines() if language in ("", "sh", "bash") else ():
            if (match := COMMAND.match(line)) and "[OPTIONS]" not in line:
                yield match[2]


WITH_COMMANDS = [page for page in PAGES if any(commands_of(page))]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_commands_of_a_page_have_known_targets_and_options(page: Path) -> None:
    for command in commands_of(page):
        parsed(command)


@pytest.mark.parametrize(
    "page", [p if name(p) in QUICK else pytest.param(p, marks=pytest.mark.thorough) for p in WITH_COMMANDS], ids=name
)
def test_configs_of_the_commands_of_a_page_compose(page: Path) -> None:
    for command in commands_of(page):
        if not PLACEHOLDERS.search(command) and not any(words in command for words in REFUSED):
            compose(command)


@cache
def parsed(command: str) -> tuple[str, dict[str, Any]] | None:
    """Return the name and the arguments of a command; None if it is none of gradvitals, as ``make lint``.

    Make knows its target and variables, and click its options, or an error is raised.
    """
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        made = ["make", "--dry-run", "PYTHON=python3", *words[1:]]
        shown = subprocess.run(made, cwd=PROJECT, capture_output=True, text=True)
        assert shown.returncode == 0, f"{command}: {shown.stderr}"
        lines = [line for line in shown.stdout.replace("\\\n", " ").splitlines() if "-m pipeline " in line]
        if not lines:
            return None
        words = ["gradvitals", *shlex.split(lines[-1].partition("-m pipeline ")[2])]
    words = words[1 + (words[1] == "profile") :]
    known = {**commands.commands, "experiment": experiment}[words[0]]
    return None if "--help" in words else (words[0], known.make_context(words[0], words[1:]).params)


def compose(command: str) -> None:
    """Compose the config of a command, if it has one. Nothing runs."""
    kind, arguments = parsed(command) or ("", {})
    if kind not in COMPOSING or arguments.get("config_dir"):
        return
    overrides = list(arguments["overrides"])
    if kind == "search" and not any("search" in text or "experiment" in text for text in overrides):
        overrides.insert(0, "experiment=search_tanh")
    cells = [cell.config for cell in compose_sweep(overrides)] if is_a_sweep(overrides) else [compose_run(overrides)]
    for config in cells[:2]:
        build(config)


def test_wrong_command_of_a_page_would_be_found() -> None:
    with pytest.raises(AssertionError, match="neither a target"):
        parsed("make swep")
    with pytest.raises(click.NoSuchOption, match="--job"):
        parsed("gradvitals sweep --job 2")
    for wrong in ("gradvitals run activation=rleu", "make run epoch=3"):
        with pytest.raises(ConfigError, match=r"rleu|epoch"):
            compose(wrong)


def python_blocks(page: Path) -> list[str]:
    return [block for language, block in BLOCK.findall(page.read_text(encoding="utf-8")) if language == "python"]


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)], ids=name)
def test_python_of_a_page_is_valid_and_imports_what_exists(page: Path) -> None:
    for block in python_blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "pipeline":
                assert {alias.name for alias in node.names} <= set(dir(pipeline))


def test_numbers_of_the_page_about_theory_are_those_of_its_code() -> None:
    (code,) = python_blocks(PROJECT / "docs" / "explanation" / "theory.md")
    variables: dict[str, object] = {}
    for line in code.splitlines():
        expression, _, comment = line.partition("  # ")
        if comment:
            value = eval(expression, variables)
            assert f"{value:.4f}" == comment.partition(":")[0]
        else:
            exec(line, variables)


@pytest.mark.thorough
def test_numbers_of_the_page_about_averaging_are_those_of_its_command() -> None:
    text = (PROJECT / "docs" / "explanation" / "averaging.md").read_text(encoding="utf-8")
    head, *rows = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    (command,) = commands_of(PROJECT / "docs" / "explanation" / "averaging.md")
    records = pipeline.run(*shlex.split(command)[2:], track=False).records
    for row in rows:
        layer, *numbers = row.split(" | ")
        for probe, number in zip(re.findall(r"`(\w+)`", head), numbers, strict=True):
            values = records.query(f"probe == '{probe}' and layer == {layer} and step == 0").value
            assert np.exp(np.log(values).mean()) == pytest.approx(float(number), rel=5e-3)


def test_activation_and_probe_of_the_pages_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are written as the pages say, in a folder of their own."""
    folder = PROJECT / "docs" / "how-to"
    sine, check_sine = python_blocks(folder / "own-activation.md")
    (probe,) = python_blocks(folder / "own-probe.md")
    (tmp_path / "mine.py").write_text(sine + probe, encoding="utf-8")
    for page in ("own-activation.md", "own-probe.md"):
        for language, block in BLOCK.findall((folder / page).read_text(encoding="utf-8")):
            if language == "yaml":
                path = tmp_path / block.splitlines()[0].removeprefix("# ")
                path.parent.mkdir(parents=True)
                path.write_text(block, encoding="utf-8")
                assert yaml.safe_load(block)["_target_"].startswith("mine.")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    words = ("activation=sine", "+probe@probes.largest_delta=largest_delta", "epochs=0", "data=iris")
    result = pipeline.run(*words, config_dir=str(tmp_path / "my_conf"), track=False)
    assert set(result.records.query("probe == 'largest_delta'").layer) == {1, 2, 3}
    variables: dict[str, object] = {}
    exec(sine, variables)
    assert issubclass(variables["Sine"], Elementwise)  # type: ignore[arg-type]
    exec(check_sine, variables)
