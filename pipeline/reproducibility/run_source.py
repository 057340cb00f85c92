"""A logged run wherever it is: in a store, or in a folder that was exported. Neither is trusted."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from pipeline.errors import ConfigError
from pipeline.reproducibility.chain_reader import LoggedChain
from pipeline.reproducibility.hash_chain import CHAIN_COLUMNS, CHAIN_FILE, HEAD_TAG
from pipeline.tracking.logged_run import config_of
from pipeline.tracking.safe_reading import read_table, read_text
from pipeline.tracking.store import Store, download
from pipeline.tracking.tags import CONFIG_FILE, RECORDS_FILE
from pipeline.tracking.uri import TrackingConfig
from pipeline.training.records import COLUMNS

RUN_FILE, PACKAGES_FILE, PATCH_FILE = "run.json", "packages.txt", "uncommitted.patch"


class RunSource(Protocol):
    """A run's facts, and its files by name."""

    @property
    def run_id(self) -> str:
        """Its id in the store that it was logged to."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def tags(self) -> Mapping[str, str]:
        """What it says of itself."""

    @property
    def place(self) -> str | None:
        """The folder it lies in; None for a run in a store."""

    def file(self, name: str, to: Path) -> Path | None:
        """One of its files as a local file, in ``to`` if need be; None if it has none of this name."""


@dataclass(frozen=True)
class StoreRun:
    """A run in a store."""

    store: Store
    run_id: str
    name: str
    tags: Mapping[str, str]
    files: Collection[str]
    place: None = None

    @classmethod
    def find(cls, run_id: str, tracking: TrackingConfig) -> StoreRun:
        """By its id or the beginning of it.

        Raises:
            ConfigError: no store there, no such run.
        """
        tracking.existing_uri()
        store = Store.open(tracking)
        run = store.find(run_id)
        found = str(run.info.run_id)
        files = {a.path for a in store.client.list_artifacts(found)}
        return cls(store, found, str(run.info.run_name or found), dict(run.data.tags), files)

    def file(self, name: str, to: Path) -> Path | None:
        """Downloaded."""
        return download(self.store, self.run_id, name, to) if name in self.files else None


@dataclass(frozen=True)
class ExportedRun:
    """A run in a folder."""

    folder: Path
    run_id: str
    name: str
    tags: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> ExportedRun:
        """Read run.json, once the folder has been held against its manifest.

        Raises:
            ConfigError: it is not an exported run, or was tampered with.
        """
        from pipeline.reproducibility.exchange import verify

        verify(folder)
        path = _plain_file(folder / RUN_FILE)
        try:
            about = json.loads(path.read_text(encoding="utf-8")) if path else None
        except (OSError, ValueError, RecursionError):
            about = None
        if not isinstance(about, dict) or not isinstance(about.get("tags", {}), dict):
            runs = "; a sweep's runs are in its folder runs" if (folder / "runs").is_dir() else ""
            raise ConfigError(f"RUN={folder}: has no readable {RUN_FILE}, as a run has that `make export` wrote{runs}")
        tags = {str(key): str(value) for key, value in about.get("tags", {}).items()}
        return cls(folder, str(about.get("run_id", folder.name)), str(about.get("name", folder.name)), tags)

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.folder)

    def file(self, name: str, to: Path) -> Path | None:
        """As it lies there."""
        return _plain_file(self.folder / name)


def _plain_file(path: Path) -> Path | None:
    """The path, if an ordinary file is there: a link may lead anywhere."""
    return path if path.is_file() and not path.is_symlink() else None


@dataclass(frozen=True)
class ReplayRun:
    """All that a replay or a comparison of trajectories needs of a run.

    Attributes:
        place: the folder of an exported run, None for one in a store.
        config: the resolved config, YAML.
        records: its records (:mod:`pipeline.training.records`).
        chain: its chain; None for a run that has none that is readable.
        integrity_errors: what shows that the chain is not as it was logged.
        packages: packages.txt, "" if there is none.
        patch: uncommitted.patch, "" if there is none.
    """

    run_id: str
    name: str
    tags: Mapping[str, str]
    place: str | None
    config: str
    records: pd.DataFrame
    chain: LoggedChain | None
    integrity_errors: tuple[str, ...]
    packages: str
    patch: str

    def node(self, changes: Sequence[str] = ()) -> dict[str, Any]:
        """The config as plain data, with ``key=value`` changes applied.

        Raises:
            ConfigError: not such a config, or a change that does not fit it.
        """
        return config_of(self.config, changes)


def find(run: str, tracking: TrackingConfig) -> RunSource:
    """A run by its id in the store, or by the folder it was exported to.

    Raises:
        ConfigError: neither.
    """
    return ExportedRun.read(Path(run)) if Path(run).is_dir() else StoreRun.find(run, tracking)


def load(source: RunSource) -> ReplayRun:
    """Read what the source has.

    Raises:
        ConfigError: no config or no records, or such as cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        config, records = _must(source, CONFIG_FILE, place), _must(source, RECORDS_FILE, place)
        text = read_text(config)
        chain, integrity_errors = _trail(source, place)
        table = read_table(records, COLUMNS, name=f"{RECORDS_FILE} of run {source.run_id}")
        notes = [source.file(name, place) for name in (PACKAGES_FILE, PATCH_FILE)]
        packages, patch = (read_text(p) if p else "" for p in notes)
    return ReplayRun(
        source.run_id, source.name, source.tags, source.place, text, table, chain, integrity_errors, packages, patch
    )


def _must(source: RunSource, name: str, to: Path) -> Path:
    found = source.file(name, to)
    if found is None:
        raise ConfigError(f"RUN={source.run_id}: has no artifact {name} (is it a finished gradvitals run?)")
    return found


def _trail(source: RunSource, to: Path) -> tuple[LoggedChain | None, tuple[str, ...]]:
    path = source.file(CHAIN_FILE, to)
    if path is None:
        lost = HEAD_TAG in source.tags
        return None, (f"the run's tag {HEAD_TAG} speaks of one, but there is no {CHAIN_FILE}",) if lost else ()
    try:
        chain = LoggedChain.of(read_table(path, CHAIN_COLUMNS, name=f"{CHAIN_FILE} of run {source.run_id}"))
    except ConfigError as broken:
        return None, (str(broken),)
    return chain, tuple(chain.integrity_errors(source.tags))
