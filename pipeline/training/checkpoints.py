"""Checkpoints: the state of a run on disk, from which an interrupted run resumes bit for bit.

The folder of a run holds files of records (segments), and the newest two states. A state names the segments that belong
to it. A damaged state is skipped in favour of the one before it. A segment is written when there are enough records, or
with a state, so that a long interval between checkpoints needs no memory.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.arrays import Array
from pipeline.config.schema import CheckpointConfig
from pipeline.errors import StoreAwayError
from pipeline.training import array_files
from pipeline.training.array_files import CorruptFileError
from pipeline.training.divergence import Divergence, FirstNonFinite
from pipeline.training.records import Record
from pipeline.training.trainer import TrainerState, TrainingState

INTERVAL_PER_DURATION = (
    100.0  # the interval is at least this multiple of the last checkpoint's duration: 1% of the time
)
KEPT_STATES = 2
SEGMENT_VALUES, SEGMENT_RECORDS = 50_000, 2000  # of a segment; whichever is reached first
log = logging.getLogger("gradvitals")


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
        state: The state from which training resumes.
        segments: The files of all records of earlier steps.
        record_count: Their number.
        divergences: All earlier divergences, each with the number of records before it.
        extra: Other data of the run, JSON.
    """

    state: TrainingState
    segments: tuple[Path, ...]
    record_count: int
    divergences: list[tuple[int, Divergence]]
    extra: Any

    def records(self) -> Iterator[Record]:
        """Yield all records of earlier steps. One segment is in memory at a time.

        Raises:
            CorruptFileError: A segment was damaged after the checkpoint was loaded.
        """
        for path in self.segments:
            yield from _read_segment(path)

    def replay(self, on_record: Callable[[Record], None], on_divergence: Callable[[Divergence], None]) -> None:
        """Pass on all records and divergences in their original order.

        Args:
            on_record: Called for each record.
            on_divergence: Called for each divergence.
        """
        remaining = list(self.divergences)
        for count, record in enumerate(self.records()):
            while remaining and remaining[0][0] <= count:
                on_divergence(remaining.pop(0)[1])
            on_record(record)
        for _, divergence in remaining:
            on_divergence(divergence)


