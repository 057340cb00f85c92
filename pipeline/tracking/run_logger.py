"""Log one run. Everything is buffered: values, parameters and tags are sent in batches, files when the run ends.

Each call to MLflow takes several milliseconds, whatever it carries. The logger of a short run therefore calls it four
times in all: to create the run, for its values, for its files and to close it.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline import signals
from pipeline.errors import DeletedError, StoreAwayError, StoreError
from pipeline.tracking.retry import notify
from pipeline.tracking.text_limits import whole_texts

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


@dataclass(frozen=True)
class LoggedDataset:
    """The data of a run, for MLflow's column "Dataset".

    Args:
        name: Its name, such as "digits".
        digest: A digest, at most 36 characters. Runs with the same name and digest share one data set.
        source: The config of its source, JSON.
        profile: Its size, JSON.
    """

    name: str
    digest: str
    source: str
    profile: str


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
    """The logger of one run. As a context manager it closes the run if the block raises, and removes its folder.

    Args:
        client: A client that retries (:class:`pipeline.tracking.client.Client`).
        run_id: The run's id.
        artifact_uri: The place of its artifacts.
        stored_steps: Of a resumed run, the highest step that the store has of each metric.
        stored_params: Of a resumed run, the parameters that the store has.
        clock: The timestamps of the run.
        check_owner: Called before each write, with ``waits`` of :meth:`flush`. It raises SupersededError if another
            process has taken the run over.

    Attributes:
        is_closed: Whether the store has the run's final status.
    """

    client: Any
    run_id: str
    artifact_uri: str = ""
    stored_steps: Mapping[str, int] = field(default_factory=dict, repr=False)
    stored_params: Mapping[str, str] = field(default_factory=dict, repr=False)
    clock: MonotonicTimestamps = field(default_factory=MonotonicTimestamps, repr=False)
    check_owner: Callable[[bool], None] = field(default=lambda waits: None, repr=False)
    _buffer: list[Point] = field(default_factory=list, repr=False)
    _params: dict[str, str] = field(default_factory=dict, repr=False)
    _tags: dict[str, str] = field(default_factory=dict, repr=False)
    _dataset: LoggedDataset | None = field(default=None, repr=False)
    _last_steps: dict[str, int] = field(default_factory=dict, repr=False)
    _ended: bool = field(default=False, repr=False)
    is_closed: bool = field(default=False, init=False)

    def __enter__(self) -> RunLogger:
        """Return this logger."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or self._ended:
                return
            interrupted = not issubclass(kind, Exception)
            if interrupted:
                signals.acknowledge()
            with contextlib.suppress(Exception):  # the exception of the block matters more
                self.end("KILLED" if interrupted else "FAILED", hurry=interrupted)
        finally:
            self.discard()

    @cached_property
    def _files(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="gradvitals-run-", ignore_cleanup_errors=True)

    @property
    def folder(self) -> Path:
        """The folder whose files become the run's artifacts when the run ends."""
        return Path(self._files.name)

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
            with contextlib.suppress(StoreAwayError):  # training continues; the values stay in the buffer
                self.flush(waits=False)
        return True

    def flush(self, waits: bool = True) -> None:
        """Send the buffered values, parameters, tags and data set. What the store accepts leaves the buffer.

        Args:
            waits: Whether to retry if the store does not answer.

        Raises:
            StoreAwayError: The store does not answer at present; only without ``waits``.
            StoreError: The store refuses, or does not answer.
            SupersededError: Another process has resumed the run.
        """
        while self._buffer or self._params or self._tags:
            self.check_owner(waits)
            points, params, tags = self._buffer[:QUEUE], dict(self._params), dict(self._tags)
            self.client.log(self.run_id, points, params, tags, waits)
            del self._buffer[: len(points)]
            self._params = {k: v for k, v in self._params.items() if k not in params}
            self._tags = {k: v for k, v in self._tags.items() if tags.get(k) != v}
        if self._dataset is not None:
            self.client.log_dataset(self.run_id, self._dataset, waits)
            self._dataset = None

    def discard(self) -> None:
        """Remove the run's folder. Files that were not sent are lost."""
        self._files.cleanup()

    def send(self) -> None:
        """Send everything: the buffer, and the files of the run's folder.

        Raises:
            StoreError: The store refuses, or does not answer.
        """
        self.flush()
        if any(self.folder.iterdir()):
            self.check_owner(True)
            self.client.log_files(self.artifact_uri, self.folder)

    def params(self, params: Mapping[str, Any]) -> None:
        """Buffer flat scalar parameters, except those already stored."""
        self._params |= {k: str(v) for k, v in params.items() if self.stored_params.get(k) != str(v)}

    def dataset(self, dataset: LoggedDataset) -> None:
        """Buffer the data set."""
        self._dataset = dataset

    def tags(self, tags: Mapping[str, str]) -> None:
        """Buffer tags. The tag ``mlflow.note.content`` is the run's description, in Markdown."""
        self._tags |= {k: str(v) for k, v in tags.items()}
        self.keep_whole(tags)

    def keep_whole(self, tags: Mapping[str, str]) -> None:
        """Write the tags that are too long for MLflow to the run's folder."""
        for name, text in whole_texts(tags).items():
            self.text(text, name)

    def text(self, text: str, name: str) -> None:
        """Write a text to the run's folder."""
        (self.folder / name).write_text(text, encoding="utf-8", errors="replace")

    def figure(self, figure: Figure, name: str) -> None:
        """Write a matplotlib figure to the run's folder as a PNG. ``Figure.savefig`` would draw it twice."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(figure)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a name
            canvas.print_png(self.folder / name, pil_kwargs={"compress_level": 1})  # type: ignore[no-untyped-call]

    def file(self, path: Path) -> None:
        """Copy a file to the run's folder."""
        shutil.copyfile(path, self.folder / path.name)

    def end(self, status: str, hurry: bool = False) -> bool:
        """Send everything and close the run. A store that fails is reported, not raised, but for a deleted run.

        Args:
            status: FINISHED, FAILED or KILLED.
            hurry: Whether to give the store one second for all runs, because the user wants to leave. Buffered values
                are not sent after it: the next command resumes the run and sends them.

        Returns:
            Whether the store has all values, all files and the status.

        Raises:
            DeletedError: The run or its experiment was deleted.
            SupersededError: Another process has resumed the run.
        """
        if hurry:
            self.client.retry.set_deadline(LEAVING)
        complete = True
        try:
            if self.client.retry.is_past_deadline:
                complete = False
            else:
                self.send()
        except DeletedError:
            raise
        except StoreError as refusal:
            notify(f"{len(self._buffer)} values of run {self.run_id} could not be stored ({refusal})")
            complete = False
            status = "FAILED" if status == "FINISHED" else status
        try:
            self.check_owner(True)
            self.client.set_terminated(self.run_id, status, end_time=self.clock.now())
            self.is_closed = True
        except DeletedError:
            raise
        except StoreError as refusal:
            notify(f"run {self.run_id} could not be closed as {status} ({refusal})")
            complete = False
        self._ended = True
        if complete:
            self.discard()
        return complete
