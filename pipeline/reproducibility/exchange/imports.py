"""Import an exported folder as runs of the local store.

The contents of a folder are claims of its author, and the imported runs are marked as such: an imported run never
counts as a cell that was run here. Before a run is created, the store is searched for its id and its manifest's digest,
so that a second import creates nothing. An incomplete run lacks the tag of this search, and the next import deletes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import ConfigError
from pipeline.reproducibility.exchange.checking import VerifiedFolder, VerifiedRun, parse_folder, verify
from pipeline.reproducibility.exchange.export import with_run_ids
from pipeline.reproducibility.exchange.facts import (
    IMPORTED,
    LOCAL,
    NOTE,
    ORIGIN_DIGEST,
    ORIGIN_NOTE,
    ORIGIN_RUN,
    ORIGIN_SWEEP,
    ORIGIN_SWEEP_ID,
    RunFacts,
    SweepFacts,
)
from pipeline.reproducibility.exchange.folder import read_metrics
from pipeline.reproducibility.exchange.manifest import (
    ARTIFACTS,
    MANIFEST_FILE,
    SWEEP_FIGURES,
    TABLE_FILE,
    read_entry,
)
from pipeline.tracking.locks import RunLocks
from pipeline.tracking.run_logger import QUEUE, Point, RunLogger
from pipeline.tracking.safe_reading import printable, read_text
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.tracking.tags import CONFIG_FILE, join, verdict_first
from pipeline.wording import command, counted

LONGEST_NOTE = 3_000  # displayed characters of a description
LOCK_TIMEOUT = 60  # seconds


class ImportedRun(NamedTuple):
    """A run of an imported folder.

    Attributes:
        origin_id: The id in the store that the run was logged to.
        run_id: The id in this store.
        is_new: Whether this import created it.
    """

    origin_id: str
    run_id: str
    is_new: bool


@dataclass(frozen=True)
class ImportResult:
    """The runs of an imported folder.

    Attributes:
        sweep: The sweep's id in this store; None for a single run.
    """

    runs: tuple[ImportedRun, ...]
    sweep: str | None

    def lines(self) -> list[str]:
        """Return the result as text."""
        lines = [
            f"run {run.run_id}: imported from {run.origin_id}"
            if run.is_new
            else f"run {run.run_id}: {run.origin_id} was imported before"
            for run in self.runs
        ]
        if self.sweep is not None:
            count = sum(run.is_new for run in self.runs)
            lines.append(f"sweep {self.sweep}: {counted(len(self.runs), 'run')}, {count} of them new")
        return lines


def import_folder(folder: str, seal: str | None, tracking: TrackingConfig) -> ImportResult:
    """Verify an exported folder and create its runs in the store.

    Args:
        folder: The folder.
        seal: The manifest's digest that export printed, or its first 16 or more characters.
        tracking: The store.

    Raises:
        ConfigError: The folder was changed, or the store refuses a run.
    """
    with verified_copy(parse_folder(folder), seal) as verified:
        return _import_runs(Store.open(tracking), verified)


@contextlib.contextmanager
def verified_copy(folder: Path, seal: str | None) -> Iterator[VerifiedFolder]:
    """Verify a folder, copy it, and verify the copy, which no other process can change while it is read.

    Args:
        folder: The folder.
        seal: The manifest's digest, or its first characters.

    Raises:
        ConfigError: The folder was changed, or cannot be copied.
    """
    manifest = verify(folder, seal).manifest
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        for path in [MANIFEST_FILE, *manifest.files]:
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            try:
                read_entry(folder.expanduser() / path, copy / path)
            except OSError as error:
                raise ConfigError(
                    f"FROM={printable(str(folder))}: {printable(path)} cannot be copied ({error})"
                ) from error
        yield verify(copy, manifest.manifest_digest)


def _import_runs(store: Store, verified: VerifiedFolder) -> ImportResult:
    sweep_id = None if verified.sweep is None else f"{IMPORTED}-{verified.manifest.manifest_digest[:12]}"
    runs = []
    for run in verified.runs:
        write = partial(_write_run, store=store, run=run)
        tags = {"kind": "run", **_run_tags(run.facts)}
        run_id, is_new = _create_once(store, run.facts, run.manifest_digest, tags, write)
        join(store, store.client.get_run(run_id), sweep_id)
        runs.append(ImportedRun(run.facts.run_id, run_id, is_new))
    if verified.sweep is not None and sweep_id is not None:
        _import_summary(store, verified, verified.sweep, sweep_id, {run.origin_id: run.run_id for run in runs})
    return ImportResult(tuple(runs), sweep_id)


def _import_summary(
    store: Store, verified: VerifiedFolder, sweep: SweepFacts, sweep_id: str, ids: Mapping[str, str]
) -> None:
    """Create the sweep's summary run, also for a sweep that was exported without one."""
    last = max(run.facts.end for run in verified.runs)
    facts = sweep.summary or RunFacts("0" * 32, f"sweep {sweep.sweep}"[:250], "KILLED", last, last, "", {}, {})
    tags = {"kind": "sweep", "sweep_summary": sweep_id, ORIGIN_SWEEP_ID: sweep.sweep, **_run_tags(facts)}
    if sweep.summary is None:
        tags.pop(ORIGIN_RUN)

    def write(log: RunLogger) -> None:
        folder = verified.runs[0].folder.parent.parent
        table = folder / TABLE_FILE
        if table.is_file():
            log.text(with_run_ids(read_text(table), dict(ids)), TABLE_FILE)
        for name in SWEEP_FIGURES:
            if (folder / name).is_file():
                log.file(folder / name)

    _create_once(store, facts, verified.manifest.manifest_digest, tags, write)


