"""Verify that an exported folder is unchanged and that its contents are consistent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import ConfigError
from pipeline.reports import html
from pipeline.reproducibility.chain_reader import LoggedChain
from pipeline.reproducibility.exchange.facts import RunFacts, SweepFacts, is_key
from pipeline.reproducibility.exchange.folder import read_metrics
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
    is_allowed,
    is_png,
    plain_files,
    read_entry,
)
from pipeline.reproducibility.exchange.stage import reason
from pipeline.reproducibility.hash_chain import CHAIN_COLUMNS, CHAIN_FILE, HEAD_TAG
from pipeline.tracking.safe_reading import parse_yaml, printable, read_table, read_text
from pipeline.tracking.tags import CONFIG_FILE, LAST_STEPS_FILE, RECORDS_FILE
from pipeline.training import parameter_file
from pipeline.training.parameter_file import PARAMETERS_FILE
from pipeline.wording import counted

REQUIRED = {"run": (RUN_FILE, METRICS_FILE), "sweep": (SWEEP_FILE,)}
MOST_PROBLEMS = 3  # in one message
SHORTEST_SEAL = 16  # characters
LAST_MILLISECOND = 4_102_444_800_000  # since 1970: the start of 2100
MISSING_ENTRY = Entry("0" * 64, 0)


@dataclass(frozen=True)
class VerifiedRun:
    """A run in a verified folder."""

    folder: Path
    facts: RunFacts
    manifest_digest: str


@dataclass(frozen=True)
class VerifiedFolder:
    """A verified folder.

    Attributes:
        sweep: None for a single run.
        has_expected_seal: Whether the caller passed the seal; False if there was none to compare with.
    """

    manifest: Manifest
    sweep: SweepFacts | None
    runs: tuple[VerifiedRun, ...]
    has_expected_seal: bool

    def lines(self) -> list[str]:
        """Return the result as text."""
        manifest = self.manifest
        chains = sum(HEAD_TAG in run.facts.tags for run in self.runs)
        comparison = "as given" if self.has_expected_seal else "compare it with the seal that export printed"
        return [
            f"{manifest.kind} {printable(manifest.id)}: all {len(manifest.files) + 1} files are as exported, "
            f"{chains} of {counted(len(self.runs), 'run')} with a valid hash chain",
            f"seal {manifest.manifest_digest}: {comparison}",
        ]


def verify(folder: Path | str, seal: str | None = None) -> VerifiedFolder:
    """Check every file of an exported folder, and that its contents are consistent.

    Args:
        folder: The folder.
        seal: The manifest's digest that export printed, or its first 16 or more characters.

    Raises:
        ConfigError: A file was changed, is missing, was added or is inconsistent.
    """
    path = parse_folder(folder)
    name = printable(str(path))
    try:
        if not path.expanduser().is_dir():
            raise ConfigError(f"FROM={name}: no such folder")
        return _verify(path.expanduser(), seal)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"FROM={name}: cannot be read ({printable(reason(error))})") from error


def parse_folder(folder: Path | str) -> Path:
    """Return the folder as a path.

    Raises:
        ConfigError: The text is not a path.
    """
    if not str(folder) or "\0" in str(folder):
        raise ConfigError("FROM=: is no path; allowed: a folder that export wrote")
    return Path(folder)


def _verify(folder: Path, seal: str | None) -> VerifiedFolder:
    manifest = Manifest.read(folder)
    if seal is not None and not _matches(manifest, seal):
        raise ConfigError(
            f"SEAL={printable(seal)}: this folder is another export; its seal is {manifest.manifest_digest}"
        )
    entries = _verified_entries(folder, manifest)
    if manifest.kind == "run":
        runs, facts = [_verify_run(folder, manifest, entries)], None
    else:
        facts = _verify_sweep(folder, manifest, entries)
        runs = [_verify_run_of_sweep(folder, run_id, entries) for run_id in facts.runs]
    return VerifiedFolder(manifest, facts, tuple(runs), seal is not None)


def _matches(manifest: Manifest, seal: str) -> bool:
    return len(seal) >= SHORTEST_SEAL and manifest.manifest_digest.startswith(seal.strip().lower())


def _verify_sweep(folder: Path, manifest: Manifest, entries: Mapping[str, Entry]) -> SweepFacts:
    facts = SweepFacts.read(folder / SWEEP_FILE)
    if facts.sweep != manifest.id:
        raise ConfigError(f"{SWEEP_FILE}: is of another sweep than {MANIFEST_FILE}")
    run_ids = {path.split("/")[1] for path in entries if path.startswith(f"{RUNS}/")}
    if run_ids != set(facts.runs) or len(run_ids) != len(facts.runs):
        raise ConfigError(f"{SWEEP_FILE}: its runs are not those in {RUNS}/")
    if TABLE_FILE in entries:
        read_text(folder / TABLE_FILE)
    _verify_displayed_files(folder, entries)
    return facts


def _verify_run_of_sweep(folder: Path, run_id: str, entries: Mapping[str, Entry]) -> VerifiedRun:
    run_folder, prefix = folder / RUNS / run_id, f"{RUNS}/{run_id}/"
    run_entries = {path.removeprefix(prefix): e for path, e in entries.items() if path.startswith(prefix)}
    try:
        manifest = Manifest.read(run_folder)
        if manifest.kind != "run" or manifest.id != run_id:
            raise ConfigError(f"{MANIFEST_FILE}: is of another run")
        _compare(manifest, {path: e for path, e in run_entries.items() if path != MANIFEST_FILE})
        return _verify_run(run_folder, manifest, run_entries)
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from error


def _verified_entries(folder: Path, manifest: Manifest) -> dict[str, Entry]:
    """Return the entries of all files, which match the manifest."""
    for path in manifest.files:
        if path == MANIFEST_FILE or not is_allowed(path, manifest.kind):
            raise ConfigError(f"{MANIFEST_FILE}: {printable(path)}: names no file of an export")
    paths = [path for path in plain_files(folder) if path != MANIFEST_FILE]
    entries = {path: read_entry(folder / path) for path in sorted(paths) if path in manifest.files}
    _compare(manifest, entries | {path: MISSING_ENTRY for path in paths if path not in manifest.files})
    for name in REQUIRED[manifest.kind]:
        if name not in entries:
            raise ConfigError(f"{name}: is missing")
    return entries


def _compare(manifest: Manifest, entries: Mapping[str, Entry]) -> None:
    problems = list(_problems(manifest, entries))
    if problems:
        more = f" (and {len(problems) - MOST_PROBLEMS} more)" if len(problems) > MOST_PROBLEMS else ""
        raise ConfigError("; ".join(problems[:MOST_PROBLEMS]) + more)


def _problems(manifest: Manifest, entries: Mapping[str, Entry]) -> Iterator[str]:
    for path, expected in sorted(manifest.files.items()):
        actual = entries.get(path)
        if actual is None:
            yield f"{path}: is missing"
        elif actual.size != expected.size:
            yield f"{path}: was changed; it has {actual.size} bytes, not {expected.size}"
        elif actual.sha256 != expected.sha256:
            yield f"{path}: was changed; its SHA-256 is not that of the manifest"
    for path in sorted(set(entries) - set(manifest.files)):
        yield f"{printable(path)}: was added; it is not in the manifest"


def _verify_run(folder: Path, manifest: Manifest, entries: Mapping[str, Entry]) -> VerifiedRun:
    """Check that the files of one run are readable and consistent."""
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
    if PARAMETERS_FILE in entries:
        parameter_file.check(folder / PARAMETERS_FILE)
    _verify_metrics(folder)
    _verify_chain(folder, manifest, facts, CHAIN_FILE in entries)
    _verify_displayed_files(folder, entries)
    return VerifiedRun(folder, facts, manifest.manifest_digest)


def _verify_chain(folder: Path, manifest: Manifest, facts: RunFacts, exists: bool) -> None:
    if exists:
        chain = LoggedChain.from_table(read_table(folder / CHAIN_FILE, CHAIN_COLUMNS))
        error = next(chain.integrity_errors(facts.tags), None)
        if error is not None:
            raise ConfigError(f"{CHAIN_FILE}: {printable(error, 300)}")
    elif manifest.chain_head is not None:
        raise ConfigError(f"{CHAIN_FILE}: is missing, but {RUN_FILE} has its head")


def _verify_metrics(folder: Path) -> None:
    table = read_metrics(folder)
    for key in table["key"].unique():
        if not isinstance(key, str) or not is_key(key):
            raise ConfigError(f"{METRICS_FILE}: {printable(str(key))}: is no key of a metric")
    values = table["value"].to_numpy()
    times, steps = table["timestamp"].to_numpy(), table["step"].to_numpy()
    if not np.isfinite(values).all() or ((times < 0) | (times > LAST_MILLISECOND) | (abs(steps) > 2**53)).any():
        raise ConfigError(f"{METRICS_FILE}: has a value, a time or a step that no run has")


def _verify_displayed_files(folder: Path, entries: Mapping[str, Entry]) -> None:
    """Check that figures are PNG files, and that the report is a page in which no script can run."""
    for name in entries:
        if name.endswith(".png") and "/" not in name and not is_png(folder / name):
            raise ConfigError(f"{name}: is no PNG file")
    if REPORT_FILE in entries and not html.is_inert(read_text(folder / REPORT_FILE)):
        raise ConfigError(f"{REPORT_FILE}: is not a page that report writes")
