"""The console, and progress bars on a terminal; no bars elsewhere. Bars are written to stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment

from pipeline.streams import printable

OnStep = Callable[[int], None]
Item = TypeVar("Item")
FEW = 50  # items that are checked faster than a bar can be read


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


class Bars:
    """One bar for the sweep, if it has several runs, and one for each run in progress.

    Args:
        progress: The display.
        runs: Number of runs.
    """

    def __init__(self, progress: Progress, runs: int) -> None:
        self._progress = progress
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

        try:
            yield on_step
        finally:
            self._progress.remove_task(task)

    def advance(self) -> None:
        """Count one run of the sweep as done."""
        if self._sweep is not None:
            self._progress.advance(self._sweep)


@contextmanager
def bars(runs: int, quiet: bool) -> Iterator[Bars]:
    """Show progress bars.

    Args:
        runs: Number of runs.
        quiet: Whether to hide the bars. They are also hidden when stderr is not a terminal.
    """
    with _display(quiet) as progress:
        yield Bars(progress, runs)


@contextmanager
def track(items: Sequence[Item], name: str, quiet: bool) -> Iterator[Iterable[Item]]:
    """Yield the items to iterate over, and show a bar for them if there are many.

    Args:
        items: The items.
        name: The text next to the bar.
        quiet: Whether to hide the bar. It is also hidden when stderr is not a terminal.
    """
    with _display(quiet or len(items) <= FEW) as progress:
        task = progress.add_task(name, total=len(items))

        def advancing() -> Iterator[Item]:
            for item in items:
                yield item
                progress.advance(task)

        yield advancing()


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
