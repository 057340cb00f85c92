"""Log one run: metrics are buffered, everything else is sent at once."""

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

QUEUE = 4000  # the most values that are buffered
SHOWN_AFTER = 10_000  # milliseconds after which a buffered value is sent, so that MLflow's pages stay live
LEAVING = 1.0  # seconds to close an interrupted run; the next command closes it otherwise


class Point(NamedTuple):
    """One value of a metric. A point that is sent twice is one row of the store."""

    key: str
    value: float
    timestamp: int
    step: int


def wall_clock() -> int:
    """Return the milliseconds since 1970, 0 before."""
    return max(0, int(time.time() * 1000))


@dataclass
class MonotonicTimestamps:
    """Timestamps that ascend even if the machine's clock is set back.

    Args:
        start: The first timestamp, in milliseconds since 1970; the current time by default.
    """

    start: int = field(default_factory=wall_clock)
    _origin: float = field(default_factory=time.monotonic, repr=False)

    def now(self) -> int:
        """Return the current timestamp, in milliseconds since 1970."""
        return self.start + int((time.monotonic() - self._origin) * 1000)


@dataclass
class RunLogger:
    """The logger of one run. As a context manager it closes the run if the block raises.

    Args:
        client: A client that retries (:class:`pipeline.tracking.client.Client`).
        run_id: The run's id.
        stored_steps: Of a resumed run, the highest step that the store has of each metric.
        stored_params: Of a resumed run, the parameters that the store has.
        clock: The timestamps of the run.
    """

    client: Any
    run_id: str
    stored_steps: Mapping[str, int] = field(default_factory=dict, repr=False)
    stored_params: Mapping[str, str] = field(default_factory=dict, repr=False)
    clock: MonotonicTimestamps = field(default_factory=MonotonicTimestamps, repr=False)
    _buffer: list[Point] = field(default_factory=list, repr=False)
    _last_steps: dict[str, int] = field(default_factory=dict, repr=False)
    _ended: bool = field(default=False, repr=False)

    def __enter__(self) -> RunLogger:
        """Return this logger."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or self._ended:
            return
        interrupted = not issubclass(kind, Exception)
        if interrupted:
            signals.acknowledge()
        with contextlib.suppress(Exception):  # the exception of the block matters more
            self.end("KILLED" if interrupted else "FAILED", hurry=interrupted)

    def metric(self, key: str, value: float, step: int = 0) -> bool:
        """Buffer one value. The steps of a key ascend; a step that is repeated or already stored is skipped.

        Args:
            key: The metric's name.
            value: Its value.
            step: Its step.

        Returns:
            False for a value that is not finite, which is refused: MLflow would store another number.
        """
        if not math.isfinite(value):
            return False
        if self._last_steps.get(key) == step or step <= self.stored_steps.get(key, step - 1):
            return True
        self._last_steps[key] = step
        point = Point(key, float(value), self.clock.now(), step)
        self._buffer.append(point)
        if len(self._buffer) >= QUEUE or point.timestamp - self._buffer[0].timestamp >= SHOWN_AFTER:
            self.flush()
        return True

    def flush(self) -> None:
        """Send the buffer. Only accepted values are removed from it.

        Raises:
            StoreError: The store refuses, or does not answer.
        """
        while self._buffer:
            self.client.log_points(self.run_id, self._buffer[:QUEUE])
            del self._buffer[:QUEUE]

    def params(self, params: Mapping[str, Any]) -> None:
        """Log flat scalar parameters, except those already stored."""
        self.client.log_params(
            self.run_id, {k: str(v) for k, v in params.items() if self.stored_params.get(k) != str(v)}
        )

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags. The tag ``mlflow.note.content`` is the run's description, in Markdown."""
        self.client.log_tags(self.run_id, {k: str(v) for k, v in tags.items()})

    def text(self, text: str, name: str) -> None:
        """Log a text as an artifact."""
        self.client.log_text(self.run_id, text, name)

    def figure(self, figure: Figure, name: str) -> None:
        """Log a matplotlib figure as a PNG artifact. ``Figure.savefig`` would draw it twice."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            FigureCanvasAgg(figure).print_png(path, pil_kwargs={"compress_level": 1})  # type: ignore[no-untyped-call]
            self.file(path)

    def file(self, path: Path) -> None:
        """Log a file as an artifact at the top of the run's folder."""
        self.client.log_artifact(self.run_id, str(path))

    def end(self, status: str, hurry: bool = False) -> bool:
        """Flush and close the run. A store that fails is reported, not raised.

        Args:
            status: FINISHED, FAILED or KILLED.
            hurry: Whether to give the store one second in all, because the user wants to leave.

        Returns:
            Whether the store has all values and the status.
        """
        if hurry:
            self.client.retry.set_deadline(LEAVING)
        complete = True
        try:
            self.flush()
        except StoreError as refusal:
            notify(f"{len(self._buffer)} values of run {self.run_id} could not be stored ({refusal})")
            complete = False
            status = "FAILED" if status == "FINISHED" else status
        try:
            self.client.set_terminated(self.run_id, status, end_time=self.clock.now())
        except StoreError as refusal:
            notify(f"run {self.run_id} could not be closed as {status} ({refusal})")
            complete = False
        self._ended = True
        return complete
