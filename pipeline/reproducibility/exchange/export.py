"""Export a run or a sweep as a plain folder that can be read, verified and reproduced without its store."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pipeline.errors import ConfigError
from pipeline.reports.run_report import page_of
from pipeline.reports.sweep_report import find_sweep, page_of_sweep, swept_table
from pipeline.reproducibility.exchange.checking import verify
from pipeline.reproducibility.exchange.facts import (
    IMPORTED,
    ORIGIN_RUN,
    ORIGIN_SWEEP_ID,
    RunFacts,
    SweepFacts,
    facts_of,
)
from pipeline.reproducibility.exchange.folder import read_run, write_metrics
from pipeline.reproducibility.exchange.manifest import (
    ARTIFACTS,
    MANIFEST_FILE,
    METRICS_FILE,
    REPORT_FILE,
    RUN_FILE,
    RUNS,
    SWEEP_FIGURES,
    SWEEP_FILE,
    TABLE_FILE,
    Manifest,
    is_png,
)
from pipeline.reproducibility.exchange.stage import parse_target, staging_dir
from pipeline.reproducibility.hash_chain import HEAD_TAG
from pipeline.tracking.logged_run import HEADLINE_PROBES, LoggedRun
from pipeline.tracking.run_logger import Point
from pipeline.tracking.safe_reading import parse_yaml, read_text
from pipeline.tracking.store import Store, TrackingConfig, download
from pipeline.tracking.tags import CONFIG_FILE, RECORDS_FILE
from pipeline.wording import option

ENDED = ("FINISHED", "FAILED", "KILLED")


@dataclass(frozen=True)
class ExportResult:
    """An exported folder and its manifest."""

    folder: Path
    manifest: Manifest

    def lines(self) -> list[str]:
        """Return the result as text."""
        manifest = self.manifest
        return [
            f"{self.folder}: {manifest.kind} {manifest.id}, {len(manifest.files) + 1} files",
            f"seal {manifest.manifest_digest}",
        ]


def export(run: str | None, sweep: str | None, to: str, tracking: TrackingConfig) -> ExportResult:
    """Export a run or a sweep.

    Args:
        run: The run's id, or its first 8 or more characters.
        sweep: The sweep's id; exactly one of ``run`` and ``sweep`` is given.
        to: The folder to write.
        tracking: The store.

    Raises:
        ConfigError: There is no such run or sweep, it has not ended, or the folder cannot be written.
    """
    if (run is None) == (sweep is None):
        one_of = f"{option('run', '<run id>')} and {option('sweep', '<sweep id>')}"
        raise ConfigError(f"export: exactly one of {one_of} must be given")
    target = parse_target(to)
    tracking.existing_uri()
    store = Store.open(tracking)
    with staging_dir(target) as folder:
        if run is None:
            manifest = _write_sweep(store, str(sweep), folder)
        else:
            manifest = _write_run(store, _find_run(store, run), folder)
        try:
            verify(folder)
        except ConfigError as refusal:
            name = f"sweep {sweep}" if run is None else f"run {run}"
            raise ConfigError(f"{name}: cannot be exported: {refusal}") from refusal
    return ExportResult(target, manifest)


def _find_run(store: Store, run_id: str) -> Any:
    run = store.find(run_id)
    if run.data.tags.get("kind") == "sweep":
        its_export = option("sweep", str(run.data.tags.get("sweep_summary")))
        raise ConfigError(f"run {run_id}: is the summary of a sweep; export the sweep with {its_export}")
    return run


def _write_run(store: Store, run: Any, folder: Path) -> Manifest:
    run_id = str(run.info.run_id)
    if run.info.status not in ENDED:
        raise ConfigError(f"run {run_id}: is {run.info.status}; allowed: {', '.join(ENDED)}")
    facts = facts_of(run)
    (folder / RUN_FILE).write_bytes(facts.text())
    names = {a.path for a in store.client.list_artifacts(run_id)}
    if CONFIG_FILE in names:
        _write_config(store, run_id, folder)
    for name in ARTIFACTS:
        if name in names:
            _download_artifact(store, run_id, name, folder)
    points = [
        Point(key, m.value, m.timestamp, m.step)
        for key in run.data.metrics
        for m in store.client.get_metric_history(run_id, key)
    ]
    write_metrics(points, folder / METRICS_FILE)
    if (folder / RECORDS_FILE).is_file():
        _write_report(folder, page_of(read_run(folder, facts)))
    return _write_manifest(folder, Manifest.from_folder(folder, "run", facts.run_id, facts.tags.get(HEAD_TAG)))


def _write_config(store: Store, run_id: str, folder: Path) -> None:
    """Write the config without its tracking section, which does not affect results and may hold a server's address."""
    with tempfile.TemporaryDirectory() as place:
        raw_config = parse_yaml(read_text(download(store, run_id, CONFIG_FILE, Path(place))), CONFIG_FILE)
    kept = {key: value for key, value in raw_config.items() if key != "tracking"}
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")