def _create_once(
    store: Store, facts: RunFacts, manifest_digest: str, tags: Mapping[str, str], write: Callable[[RunLogger], None]
) -> tuple[str, bool]:
    """Return the run's id in this store, and whether the run was created."""
    digest = hashlib.sha256(f"{tags['kind']} {facts.run_id} {manifest_digest}".encode()).hexdigest()[:32]
    complete_key, incomplete_key = f"mlflow.{IMPORTED}.{digest}", f"mlflow.importing.{digest}"
    locks = RunLocks.of(store)
    lock = f"import-{digest}"
    with locks.acquire(lock, timeout=LOCK_TIMEOUT) as is_acquired:
        if not is_acquired:
            raise ConfigError(f"run {facts.run_id}: is being imported by another process")
        existing = store.runs_with(complete_key)
        if existing:
            run_id = str(existing[0].info.run_id)
            if existing[0].info.status != facts.status:
                store.client.set_terminated(run_id, facts.status, end_time=facts.end)
            return run_id, False
        for run in store.runs_with(incomplete_key):
            store.client.delete_run(run.info.run_id)
        run_tags = {**verdict_first(tags), ORIGIN_DIGEST: manifest_digest, incomplete_key: "1", **locks.tags(lock)}
        log = store.start(facts.name, run_tags, start_time=facts.start)
        try:
            log.params(facts.params)
            write(log)
            log.send()
            log.tags({complete_key: "1"})
            log.send()
        except BaseException:
            with contextlib.suppress(ConfigError):
                store.client.delete_run(log.run_id)
            raise
        store.client.set_terminated(log.run_id, facts.status, end_time=facts.end)
        return log.run_id, True


def _run_tags(facts: RunFacts) -> dict[str, str]:
    """Return the run's tags without those that have a meaning to a store or to this program."""
    tags = {key: value for key, value in facts.tags.items() if not LOCAL.match(key) and key != "sweep"}
    if "sweep" in facts.tags:
        tags[ORIGIN_SWEEP] = facts.tags["sweep"]
    origin = {IMPORTED: "true", ORIGIN_RUN: facts.run_id, ORIGIN_NOTE: facts.note}
    return {**tags, **origin, NOTE: _note(facts)}


def _note(facts: RunFacts) -> str:
    """Return a description that quotes the run's own as plain text: Markdown and HTML characters are replaced."""
    original = "\n".join(printable(line, LONGEST_NOTE) for line in facts.note.splitlines())
    replacements = {"<": "‹", ">": "›", "&": "＆"}
    original = re.sub(r"[<>&`~]", lambda match: replacements.get(match[0], "'"), original)
    text = (
        f"**Imported from a folder** (run {facts.run_id}). No value was measured by this store's owner; "
        f"`{command('reproduce')}` measures them again."
    )
    return f"{text}\n\nOriginal description:\n\n```\n{original[:LONGEST_NOTE]}\n```" if original.strip() else text


def _write_run(log: RunLogger, store: Store, run: VerifiedRun) -> None:
    points: list[Point] = []
    for key, step, timestamp, value in read_metrics(run.folder).itertuples(index=False):
        points.append(Point(str(key), float(value), int(timestamp), int(step)))
    for at in range(0, len(points), QUEUE):
        store.client.log(log.run_id, points[at : at + QUEUE], {}, {})
    for name in (
        CONFIG_FILE,
        *ARTIFACTS,
    ):  # not the report: an imported page is untrusted
        path = run.folder / name
        if path.is_file():
            log.file(path)
