"""Read a logged run from a store or from an exported folder. Neither is trusted."""

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
    """The facts of a run, and access to its files by name."""

    @property
    def run_id(self) -> str:
        """Return the id in the store that the run was logged to."""

    @property
    def name(self) -> str:
        """Return the run's name."""

    @property
    def tags(self) -> Mapping[str, str]:
        """Return the run's tags."""

    @property
    def place(self) -> str | None:
        """Return the folder of an exported run; None for a run in a store."""

    def file(self, name: str, to: Path) -> Path | None:
        """Return a file of the run as a local file, downloaded to ``to`` if necessary; None if it does not exist."""


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
        """Return the run with this id, or with an id that starts so.

        Raises:
            ConfigError: There is no store, or no such run.
        """
        tracking.existing_uri()
        store = Store.open(tracking)
        run = store.find(run_id)
        found = str(run.info.run_id)
        files = {a.path for a in store.client.list_artifacts(found)}
        return cls(store, found, str(run.info.run_name or found), dict(run.data.tags), files)

    def file(self, name: str, to: Path) -> Path | None:
        """Download a file; None if it does not exist."""
        return download(self.store, self.run_id, name, to) if name in self.files else None


@dataclass(frozen=True)
class ExportedRun:
    """A run in an exported folder."""

    folder: Path
    run_id: str
    name: str
    tags: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> ExportedRun:
        """Verify the folder and read run.json.

        Raises:
            ConfigError: The folder is not an exported run, or was changed.
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
            raise ConfigError(f"RUN={folder}: has no readable {RUN_FILE}; is it a run that `make export` wrote?{runs}")
        tags = {str(key): str(value) for key, value in about.get("tags", {}).items()}
        return cls(folder, str(about.get("run_id", folder.name)), str(about.get("name", folder.name)), tags)

    @property
    def place(self) -> str:
        """Return the folder."""
        return str(self.folder)

    def file(self, name: str, to: Path) -> Path | None:
        """Return the path of a file; None if it does not exist."""
        return _plain_file(self.folder / name)


def _plain_file(path: Path) -> Path | None:
    """Return the path of a plain file; None for a link, which may point outside the folder."""
    return path if path.is_file() and not path.is_symlink() else None


@dataclass(frozen=True)
class ReplayRun:
    """The parts of a run that a replay or a comparison of trajectories needs.

    Attributes:
        place: The folder of an exported run; None for a run in a store.
        config: The resolved config, YAML.
        records: The records (:mod:`pipeline.training.records`).
        chain: The hash chain; None without a readable one.
        integrity_errors: Signs that the chain was changed after it was logged.
        packages: The content of packages.txt; "" if there is none.
        patch: The content of uncommitted.patch; "" if there is none.
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
        """Return the config as plain data, with ``key=value`` changes applied.

        Raises:
            ConfigError: The config is invalid, or has no such key.
        """
        return config_of(self.config, changes)


def find(run: str, tracking: TrackingConfig) -> RunSource:
    """Return the source of a run: the id of a run in the store, or an exported folder.

    Args:
        run: The id or the folder.
        tracking: The store.

    Raises:
        ConfigError: There is no such run.
    """
    return ExportedRun.read(Path(run)) if Path(run).is_dir() else StoreRun.find(run, tracking)


def load(source: RunSource) -> ReplayRun:
    """Read a run.

    Raises:
        ConfigError: Config or records are missing or not readable.
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
        return None, (f"the run has the tag {HEAD_TAG}, but there is no {CHAIN_FILE}",) if lost else ()
    try:
        chain = LoggedChain.from_table(read_table(path, CHAIN_COLUMNS, name=f"{CHAIN_FILE} of run {source.run_id}"))
    except ConfigError as broken:
        return None, (str(broken),)
    return chain, tuple(chain.integrity_errors(source.tags))
