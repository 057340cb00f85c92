"""Checkpoints: the state of a run on disk, from which it goes on bit for bit after an interruption.

A folder of a run holds a file of records for each stretch between checkpoints, and the newest two states. A state names
the records that belong to it; whatever is damaged is passed over for what came before it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.arrays import Array
from pipeline.config.schema import CheckpointConfig
from pipeline.training import array_files
from pipeline.training.array_files import CorruptFileError
from pipeline.training.divergence import Divergence, FirstNonFinite
from pipeline.training.records import Record
from pipeline.training.trainer import TrainerState, TrainingState

LEAST = 100.0  # checkpoints are at least so many times as far apart as the last one took: at most 1% of the time
KEPT = 2
log = logging.getLogger("gradvitals")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint brings back.

    Attributes:
        state: where training goes on.
        records: all of the steps before it.
        divergences: found before it, each after so many records.
        extra: what else the run wanted to keep, JSON.
    """

    state: TrainingState
    records: list[Record]
    divergences: list[tuple[int, Divergence]]
    extra: Any

    def tell(self, on_record: Callable[[Record], None], on_divergence: Callable[[Divergence], None]) -> None:
        """Everything again, in the order in which it came."""
        left = list(self.divergences)
        for count, record in enumerate(self.records):
            while left and left[0][0] <= count:
                on_divergence(left.pop(0)[1])
            on_record(record)
        for _, divergence in left:
            on_divergence(divergence)


@dataclass
class Checkpoints:
    """A run's checkpoints; a :class:`pipeline.training.loop.Checkpointer`.

    Args:
        folder: of this run alone.
        identity: of the cell; states of another code or config are never gone on from.
        config: how often.
        clock: seconds, ascending.
        extra: what else to keep, asked for at each checkpoint, JSON.
    """

    folder: Path
    identity: str
    config: CheckpointConfig
    clock: Callable[[], float]
    extra: Callable[[], Any] = lambda: None
    _new: list[Record] = field(default_factory=list)
    _count: int = 0
    _divergences: list[tuple[int, Divergence]] = field(default_factory=list)
    _segments: list[str] = field(default_factory=list)
    _last: float = field(init=False)
    _took: float = 0.0
    _failed: bool = False

    def __post_init__(self) -> None:
        self._last = self.clock()

    def record(self, record: Record) -> None:
        """Take note of a record, to be kept with the next state."""
        self._count += 1
        if self.config.seconds is not None:
            self._new.append(record)

    def diverged(self, divergence: Divergence) -> None:
        """Take note of a replicate that has diverged."""
        self._divergences.append((self._count, divergence))

    def due(self, step: int) -> bool:
        """Whether the interval has passed."""
        if self.config.seconds is None or step == 0:
            return False
        return self.clock() - self._last >= max(self.config.seconds, LEAST * self._took)

    def save(self, state: TrainingState) -> None:
        """Write the new records, then the state; a disk that does not take it costs the checkpoint, not the run."""
        begun = self.clock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._new:
                name = f"records-{state.now.step:012d}.npz"
                values, about = array_files.pack(self._new)
                array_files.write(self.folder / name, {"values": values}, about)
                self._segments.append(name)
                self._new = []
            self._write_state(state)
        except OSError as failure:
            if not self._failed:
                log.warning("no checkpoint at step %d: %s", state.now.step, failure)
            self._failed = True
        self._last = self.clock()
        self._took = self._last - begun

    def _write_state(self, state: TrainingState) -> None:
        arrays: dict[str, Array] = {}
        for i, snapshot in enumerate([state.now, *state.recent]):
            arrays |= {f"theta_{i}": snapshot.theta, f"velocity_{i}": snapshot.velocity}
            arrays |= {f"state_{i}_{name}": array for name, array in snapshot.state.items()}
        if state.previous is not None:
            arrays["previous"] = state.previous
        told = []
        for i, (count, divergence) in enumerate(self._divergences):
            arrays[f"last_steps_{i}"], heads = array_files.pack(divergence.last_steps)
            told.append([count, asdict(divergence.finding), heads])
        about = {
            "identity": self.identity,
            "segments": self._segments,
            "steps": [s.step for s in (state.now, *state.recent)],
            "active": list(state.active),
            "known_harmless": [list(h) for h in state.known_harmless],
            "divergences": told,
            "extra": self.extra(),
        }
        array_files.write(self.folder / f"state-{state.now.step:012d}.npz", arrays, about)
        for old in self._states()[KEPT:]:
            old.unlink()

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("state-*.npz"), reverse=True)

    def load(self) -> Checkpoint | None:
        """The newest state that is whole and of this identity; None if there is none. What is damaged is told.

        Newer ones are removed: the records that they speak of are about to be written again.
        """
        passed_over: list[Path] = []
        for path in self._states():
            passed_over.append(path)
            try:
                arrays, about = array_files.read(path)
                if about["identity"] != self.identity:
                    continue
                saved = _saved(self.folder, arrays, about)
            except (CorruptFileError, KeyError, TypeError, AttributeError) as broken:
                log.warning("checkpoint %s is damaged (%s) and passed over", path.name, broken)
                continue
            self._segments = list(about["segments"])
            self._count, self._divergences = len(saved.records), list(saved.divergences)
            for newer in passed_over[:-1]:
                newer.unlink()
            return saved
        self.remove()
        return None

    def remove(self) -> None:
        """The run is over: nothing will go on from here."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _saved(folder: Path, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> Checkpoint:
    steps = about["steps"]
    now, *recent = [_snapshot(arrays, i, step) for i, step in enumerate(steps)]
    known_harmless = tuple((str(probe), int(k)) for probe, k in about["known_harmless"])
    state = TrainingState(now, arrays.get("previous"), tuple(about["active"]), known_harmless, tuple(recent))
    records: list[Record] = []
    for name in about["segments"]:
        parts, heads = array_files.read(folder / Path(str(name)).name)
        records += array_files.unpack(parts["values"], heads)
    divergences = [
        (int(count), Divergence(FirstNonFinite(**finding), array_files.unpack(arrays[f"last_steps_{i}"], heads)))
        for i, (count, finding, heads) in enumerate(about["divergences"])
    ]
    return Checkpoint(state, records, divergences, about["extra"])


def _snapshot(arrays: Mapping[str, Array], i: int, step: int) -> TrainerState:
    prefix = f"state_{i}_"
    state = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    return TrainerState(step, arrays[f"theta_{i}"], arrays[f"velocity_{i}"], state)
