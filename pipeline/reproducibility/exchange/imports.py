"""``make import``: an exported folder as runs of the local store. What is in it is somebody's word, and shown as such.

A run is looked for by its id and its seal first, so importing twice makes nothing twice. Until it is complete it lacks
the tag by which it is found; what an interruption leaves is removed by the next import. It never counts as a cell that
has been run here.
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

from rich.console import Console

from pipeline.errors import ConfigError
from pipeline.reproducibility.exchange.checking import Checked, CheckedRun, check, given
from pipeline.reproducibility.exchange.export import renamed
from pipeline.reproducibility.exchange.facts import (
    IMPORTED,
    LOCAL,
    NOTE,
    ORIGIN_NOTE,
    ORIGIN_RUN,
    ORIGIN_SEAL,
    ORIGIN_SWEEP,
    ORIGIN_SWEEP_ID,
    RunFacts,
    SweepFacts,
)
from pipeline.reproducibility.exchange.folder import metrics_table
from pipeline.reproducibility.exchange.manifest import (
    ARTIFACTS,
    MANIFEST_FILE,
    SWEEP_FIGURES,
    TABLE_FILE,
    entry,
)
from pipeline.tracking.locks import RunLocks
from pipeline.tracking.run_logger import QUEUE, Point, RunLogger
from pipeline.tracking.safe_reading import printable, read_text
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.tracking.tags import CONFIG_FILE, join

NOTED = 3_000  # characters of a description that are shown


def command(folder: str, seal: str | None, tracking: TrackingConfig, console: Console) -> int:
    """Verify the folder, then make its runs in the store; prints their ids.

    Raises:
        ConfigError: the folder is not as it was exported, or the store does not take it.
    """
    with snapshot(given(folder), seal) as checked:
        store = Store.open(tracking)
        made = import_all(store, checked)
    for line in made.lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


@contextlib.contextmanager
def snapshot(folder: Path, seal: str | None) -> Iterator[Checked]:
    """The folder checked, then copied and the copy checked, so that nobody can change what is read from now on."""
    first = check(folder, seal)
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        for path in [MANIFEST_FILE, *first.manifest.files]:
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            try:
                entry(folder.expanduser() / path, copy / path)
            except OSError as refused:
                raise ConfigError(
                    f"FROM={printable(str(folder))}: {printable(path)} cannot be copied ({refused})"
                ) from refused
        yield check(copy, first.manifest.seal)


@dataclass(frozen=True)
class Made:
    """What an import came to.

    Attributes:
        runs: original id, id here, whether it is new.
        sweep: its id here, None for a single run.
    """

    runs: tuple[tuple[str, str, bool], ...]
    sweep: str | None

    def lines(self) -> Iterator[str]:
        """For the terminal."""
        for origin, run_id, new in self.runs:
            yield f"run {run_id}: imported from {origin}" if new else f"run {run_id}: {origin} was imported before"
        new_ones = sum(new for _, _, new in self.runs)
        if self.sweep is not None:
            yield f"sweep {self.sweep}: {len(self.runs)} runs, {new_ones} of them new"


def import_all(store: Store, checked: Checked) -> Made:
    """Make what is not there yet.

    Args:
        checked: a folder that nobody else can write to.
    """
    sweep = None if checked.sweep is None else f"{IMPORTED}-{checked.manifest.seal[:12]}"
    runs = []
    for run in checked.runs:
        write = partial(_write_run, store=store, run=run)
        run_id, new = _once(store, run.facts, run.seal, {"kind": "run", **_run_tags(run.facts)}, write)
        join(store, store.client.get_run(run_id), sweep)
        runs.append((run.facts.run_id, run_id, new))
    if checked.sweep is not None and sweep is not None:
        _import_summary(store, checked, checked.sweep, sweep, {origin: here for origin, here, _ in runs})
    return Made(tuple(runs), sweep)


def _import_summary(store: Store, checked: Checked, sweep: SweepFacts, sweep_id: str, ids: Mapping[str, str]) -> None:
    """The sweep's own run; one is made for a sweep that had none."""
    last = max(run.facts.end for run in checked.runs)
    facts = sweep.summary or RunFacts("0" * 32, f"sweep {sweep.sweep}"[:250], "KILLED", last, last, "", {}, {})
    tags = {"kind": "sweep", "sweep_summary": sweep_id, ORIGIN_SWEEP_ID: sweep.sweep, **_run_tags(facts)}
    if sweep.summary is None:
        tags.pop(ORIGIN_RUN)

    def write(log: RunLogger) -> None:
        folder = checked.runs[0].folder.parent.parent
        table = folder / TABLE_FILE
        if table.is_file():
            log.text(renamed(read_text(table), dict(ids)), TABLE_FILE)
        for name in SWEEP_FIGURES:
            if (folder / name).is_file():
                log.file(folder / name)

    _once(store, facts, checked.manifest.seal, tags, write)


