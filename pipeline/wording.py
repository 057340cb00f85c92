"""How messages write counts, and the commands and options of the program.

The program is started by make or as ``gradvitals``. Commands in messages have the form in which it was started, so that
the user can type them.
"""

from __future__ import annotations

import os

DECADES_LOST = (  # in lines
    "log10 of δ in the last hidden layer over δ in the first,",
    "before training; positive: δ shrinks towards the input; 1 decade is tenfold",
)
STARTED_BY = "GRADVITALS_STARTED_BY"  # the Makefile sets it to "make"


def counted(number: int | str, noun: str) -> str:
    """Return "1 run" or "2 runs"."""
    return f"{number} {noun}" if str(number) == "1" else f"{number} {noun}s"


def command(words: str, run: str = "", options: str = "") -> str:
    """Return a command as the user types it, such as ``make reproduce RUN=1f3a`` or ``gradvitals reproduce 1f3a``.

    Args:
        words: The command and its words key=value.
        run: The id of a run, the command's argument.
        options: Options of the command that make has no variable for.
    """
    if _is_made():
        parts = ["make", words, run and f"RUN={run}", options and f'ARGS="{options}"']
    else:
        parts = ["gradvitals", words, run, options]
    return " ".join(part for part in parts if part)


def comparison(a: str, b: str) -> str:
    """Return the command that compares two runs."""
    return f"make compare A={a} B={b}" if _is_made() else f"gradvitals compare {a} {b}"


def option(name: str, value: str = "") -> str:
    """Return an option as the user types it, such as ``JOBS=1`` or ``--jobs 1``; ``FORCE=1`` or ``--force``."""
    if _is_made():
        return f"{name.upper()}={value or 1}"
    return f"--{name} {value}".rstrip()


def _is_made() -> bool:
    return os.environ.get(STARTED_BY) == "make"