def _download_artifact(store: Store, run_id: str, name: str, folder: Path) -> None:
    """Download an artifact unchanged; a .png file that is not a PNG is left out."""
    path = download(store, run_id, name, folder)
    if path.parent != folder or path.is_symlink() or not path.is_file():
        raise ConfigError(f"run {run_id}: its artifact {name} is not a plain file")
    if name.endswith(".png") and not is_png(path):
        path.unlink()


def _write_report(folder: Path, page: str) -> None:
    (folder / REPORT_FILE).write_text(page, encoding="utf-8")


def _write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    (folder / MANIFEST_FILE).write_bytes(manifest.text())
    return manifest


def _write_sweep(store: Store, sweep_id: str, folder: Path) -> Manifest:
    """Write one folder for each run, and the sweep's own files."""
    summary, runs = find_sweep(store, sweep_id)
    runs.sort(key=lambda r: (r.info.start_time or 0, facts_of(r).run_id))
    (folder / RUNS).mkdir()
    manifests, logged = [], []
    for run in runs:
        run_folder = folder / RUNS / facts_of(run).run_id
        run_folder.mkdir()
        manifests.append(_write_run(store, run, run_folder))
        logged.append(read_run(run_folder, RunFacts.read(run_folder / RUN_FILE), HEADLINE_PROBES))
    facts = _sweep_facts(summary, sweep_id, [m.id for m in manifests])
    (folder / SWEEP_FILE).write_bytes(facts.text())
    names = {a.path for a in store.client.list_artifacts(summary.info.run_id)} if summary else set()
    for name in SWEEP_FIGURES:
        if name in names:
            _download_artifact(store, summary.info.run_id, name, folder)
    if TABLE_FILE in names:
        ids = {str(r.info.run_id): m.id for r, m in zip(runs, manifests, strict=True)}
        with tempfile.TemporaryDirectory() as place:
            text = read_text(download(store, summary.info.run_id, TABLE_FILE, Path(place)))
        (folder / TABLE_FILE).write_text(with_run_ids(text, ids), encoding="utf-8")
    write_sweep_report(folder, facts, logged)
    return _write_manifest(folder, Manifest.from_folder(folder, "sweep", facts.sweep))


def _sweep_facts(summary: Any, sweep_id: str, runs: list[str]) -> SweepFacts:
    """Return the sweep's facts; for an imported sweep, those of its origin."""
    if summary is None:
        return SweepFacts(sweep_id, runs, None)
    tags = summary.data.tags
    if tags.get(IMPORTED) != "true":
        return SweepFacts(sweep_id, runs, facts_of(summary))
    return SweepFacts(tags.get(ORIGIN_SWEEP_ID, sweep_id), runs, facts_of(summary) if ORIGIN_RUN in tags else None)


def write_sweep_report(folder: Path, facts: SweepFacts, logged: Sequence[LoggedRun]) -> None:
    """Write the report of a sweep from the files of its folder.

    Args:
        folder: The sweep's folder.
        facts: The sweep's facts.
        logged: The sweep's runs.
    """
    table = folder / TABLE_FILE
    swept_keys = None if facts.summary is None else facts.summary.params.get("swept", "")
    swept = swept_table(swept_keys, read_text(table) if table.is_file() else "", logged)
    title = facts.summary.name if facts.summary else f"sweep {facts.sweep}"
    _write_report(folder, page_of_sweep(facts.sweep, title, logged, swept))


def with_run_ids(text: str, ids: dict[str, str]) -> str:
    """Return a sweep's table with other run ids; rows of runs without a new id, which were replaced, are dropped.

    Args:
        text: The table as CSV.
        ids: New run id by old run id.

    Raises:
        ConfigError: The text is not such a table.
    """
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        table = table[table["run_id"].isin(ids)]
        table["run_id"] = table["run_id"].map(ids)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{TABLE_FILE}: is not a readable table with a column run_id") from error
    return table.to_csv(index=False)