@dataclass
class Checkpoints:
    """Writes and reads the checkpoints of one run; a :class:`pipeline.training.loop.Checkpointer`.

    Args:
        folder: The folder of this run alone.
        fingerprint: Identifies code, config and data. A state with another fingerprint is never resumed.
        config: How often to save.
        clock: Returns ascending seconds.
        extra: Returns other data to save with each checkpoint, JSON.
        cells: Number of cells whose states are saved together.
        is_urgent: Returns whether the training is about to be interrupted, so that a state is due at once.
        check_owner: Called before files are written. It raises SupersededError if another process has taken the run
            over, and StoreAwayError if that cannot be known at present: the files are written later.
    """

    folder: Path
    fingerprint: str
    config: CheckpointConfig
    clock: Callable[[], float]
    extra: Callable[[], Any] = lambda: None
    cells: int = 1
    is_urgent: Callable[[], bool] = lambda: False
    check_owner: Callable[[], None] = lambda: None
    _new_records: list[Record] = field(default_factory=list)
    _new_values: int = 0
    _record_count: int = 0
    _divergences: list[tuple[int, Divergence]] = field(default_factory=list)
    _segments: list[str] = field(default_factory=list)
    _unsynced: list[str] = field(default_factory=list)
    _is_off: bool = field(init=False)
    _last_end: float = field(init=False)
    _last_duration: float = 0.0
    _has_warned: bool = False
    _saved_step: int = 0

    def __post_init__(self) -> None:
        self._last_end = self.clock()
        self._is_off = self.config.seconds is None

    def record(self, record: Record) -> None:
        """Keep a record for the next checkpoint.

        If the disk fails when a segment is due, the run continues without further checkpoints: they would lack records.
        """
        self._record_count += 1
        if self._is_off:
            return
        self._new_records.append(record)
        self._new_values += record.values.size
        if self._new_values >= SEGMENT_VALUES or len(self._new_records) >= SEGMENT_RECORDS:
            try:
                self._write_segment()
            except StoreAwayError:
                pass
            except OSError as failure:
                log.warning("no checkpoints from step %d on: %s", record.step, failure)
                self._is_off = True
                self._new_records = []

    def _write_segment(self) -> None:
        """Write the new records. The next state syncs the file."""
        self.check_owner()
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"records-{self._record_count:012d}.npz"
        values, about = array_files.pack(self._new_records)
        array_files.write(self.folder / name, {"values": values}, about, is_synced=False)
        self._segments.append(name)
        self._unsynced.append(name)
        self._new_records, self._new_values = [], 0

    def diverged(self, divergence: Divergence) -> None:
        """Keep a divergence for the next checkpoint."""
        self._divergences.append((self._record_count, divergence))

    def due(self, step: int) -> bool:
        """Return whether the interval since the last checkpoint has passed."""
        if self._is_off or self.config.seconds is None or step == 0:
            return False
        if self.is_urgent():
            return True
        interval = max(self.config.seconds, INTERVAL_PER_DURATION * self.cells * self._last_duration)
        return self.clock() - self._last_end >= interval

    def is_current(self, step: int) -> bool:
        """Return whether a checkpoint before this step would keep nothing more: it was saved, or there are none."""
        return self._is_off or step in (0, self._saved_step)

    def save(self, state: TrainingState) -> None:
        """Write the new records, then the state. If the disk or the store fails, training continues without it."""
        if self._is_off:  # in a stack, the checkpoint of another cell may be due
            return
        start_time = self.clock()
        try:
            self.check_owner()
            self._saved_step = state.now.step
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._new_records:
                self._write_segment()
            for name in self._unsynced:
                array_files.sync(self.folder / name)
            self._unsynced = []
            self._write_state(state)
        except (OSError, StoreAwayError) as failure:
            if not self._has_warned:
                log.warning("no checkpoint at step %d: %s", state.now.step, failure)
            self._has_warned = True
        self._last_end = self.clock()
        self._last_duration = self._last_end - start_time

    def _write_state(self, state: TrainingState) -> None:
        arrays: dict[str, Array] = {}
        for i, snapshot in enumerate([state.now, *state.recent]):
            arrays |= {f"theta_{i}": snapshot.theta, f"optimizer_state_{i}": snapshot.optimizer_state}
            arrays |= {f"state_{i}_{name}": array for name, array in snapshot.state.items()}
        if state.previous is not None:
            arrays["previous"] = state.previous
        if state.patience is not None:
            arrays["patience"] = state.patience
        divergences = []
        for i, (count, divergence) in enumerate(self._divergences):
            arrays[f"last_steps_{i}"], heads = array_files.pack(divergence.last_steps)
            divergences.append([count, asdict(divergence.finding), heads])
        about = {
            "identity": self.fingerprint,
            "segments": self._segments,
            "steps": [s.step for s in (state.now, *state.recent)],
            "active": list(state.active),
            "known_harmless": [list(h) for h in state.known_harmless],
            "divergences": divergences,
            "extra": self.extra(),
        }
        array_files.write(self.folder / f"state-{state.now.step:012d}.npz", arrays, about)
        for old in self._states()[KEPT_STATES:]:
            old.unlink()

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("state-*.npz"), reverse=True)

    def load(self) -> Checkpoint | None:
        """Return the newest undamaged checkpoint with this fingerprint, or None. Log a warning for each damaged one.

        Newer states and segments are deleted, because their records are about to be written again.
        """
        visited: list[Path] = []
        for path in self._states():
            visited.append(path)
            try:
                arrays, about = array_files.read(path)
                if about["identity"] != self.fingerprint:
                    continue
                checkpoint = _checkpoint(self.folder, arrays, about)
            except (CorruptFileError, KeyError, TypeError, AttributeError) as broken:
                log.warning("checkpoint %s is damaged (%s) and skipped", path.name, broken)
                continue
            self._segments = [segment.name for segment in checkpoint.segments]
            self._record_count, self._divergences = checkpoint.record_count, list(checkpoint.divergences)
            self._saved_step = checkpoint.state.now.step
            for newer in [*visited[:-1], *set(self.folder.glob("records-*.npz")).difference(checkpoint.segments)]:
                newer.unlink()
            return checkpoint
        self.remove()
        return None

    def remove(self) -> None:
        """Delete all checkpoints of the run."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _checkpoint(folder: Path, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> Checkpoint:
    now, *recent = [_snapshot(arrays, i, step) for i, step in enumerate(about["steps"])]
    known_harmless = tuple((str(probe), int(k)) for probe, k in about["known_harmless"])
    state = TrainingState(
        now,
        arrays.get("previous"),
        tuple(about["active"]),
        known_harmless,
        tuple(recent),
        arrays.get("patience"),
    )
    segments = tuple(folder / Path(str(name)).name for name in about["segments"])
    record_count = sum(len(_read_segment(path)) for path in segments)
    divergences = [
        (int(count), Divergence(FirstNonFinite(**finding), array_files.unpack(arrays[f"last_steps_{i}"], heads)))
        for i, (count, finding, heads) in enumerate(about["divergences"])
    ]
    return Checkpoint(state, segments, record_count, divergences, about["extra"])


def _read_segment(path: Path) -> list[Record]:
    parts, heads = array_files.read(path)
    return array_files.unpack(parts["values"], heads)


def _snapshot(arrays: Mapping[str, Array], i: int, step: int) -> TrainerState:
    prefix = f"state_{i}_"
    state = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    return TrainerState(step, arrays[f"theta_{i}"], arrays[f"optimizer_state_{i}"], state)
