"""Commands that run in this process, and what they show."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.cli import main
from pipeline.progress import plain_console
from pipeline.sweeps.search.search import SearchOptions, run_search
from pipeline.sweeps.sweep import SweepOptions, run_single, run_sweep
from support.stores import empty


class Invocation(NamedTuple):
    """What a command returned and printed."""

    code: int
    out: str
    err: str


NO_FIGURES = "tracking.figures=false"


def without_figures(overrides: Iterable[str]) -> list[str]:
    """Return overrides that switch off the figures of runs unless they name the key: drawing takes longest."""
    given = list(overrides)
    return given if any(text.startswith(NO_FIGURES.partition("=")[0]) for text in given) else [*given, NO_FIGURES]


def invoke(*argv: str) -> Invocation:
    """Run a command in this process, as ``gradvitals ARGV...`` does."""
    if argv and argv[0] in ("run", "sweep", "search"):
        create_stores(argv)
        argv = tuple(without_figures(argv))
        if argv[0] == "sweep" and "--jobs" not in argv:  # processes take seconds to start
            argv = (argv[0], "--jobs", "1", *argv[1:])
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    return Invocation(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Shown:
    """The result of a command's function, and all text that its user sees."""

    result: Any
    text: str

    @property
    def code(self) -> int:
        """The exit code."""
        return int(self.result.exit_code)


def run_command(*overrides: str, config_dir: str | None = None, **options: Any) -> Shown:
    """Run one config; the options are those of SweepOptions."""
    create_stores(overrides)
    return shown(lambda: run_single(without_figures(overrides), SweepOptions(quiet=True, **options), config_dir))


def sweep_command(*overrides: str, config_dir: str | None = None, **options: Any) -> Shown:
    """Run a sweep; the options are those of SweepOptions."""
    create_stores(overrides)
    return shown(lambda: run_sweep(without_figures(overrides), SweepOptions(quiet=True, **options), config_dir))


def search_command(*overrides: str, config_dir: str | None = None, **options: Any) -> Shown:
    """Run a search; the options are those of SearchOptions."""
    create_stores(overrides)
    return shown(lambda: run_search(without_figures(overrides), SearchOptions(quiet=True, **options), config_dir))


def create_stores(overrides: Iterable[str]) -> None:
    """Copy a ready database to the address of a store that does not exist: MLflow needs seconds to create one."""
    for override in overrides:
        key, _, address = override.partition("=")
        if key == "tracking.uri" and address.startswith("sqlite:///"):
            empty(address)


def shown(command: Callable[[], Any]) -> Shown:
    """Call a command's function and collect what its user sees: messages, table, lines."""
    with messages() as output:
        result = command()
        console = plain_console(file=output, width=200)
        table = result.table() if hasattr(result, "table") else None
        if table is not None:
            console.print(table)
        for line in result.lines():
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return Shown(result, output.getvalue())


@contextlib.contextmanager
def messages() -> Iterator[io.StringIO]:
    """Collect the messages that are logged for the user."""
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    logger = logging.getLogger("gradvitals.user")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield output
    finally:
        logger.removeHandler(handler)
