"""Counts, commands and options in messages."""

from __future__ import annotations

import pytest

from pipeline.wording import STARTED_BY, command, counted, option


@pytest.mark.parametrize(("number", "text"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), ("1", "1 run")])
def test_one_is_singular(number: int | str, text: str) -> None:
    assert counted(number, "run") == text


def test_commands_have_the_form_in_which_the_program_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def messages() -> list[str]:
        return [
            command("sweep activation=relu,tanh"),
            command("reproduce", run="1f3a"),
            command("ui", options="--uri sqlite:///s.db"),
            option("force"),
            option("jobs", "1"),
        ]

    assert messages() == [
        "gradvitals sweep activation=relu,tanh",
        "gradvitals reproduce 1f3a",
        "gradvitals ui --uri sqlite:///s.db",
        "--force",
        "--jobs 1",
    ]
    monkeypatch.setenv(STARTED_BY, "make")
    assert messages() == [
        "make sweep activation=relu,tanh",
        "make reproduce RUN=1f3a",
        'make ui ARGS="--uri sqlite:///s.db"',
        "FORCE=1",
        "JOBS=1",
    ]
