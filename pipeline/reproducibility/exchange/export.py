"""``make export``: a run or a sweep as a plain folder that can be browsed, verified and reproduced anywhere."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console

from pipeline.errors import ConfigError
from pipeline.reports.run_report import page_of
from pipeline.reports.sweep_report import find_sweep, page_of_sweep, swept_table
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
from pipeline.reproducibility.exchange.stage import checked_target, staged
from pipeline.reproducibility.hash_chain import HEAD_TAG
from pipeline.tracking.logged_run import HEADLINE_PROBES, LoggedRun
from pipeline.tracking.run_logger import Point
from pipeline.tracking.safe_reading import parse_yaml, read_text
from pipeline.tracking.store import Store, TrackingConfig, download
from pipeline.tracking.tags import CONFIG_FILE, RECORDS_FILE

ENDED = ("FINISHED", "FAILED", "KILLED")


def export(run: str | None, sweep: str | None, to: str, tracking: TrackingConfig, console: Console) -> int:
    """Write the folder; prints its place and its seal.

    Args:
        run: a run's id, or its first 8 or more characters.
        sweep: a sweep's id.

    Raises:
        ConfigError: no such run or sweep, one that has not ended, a place that is taken or does not take it.
    """
    if (run is None) == (sweep is None):
        raise ConfigError("export: exactly one of RUN=<run id> and SWEEP=<sweep id> must be given")
    target = checked_target(to)
    tracking.existing_uri()
    store = Store.open(tracking)
    with staged(target) as folder:
        manifest = _sweep(store, str(sweep), folder) if run is None else _run(store, _found(store, run), folder)
    count = f"{len(manifest.files) + 1} files"
    console.print(f"{target}: {manifest.kind} {manifest.id}, {count}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"seal {manifest.seal}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _found(store: Store, run_id: str) -> Any:
    run = store.find(run_id)
    if run.data.tags.get("kind") == "sweep":
        raise ConfigError(
            f"RUN={run_id}: is a sweep's summary; SWEEP={run.data.tags.get('sweep_summary')} is all of it"
        )
    return run


def _run(store: Store, run: Any, folder: Path) -> Manifest:
    """A run's folder."""
    run_id = str(run.info.run_id)
    if run.info.status not in ENDED:
        raise ConfigError(f"RUN={run_id}: is {run.info.status}; a run can be exported when it has ended")
    facts = facts_of(run)
    (folder / RUN_FILE).write_bytes(facts.text())
    there = {a.path for a in store.client.list_artifacts(run_id)}
    if CONFIG_FILE in there:
        _write_config(store, run_id, folder)
    for name in ARTIFACTS:
        if name in there:
            _fetch(store, run_id, name, folder)
    points = [
        Point(key, m.value, m.timestamp, m.step)
        for key in run.data.metrics
        for m in store.client.get_metric_history(run_id, key)
    ]
    write_metrics(points, folder / METRICS_FILE)
    if (folder / RECORDS_FILE).is_file():
        _write_page(folder, page_of(read_run(folder, facts)))
    return _seal(folder, Manifest.of(folder, "run", facts.run_id, facts.tags.get(HEAD_TAG)))


def _write_config(store: Store, run_id: str, folder: Path) -> None:
    """The resolved config without its tracking, which says nothing about the numbers and may hold an address."""
    with tempfile.TemporaryDirectory() as place:
        node = parse_yaml(read_text(download(store, run_id, CONFIG_FILE, Path(place))), CONFIG_FILE)
    kept = {key: value for key, value in node.items() if key != "tracking"}
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")


def _fetch(store: Store, run_id: str, name: str, folder: Path) -> None:
    """An artifact as it is; what calls itself a picture must be one."""
    path = download(store, run_id, name, folder)
    if path.parent != folder or path.is_symlink() or not path.is_file():
        raise ConfigError(f"RUN={run_id}: its artifact {name} is not a plain file")
    if name.endswith(".png") and not is_png(path):
        path.unlink()


def _write_page(folder: Path, html: str) -> None:
    (folder / REPORT_FILE).write_text(html, encoding="utf-8")


def _seal(folder: Path, manifest: Manifest) -> Manifest:
    (folder / MANIFEST_FILE).write_bytes(manifest.text())
    return manifest


def _sweep(store: Store, sweep_id: str, folder: Path) -> Manifest:
    """A sweep's folder: one of each run in it, and what is about all of them."""
    summary, runs = find_sweep(store, sweep_id)
    runs.sort(key=lambda r: (r.info.start_time or 0, facts_of(r).run_id))
    (folder / RUNS).mkdir()
    manifests, logged = [], []
    for run in runs:
        place = folder / RUNS / facts_of(run).run_id
        place.mkdir()
        manifests.append(_run(store, run, place))
        logged.append(read_run(place, RunFacts.read(place / RUN_FILE), HEADLINE_PROBES))
    facts = _sweep_facts(summary, sweep_id, [m.id for m in manifests])
    (folder / SWEEP_FILE).write_bytes(facts.text())
    there = {a.path for a in store.client.list_artifacts(summary.info.run_id)} if summary else set()
    for name in SWEEP_FIGURES:
        if name in there:
            _fetch(store, summary.info.run_id, name, folder)
    if TABLE_FILE in there:
        ids = {str(r.info.run_id): m.id for r, m in zip(runs, manifests, strict=True)}
        with tempfile.TemporaryDirectory() as place_of_table:
            text = read_text(download(store, summary.info.run_id, TABLE_FILE, Path(place_of_table)))
        (folder / TABLE_FILE).write_text(renamed(text, ids), encoding="utf-8")
    write_sweep_page(folder, facts, logged)
    return _seal(folder, Manifest.of(folder, "sweep", facts.sweep))


def _sweep_facts(summary: Any, sweep_id: str, runs: list[str]) -> SweepFacts:
    """Of an imported sweep, what it was imported from."""
    if summary is None:
        return SweepFacts(sweep_id, runs, None)
    tags = summary.data.tags
    if tags.get(IMPORTED) != "true":
        return SweepFacts(sweep_id, runs, facts_of(summary))
    return SweepFacts(tags.get(ORIGIN_SWEEP_ID, sweep_id), runs, facts_of(summary) if ORIGIN_RUN in tags else None)


def write_sweep_page(folder: Path, facts: SweepFacts, logged: Sequence[LoggedRun]) -> None:
    """The report of a sweep from its folder."""
    table = folder / TABLE_FILE
    named = None if facts.summary is None else facts.summary.params.get("swept", "")
    swept = swept_table(named, read_text(table) if table.is_file() else "", logged)
    title = facts.summary.name if facts.summary else f"sweep {facts.sweep}"
    _write_page(folder, page_of_sweep(facts.sweep, title, logged, swept))


def renamed(text: str, ids: dict[str, str]) -> str:
    """A sweep's table with the run ids of another store; rows of other runs, which were replaced, are left out.

    Raises:
        ConfigError: it is not such a table.
    """
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        table = table[table["run_id"].isin(ids)]
        table["run_id"] = table["run_id"].map(ids)
    except (ValueError, KeyError) as broken:
        raise ConfigError(f"{TABLE_FILE}: is not a readable table with run_id") from broken
    return table.to_csv(index=False)
