"""Progress for people: bars on a terminal, silence elsewhere. Everything goes to stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

OnStep = Callable[[int], None]


class Bars:
    """A bar for the sweep (if there is more than one run) and one for the run that is going on."""

    def __init__(self, progress: Progress, runs: int) -> None:
        self._progress = progress
        self._sweep = progress.add_task("sweep", total=runs) if runs > 1 else None

    @contextmanager
    def run(self, name: str, steps: int) -> Iterator[OnStep]:
        """A bar for one run; the function it yields is told each step."""
        task = self._progress.add_task(name, total=max(steps, 1))
        stride = max(1, steps // 500)  # moving a bar costs as much as a small step of training

        def on_step(step: int) -> None:
            if step % stride == 0:
                self._progress.update(task, completed=step)

        try:
            yield on_step
        finally:
            self._progress.remove_task(task)
            self.advance()

    def advance(self) -> None:
        """One run of the sweep is done."""
        if self._sweep is not None:
            self._progress.advance(self._sweep)


@contextmanager
def bars(runs: int, quiet: bool) -> Iterator[Bars]:
    """Bars for so many runs; nothing is shown when ``quiet`` or when stderr is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden, refresh_per_second=5) as progress:
        yield Bars(progress, runs)
