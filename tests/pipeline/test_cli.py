"""The command line: help, completion, and the console script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import invoke
from support.configs import require

from pipeline.cli import commands

SCRIPT = Path(sys.executable).with_name("gradvitals")


def test_every_command_has_help() -> None:
    overview = invoke("--help")
    assert overview.code == 0
    for name, command in commands.commands.items():
        assert name in overview.out
        assert command.help
        assert invoke(name, "--help").code == 0


@pytest.mark.parametrize("name", ["run", "sweep", "search", "show", "trace"])
def test_options_may_stand_after_overrides(name: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    result = invoke(name, "seed=1", "--config-dir", str(missing))
    assert result.code == 2
    assert str(missing) in result.err


def test_makefile_has_a_target_for_every_command() -> None:
    text = (Path(__file__).resolve().parents[2] / "Makefile").read_text(encoding="utf-8")
    for name in commands.commands:
        assert f"\n{name}:" in text, name
        assert f"-m pipeline {name}" in text, name


def complete(words: str) -> list[str]:
    """Return what the shell offers for the last word."""
    environment = {**os.environ, "_GRADVITALS_COMPLETE": "bash_complete", "COMP_WORDS": words}
    environment["COMP_CWORD"] = str(len(words.split(" ")) - 1)
    done = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True, check=False)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_shell_completes_commands_groups_and_options() -> None:
    require(SCRIPT.is_file(), "the console script: pip install -e .")
    assert complete("gradvitals re") == ["report", "reproduce"]
    assert "activation=" in complete("gradvitals run act")
    assert complete("gradvitals run activation=si") == ["activation=sigmoid", "activation=silu"]
    assert "--fail-fast" in complete("gradvitals sweep --f")


def test_unknown_command_and_option_are_refused_in_one_line() -> None:
    for argv in (("rnu",), ("run", "--nope"), ("sweep", "--jobs", "many")):
        result = invoke(*argv)
        assert result.code == 2
        assert result.err.startswith("error: ")
        assert result.err.count("\n") == 1