def _once(
    store: Store, facts: RunFacts, seal: str, tags: Mapping[str, str], write: Callable[[RunLogger], None]
) -> tuple[str, bool]:
    """The run's id here, and whether it had to be made."""
    digest = hashlib.sha256(f"{tags['kind']} {facts.run_id} {seal}".encode()).hexdigest()[:32]
    done, begun = f"mlflow.{IMPORTED}.{digest}", f"mlflow.importing.{digest}"
    locks = RunLocks.of(store)
    lease = f"import-{digest}"
    with locks.acquire(lease, timeout=60) as free:
        if not free:
            raise ConfigError(f"run {facts.run_id}: is being imported by another process")
        there = store.runs_with(done)
        if there:
            run_id = str(there[0].info.run_id)
            if there[0].info.status != facts.status:
                store.client.set_terminated(run_id, facts.status, end_time=facts.end)
            return run_id, False
        for half in store.runs_with(begun):
            store.client.delete_run(half.info.run_id)
        given = {**tags, ORIGIN_SEAL: seal, begun: "1", **locks.tags(lease)}
        log = store.start(facts.name, given, start_time=facts.start)
        try:
            log.params(facts.params)
            write(log)
            log.tags({done: "1"})
        except BaseException:
            with contextlib.suppress(ConfigError):
                store.client.delete_run(log.run_id)
            raise
        store.client.set_terminated(log.run_id, facts.status, end_time=facts.end)
        return log.run_id, True


def _run_tags(facts: RunFacts) -> dict[str, str]:
    """The run's own words, without those that mean something to a store or to this program."""
    tags = {key: value for key, value in facts.tags.items() if not LOCAL.match(key) and key != "sweep"}
    if "sweep" in facts.tags:
        tags[ORIGIN_SWEEP] = facts.tags["sweep"]
    origin = {IMPORTED: "true", ORIGIN_RUN: facts.run_id, ORIGIN_NOTE: facts.note}
    return {**tags, **origin, NOTE: _note(facts)}


def _note(facts: RunFacts) -> str:
    """Our own words, and theirs as plain text: whatever could be Markdown or HTML looks like it, but is not."""
    theirs = "\n".join(printable(line, NOTED) for line in facts.note.splitlines())
    theirs = re.sub(r"[<>&`~]", lambda found: {"<": "‹", ">": "›", "&": "＆"}.get(found[0], "'"), theirs)
    text = f"**Imported from a folder** (run {facts.run_id}). Nothing of it was measured here; `make reproduce` does."
    return f"{text}\n\nIts own description:\n\n```\n{theirs[:NOTED]}\n```" if theirs.strip() else text


def _write_run(log: RunLogger, store: Store, run: CheckedRun) -> None:
    """Metrics and files."""
    points: list[Point] = []
    for key, step, timestamp, value in metrics_table(run.folder).itertuples(index=False):
        points.append(Point(str(key), float(value), int(timestamp), int(step)))
    for at in range(0, len(points), QUEUE):
        store.client.log_points(log.run_id, points[at : at + QUEUE])
    for name in (CONFIG_FILE, *ARTIFACTS):  # never a page: `make report` makes ours
        path = run.folder / name
        if path.is_file():
            log.file(path)
