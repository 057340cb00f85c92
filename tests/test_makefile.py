"""The words of a make command line: config keys, variables of the Makefile, and words that are neither."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
FROM_MAKE = ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "ARGS")  # of the make that runs the tests
ODD = [
    'name=two words,  and "quotes"',
    "activation=it's",
    "architecture.hidden=[5, 5]",
    "+probe@probes.x=sharpness",
    "++search={a: {b: 1}}",
    "seed=${epochs}",
    "data.source.path=$HOME/$(pwd)/`ls`",
    "dtype=a\\b \\$ # % & ; | < > * ? ~ !",
    "epochs=",
    "cost==",
    "init=caf\u00e9\u2620",
]


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """An environment whose Python prints its arguments, one a line."""
    python = tmp_path / "echo" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/bash\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    (tmp_path / "echo" / ".ready").touch()
    return tmp_path / "echo"


def make(echo: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in FROM_MAKE}
    command = ["make", "--no-print-directory", "-C", str(PROJECT), f"VENV={echo}", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def arguments(echo: Path, *words: str) -> list[str]:
    """Return the arguments that a target passes to the command line."""
    done = make(echo, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[3:]


def test_words_are_passed_to_the_command_as_they_are_and_in_their_order(echo: Path) -> None:
    assert arguments(echo, "run", *ODD)[-len(ODD) :] == ODD


@pytest.mark.parametrize(
    ("target", "variables", "before"),
    [
        ("run", (), []),
        ("run", ("EXP=smoke", "FORCE=1"), ["--force", "experiment=smoke"]),
        ("sweep", (), []),
        ("sweep", ("EXP=smoke", "JOBS=2"), ["--jobs", "2", "experiment=smoke"]),
        ("search", ("TRIALS=3",), ["--trials", "3"]),
        ("sweep", ("ARGS=--config-dir x",), ["--config-dir", "x"]),
        ("profile", (), ["sweep"]),
        ("show", ("ARGS=--config-dir x",), ["--config-dir", "x"]),
        ("data", (), []),
        ("trace", (), []),
        ("reproduce", ("RUN=1234",), ["1234"]),
    ],
)
def test_targets_that_take_a_config_take_words(
    echo: Path, target: str, variables: tuple[str, ...], before: list[str]
) -> None:
    words = ["activation=relu,tanh", "optimizer.learning_rate=0.1,0.3"]
    assert arguments(echo, target, *variables, *words) == [*before, *words]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "relu"), "relu: neither a target nor key=value"),
        (("~seed", "run"), "~seed: neither a target nor key=value"),
        (("ui", "activation=relu"), "activation=...: make ui takes no config keys"),
        (("run", "test", "seed=1"), "seed=...: make test takes no config keys"),
        (("seed=1",), "seed=...: make help takes no config keys"),
        (("verify", "FROM=x", "FORM=y"), "FORM=...: make verify takes no config keys"),
    ],
)
def test_other_words_are_refused_before_anything_runs(echo: Path, words: tuple[str, ...], says: str) -> None:
    done = make(echo, *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_variables_of_the_environment_are_passed_on_and_are_no_keys(echo: Path) -> None:
    assert arguments(echo, "run", "GRADVITALS_STORE_PATIENCE=600", "MLFLOW_TRACKING_URI=x", "CI=1") == []
