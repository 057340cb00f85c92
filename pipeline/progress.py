"""The console, and progress on stderr: bars on a terminal, a line now and then elsewhere, such as in a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment

from pipeline.streams import printable

OnStep = Callable[[int], None]
Item = TypeVar("Item")
FEW = 50  # items that are checked faster than a bar can be read
PAUSE = 15.0  # seconds between two lines


def plain_console(**options: Any) -> Console:
    """Return a console that prints every text as it is: square brackets are no markup, ``:name:`` is no emoji.

    Control characters are replaced: a name in a table may come from a file or a server.

    Args:
        options: Other options of the console.
    """
    return _PrintableConsole(markup=False, emoji=False, **options)


class _PrintableConsole(Console):
    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class _Lines:
    """Lines of progress. The first comes after ``PAUSE``, so that short commands print none.

    Args:
        console: Where they are printed; None prints none.
    """

    def __init__(self, console: Console | None) -> None:
        self._console, self._next = console, time.monotonic() + PAUSE

    def show(self, name: str, done: int, total: int) -> None:
        """Print a line if the last one is old enough."""
        if self._console is not None and (now := time.monotonic()) >= self._next:
            self._next = now + PAUSE
            with suppress(OSError):  # the stream may be full, or have no reader
                self._console.print(f"{name}: {done} of {total}", soft_wrap=True, highlight=False)


class Bars:
    """One bar for the sweep, if it has several runs, and one for each run in progress.

    Args:
        progress: The display.
        runs: Number of runs.
        lines: The display where there is no terminal: of the sweep, or of the steps of a single run.
    """

    def __init__(self, progress: Progress, runs: int, lines: _Lines) -> None:
        self._progress, self._lines = progress, lines
        self._runs, self._done = runs, 0
        self._sweep = progress.add_task("sweep", total=runs) if runs > 1 else None

    @contextmanager
    def run(self, name: str, steps: int) -> Iterator[OnStep]:
        """Show a bar for runs that train together, and yield a function to call with each step.

        Args:
            name: Name of the run.
            steps: Number of steps.
        """
        task = self._progress.add_task(name, total=max(steps, 1))
        stride = max(1, steps // 500)  # an update of the bar takes as long as a small training step

        def on_step(step: int) -> None:
            if step % stride == 0:
                self._progress.update(task, completed=step)
                if self._sweep is None:
                    self._lines.show(f"{name}, steps", step, steps)

        try:
            yield on_step
        finally:
            self._progress.remove_task(task)

    def advance(self) -> None:
        """Count one run of the sweep as done."""
        self._done += 1
        if self._sweep is not None:
            self._progress.advance(self._sweep)
            self._lines.show("runs", self._done, self._runs)


@contextmanager
def bars(runs: int, quiet: bool) -> Iterator[Bars]:
    """Show progress.

    Args:
        runs: Number of runs.
        quiet: Whether to show nothing.
    """
    with _display(quiet) as progress:
        yield Bars(progress, runs, _lines(progress, quiet))


@contextmanager
def track(items: Sequence[Item], name: str, quiet: bool) -> Iterator[Iterable[Item]]:
    """Yield the items to iterate over, and show a bar for them if there are many.

    Args:
        items: The items.
        name: The text next to the bar.
        quiet: Whether to show nothing.
    """
    quiet = quiet or len(items) <= FEW
    with _display(quiet) as progress:
        task, lines = progress.add_task(name, total=len(items)), _lines(progress, quiet)

        def advancing() -> Iterator[Item]:
            for done, item in enumerate(items):
                lines.show(name, done, len(items))
                yield item
                progress.advance(task)

        yield advancing()


def _lines(progress: Progress, quiet: bool) -> _Lines:
    return _Lines(None if quiet or progress.console.is_terminal else progress.console)


def _display(quiet: bool) -> Progress:
    console = plain_console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    hidden = quiet or not console.is_terminal
    return Progress(*columns, console=console, transient=True, disable=hidden, refresh_per_second=5)
