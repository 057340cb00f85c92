"""The command line: help, completion, and the console script."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from support.commands import invoke
from support.configs import require

from experiments.command import experiment
from pipeline.cli import commands

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = Path(sys.executable).with_name("gradvitals")


def test_every_command_has_help_with_its_time_and_an_example() -> None:
    overview = invoke("--help")
    assert overview.code == 0
    for name, command in (*commands.commands.items(), ("experiment", experiment)):
        assert name in overview.out or command is experiment
        assert command.help
        with command.make_context(name, [], resilient_parsing=True) as context:
            text = command.get_help(context)
        assert re.search(r"\n  Takes [a-z]", text), name
        assert re.search(rf"\n  Example:\n    gradvitals {name}\b", text), name
        assert max(map(len, text.splitlines())) <= 80


def test_examples_of_help_are_valid() -> None:
    for name, command in commands.commands.items():
        example = str(command.epilog).splitlines()[-1].split()
        assert example[:2] == ["gradvitals", name]
        if name != "profile":
            command.make_context(name, example[2:])


def test_program_alone_prints_help() -> None:
    assert invoke() == invoke("--help")


@pytest.mark.parametrize("name", ["run", "sweep", "search", "show", "trace"])
def test_options_may_stand_after_overrides(name: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    result = invoke(name, "seed=1", "--config-dir", str(missing))
    assert result.code == 2
    assert str(missing) in result.err


def test_makefile_has_a_target_for_every_command() -> None:
    text = (PROJECT / "Makefile").read_text(encoding="utf-8")
    for name in (*commands.commands, "experiment"):
        assert f"\n{name}:" in text, name
        assert f"-m pipeline {name}" in text, name


def complete(monkeypatch: pytest.MonkeyPatch, words: str) -> list[str]:
    """Return what bash offers for the last word. Bash passes a word with "=" or "@" in parts."""
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    offered = BashComplete(commands, {}, "gradvitals", "_GRADVITALS_COMPLETE").complete()
    return [line.partition(",")[2] for line in offered.splitlines()]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("gradvitals re", ["report", "reproduce"]),
        ("gradvitals sweep --fa", ["--fail-fast"]),
        ("gradvitals run s", ["schedule=", "search="]),
        ("gradvitals run opt", ["optimizer=adam", "optimizer=momentum", "optimizer=nesterov", "optimizer=sgd"]),
        ("gradvitals run activation=si", ["activation=sigmoid", "activation=silu"]),  # in zsh and fish
        ("gradvitals run activation = si", ["sigmoid", "silu"]),
        ("gradvitals run optimizer =", ["adam", "momentum", "nesterov", "sgd"]),
        ("gradvitals run seed = 1 activation @ output = softp", ["softplus"]),
        ("gradvitals run nothing = x", []),
    ],
)
def test_shell_completes_commands_groups_and_options(
    words: str, offered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert complete(monkeypatch, words) == offered


def test_shell_completes_options_in_a_folder_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for group, name in (("activation", "sine"), ("own_group", "one")):
        (tmp_path / group).mkdir()
        (tmp_path / group / f"{name}.yaml").touch()
    run = f"gradvitals run --config-dir {tmp_path}"
    assert complete(monkeypatch, f"{run} activation = si") == ["sigmoid", "silu", "sine"]
    assert complete(monkeypatch, f"{run} own") == ["own_group=one"]


def test_console_script_completes() -> None:
    require(SCRIPT.is_file(), "the console script: pip install -e .")
    environment = os.environ | {
        "_GRADVITALS_COMPLETE": "bash_complete",
        "COMP_WORDS": "gradvitals rep",
        "COMP_CWORD": "1",
    }
    done = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["plain,report", "plain,reproduce"]


def test_program_starts_with_the_commands_of_the_experiments() -> None:
    command = [sys.executable, "-m", "pipeline", "experiment", "--help"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "Run a published result again" in done.stdout


def test_unknown_command_and_option_are_refused_in_one_line() -> None:
    for argv in (("rnu",), ("run", "--nope"), ("sweep", "--jobs", "many")):
        result = invoke(*argv)
        assert result.code == 2
        assert result.err.startswith("error: ")
        assert result.err.count("\n") == 1
