"""``make verify``: is an exported folder as it was written, and does what is in it hold together?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from pipeline.errors import ConfigError
from pipeline.reports import html
from pipeline.reproducibility.chain_reader import LoggedChain
from pipeline.reproducibility.exchange.facts import RunFacts, SweepFacts
from pipeline.reproducibility.exchange.folder import metrics_table
from pipeline.reproducibility.exchange.manifest import (
    MANIFEST_FILE,
    METRICS_FILE,
    REPORT_FILE,
    RUN_FILE,
    RUNS,
    SWEEP_FILE,
    TABLE_FILE,
    TEXTS,
    Entry,
    Manifest,
    allowed,
    entry,
    is_png,
    plain_files,
)
from pipeline.reproducibility.exchange.stage import reason
from pipeline.reproducibility.hash_chain import CHAIN_COLUMNS, CHAIN_FILE, HEAD_TAG
from pipeline.tracking.safe_reading import parse_yaml, printable, read_table, read_text
from pipeline.tracking.tags import CONFIG_FILE, LAST_STEPS_FILE, RECORDS_FILE

NEEDED = {"run": (RUN_FILE, METRICS_FILE), "sweep": (SWEEP_FILE,)}
MOST_TOLD = 3
LEAST_SEAL = 16
LAST_MILLISECOND = 4_102_444_800_000


@dataclass(frozen=True)
class CheckedRun:
    """A run in a folder that has been checked."""

    folder: Path
    facts: RunFacts
    seal: str


@dataclass(frozen=True)
class Checked:
    """A folder that has been checked.

    Attributes:
        sweep: None for a single run.
    """

    manifest: Manifest
    sweep: SweepFacts | None
    runs: tuple[CheckedRun, ...]


def verify(folder: Path | str, seal: str | None = None) -> None:
    """Check a folder; returns if nothing is wrong.

    Args:
        seal: the one that `make export` printed, or 16 or more of its first characters, learnt elsewhere than from the
            folder.

    Raises:
        ConfigError: in one line, what was changed, is missing, was added or does not hold together.
    """
    check(Path(folder), seal)


def command(folder: str, seal: str | None, console: Console) -> int:
    """``make verify``: prints what was checked.

    Raises:
        ConfigError: as :func:`verify`.
    """
    checked = check(given(folder), seal)
    manifest = checked.manifest
    console.print(
        f"{manifest.kind} {printable(manifest.id)}: all {len(manifest.files) + 1} files are as they were exported, "
        f"{_chains(checked)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    told = "which is the one you gave" if seal else "compare it with the one that the export printed: SEAL=..."
    console.print(f"seal {manifest.seal}, {told}", highlight=False, markup=False, soft_wrap=True)
    return 0


def given(folder: str) -> Path:
    """The folder that was named.

    Raises:
        ConfigError: it cannot be one.
    """
    if not folder or "\0" in folder:
        raise ConfigError("FROM=: must be a folder that `make export` wrote")
    return Path(folder)


def _chains(checked: Checked) -> str:
    count = sum(HEAD_TAG in run.facts.tags for run in checked.runs)
    return f"{count} of {len(checked.runs)} runs with a chain, whose links follow"


def check(folder: Path, seal: str | None = None) -> Checked:
    """As :func:`verify`; returns what is in the folder."""
    try:
        if not folder.expanduser().is_dir():
            raise ConfigError(f"FROM={printable(str(folder))}: no such folder")
        return _check(folder.expanduser(), seal)
    except (OSError, RuntimeError) as refused:
        raise ConfigError(f"FROM={printable(str(folder))}: cannot be read ({printable(reason(refused))})") from refused


def _check(folder: Path, seal: str | None) -> Checked:
    manifest = Manifest.read(folder)
    if seal is not None and not (len(seal) >= LEAST_SEAL and manifest.seal.startswith(seal.strip().lower())):
        raise ConfigError(
            f"SEAL={printable(seal)}: the folder's seal is {manifest.seal}; it is not the export you mean"
        )
    entries = _files(folder, manifest)
    if manifest.kind == "run":
        return Checked(manifest, None, (_run(folder, manifest, entries),))
    facts = SweepFacts.read(folder / SWEEP_FILE)
    if facts.sweep != manifest.id:
        raise ConfigError(f"{SWEEP_FILE}: is of another sweep than {MANIFEST_FILE}")
    there = {path.split("/")[1] for path in entries if path.startswith(f"{RUNS}/")}
    if there != set(facts.runs) or len(there) != len(facts.runs):
        raise ConfigError(f"{SWEEP_FILE}: its runs are not those in {RUNS}/")
    runs = []
    for run_id in facts.runs:
        place, prefix = folder / RUNS / run_id, f"{RUNS}/{run_id}/"
        own = {path.removeprefix(prefix): e for path, e in entries.items() if path.startswith(prefix)}
        try:
            inner = Manifest.read(place)
            if inner.kind != "run" or inner.id != run_id:
                raise ConfigError(f"{MANIFEST_FILE}: is of another run")
            _compare(inner, {path: e for path, e in own.items() if path != MANIFEST_FILE})
            runs.append(_run(place, inner, own))
        except ConfigError as wrong:
            raise ConfigError(f"{prefix}{wrong}") from wrong
    for name in (TABLE_FILE,):
        if name in entries:
            read_text(folder / name)
    _shown_files(folder, entries)
    return Checked(manifest, facts, tuple(runs))


def _files(folder: Path, manifest: Manifest) -> dict[str, Entry]:
    """What is there, held against the manifest."""
    for path in manifest.files:
        if path == MANIFEST_FILE or not allowed(path, manifest.kind):
            raise ConfigError(f"{MANIFEST_FILE}: {printable(path)}: names no file of an export")
    there = [path for path in plain_files(folder) if path != MANIFEST_FILE]
    known = {path for path in there if path in manifest.files}
    entries = {path: entry(folder / path) for path in sorted(known)}
    _compare(manifest, entries | {path: Entry("0" * 64, 0) for path in there if path not in known})
    for name in NEEDED[manifest.kind]:
        if name not in entries:
            raise ConfigError(f"{name}: is missing")
    return entries


def _compare(manifest: Manifest, there: Mapping[str, Entry]) -> None:
    problems = list(_problems(manifest, there))
    if problems:
        more = f" (and {len(problems) - MOST_TOLD} more)" if len(problems) > MOST_TOLD else ""
        raise ConfigError("; ".join(problems[:MOST_TOLD]) + more)


def _problems(manifest: Manifest, there: Mapping[str, Entry]) -> Iterator[str]:
    for path, was in sorted(manifest.files.items()):
        now = there.get(path)
        if now is None:
            yield f"{path}: is missing"
        elif now.size != was.size:
            yield f"{path}: was changed; it has {now.size} bytes, not {was.size}"
        elif now.sha256 != was.sha256:
            yield f"{path}: was changed; its content is another"
    for path in sorted(set(there) - set(manifest.files)):
        yield f"{printable(path)}: was added; the manifest does not know it"


def _run(folder: Path, manifest: Manifest, entries: Mapping[str, Entry]) -> CheckedRun:
    """What is in the files of one run."""
    facts = RunFacts.read(folder / RUN_FILE)
    if facts.run_id != manifest.id or facts.tags.get(HEAD_TAG) != manifest.chain_head:
        raise ConfigError(f"{RUN_FILE}: is of another run, or another chain, than {MANIFEST_FILE}")
    if facts.end < facts.start:
        raise ConfigError(f"{RUN_FILE}: end={facts.end}: is before its start")
    if CONFIG_FILE in entries:
        parse_yaml(read_text(folder / CONFIG_FILE), CONFIG_FILE)
    for name in TEXTS:
        if name in entries:
            read_text(folder / name)
    for name in (RECORDS_FILE, LAST_STEPS_FILE):
        if name in entries:
            read_table(folder / name)
    _metrics(folder)
    if CHAIN_FILE in entries:
        fault = next(LoggedChain.of(read_table(folder / CHAIN_FILE, CHAIN_COLUMNS)).integrity_errors(facts.tags), None)
        if fault is not None:
            raise ConfigError(f"{CHAIN_FILE}: {printable(fault, 300)}")
    elif manifest.chain_head is not None:
        raise ConfigError(f"{CHAIN_FILE}: is missing, but {RUN_FILE} has its head")
    _shown_files(folder, entries)
    return CheckedRun(folder, facts, manifest.seal)


def _metrics(folder: Path) -> None:
    table = metrics_table(folder)
    values = table["value"].to_numpy()
    times, steps = table["timestamp"].to_numpy(), table["step"].to_numpy()
    if not np.isfinite(values).all() or ((times < 0) | (times > LAST_MILLISECOND) | (abs(steps) > 2**53)).any():
        raise ConfigError(f"{METRICS_FILE}: has a value, a time or a step that no run has")


def _shown_files(folder: Path, entries: Mapping[str, Entry]) -> None:
    """Pictures are pictures, and the page is one in which nothing can run."""
    for name in entries:
        if name.endswith(".png") and "/" not in name and not is_png(folder / name):
            raise ConfigError(f"{name}: is no picture")
    if REPORT_FILE in entries and not html.is_inert(read_text(folder / REPORT_FILE)):
        raise ConfigError(f"{REPORT_FILE}: is not a page that `make report` writes")
