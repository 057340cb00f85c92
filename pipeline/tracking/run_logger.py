"""One run in a store: metrics are buffered, everything else is sent at once."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline import signals
from pipeline.errors import StoreError
from pipeline.tracking.retry import notify

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUEUE = 4000  # values that wait at most
SHOWN_AFTER = 10_000  # milliseconds after which a value that waits is sent, for people who look on
LEAVING = 1.0  # seconds in which an interrupted run is closed, or left to the next command


class Point(NamedTuple):
    """One value of a metric; sent twice it is the same row of the store, which keeps it once."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass
class MonotonicTimestamps:
    """Milliseconds since 1970 that only ever go on, as fast as time does, whatever is done to the machine's clock."""

    start: int = field(default_factory=lambda: max(0, int(time.time() * 1000)))
    _began: float = field(default_factory=time.monotonic, repr=False)

    def now(self) -> int:
        """The time."""
        return self.start + int((time.monotonic() - self._began) * 1000)


@dataclass
class RunLogger:
    """One run that is being logged.

    Args:
        client: a patient client (:class:`pipeline.tracking.store.Client`).
        stored_steps: of a run that is gone on with, the highest step that the store has of each metric.
        stored_params: of such a run, the parameters that the store has.
    """

    client: Any
    run_id: str
    stored_steps: Mapping[str, int] = field(default_factory=dict, repr=False)
    stored_params: Mapping[str, str] = field(default_factory=dict, repr=False)
    clock: MonotonicTimestamps = field(default_factory=MonotonicTimestamps, repr=False)
    _buffer: list[Point] = field(default_factory=list, repr=False)
    _last: dict[str, int] = field(default_factory=dict, repr=False)
    _ended: bool = field(default=False, repr=False)

    def __enter__(self) -> RunLogger:
        """Whatever happens within, the run does not stay RUNNING."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or self._ended:
            return
        interrupted = not issubclass(kind, Exception)
        if interrupted:
            signals.acknowledge()
        with contextlib.suppress(Exception):  # what is on its way matters more
            self.end("KILLED" if interrupted else "FAILED", hurry=interrupted)

    def metric(self, key: str, value: float, step: int = 0) -> bool:
        """Queue one value; a non-finite one is refused (False): MLflow would store another number in its place.

        A key has one value a step, and its steps ascend: what comes a second time is left out, be it now or in a run
        that is gone on with.
        """
        if not math.isfinite(value):
            return False
        if self._last.get(key) == step or step <= self.stored_steps.get(key, step - 1):
            return True
        self._last[key] = step
        point = Point(key, float(value), self.clock.now(), step)
        self._buffer.append(point)
        if len(self._buffer) >= QUEUE or point.timestamp - self._buffer[0].timestamp >= SHOWN_AFTER:
            self.flush()
        return True

    def flush(self) -> None:
        """Send what is queued. The queue is emptied only by what has been accepted.

        Raises:
            StoreError: the store refuses, or does not answer any more.
        """
        while self._buffer:
            self.client.log_points(self.run_id, self._buffer[:QUEUE])
            del self._buffer[:QUEUE]

    def params(self, params: Mapping[str, Any]) -> None:
        """Flat scalar parameters; those that the run has already are not sent again."""
        self.client.log_params(
            self.run_id, {k: str(v) for k, v in params.items() if self.stored_params.get(k) != str(v)}
        )

    def tags(self, tags: Mapping[str, str]) -> None:
        """Tags; the description is ``mlflow.note.content``, Markdown."""
        self.client.log_tags(self.run_id, {k: str(v) for k, v in tags.items()})

    def text(self, text: str, name: str) -> None:
        """A text artifact."""
        self.client.log_text(self.run_id, text, name)

    def figure(self, figure: Figure, name: str) -> None:
        """A matplotlib figure as a PNG artifact, drawn once: ``Figure.savefig`` draws twice, for nothing here."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            FigureCanvasAgg(figure).print_png(path)  # type: ignore[no-untyped-call]
            self.file(path)

    def file(self, path: Path) -> None:
        """A file as an artifact at the top of the run's folder."""
        self.client.log_artifact(self.run_id, str(path))

    def end(self, status: str, hurry: bool = False) -> bool:
        """Flush and close: FINISHED, FAILED or KILLED. Returns whether the store has it all; what it has not is told.

        Does not raise for a store that is gone.

        Args:
            hurry: whether somebody wants to leave; then nothing more can be asked of the store for long.
        """
        if hurry:
            self.client.retry.set_deadline(LEAVING)
        lost = ""
        try:
            self.flush()
        except StoreError as refused:
            lost = f"{len(self._buffer)} values of run {self.run_id} could not be stored ({refused})"
            notify(lost)
            status = "FAILED" if status == "FINISHED" else status
        try:
            self.client.set_terminated(self.run_id, status, end_time=self.clock.now())
        except StoreError as refused:
            notify(f"run {self.run_id} could not be closed as {status} ({refused})")
            lost = lost or "closed"
        self._ended = True
        return not lost
