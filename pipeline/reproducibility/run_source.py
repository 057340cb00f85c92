"""Find the run to replay or to compare: in a store by its id, or in the folder that it was exported to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.reproducibility.chain_reader import LoggedChain
from pipeline.reproducibility.exchange.checking import verify
from pipeline.reproducibility.exchange.facts import RunFacts
from pipeline.reproducibility.exchange.folder import read_run
from pipeline.reproducibility.hash_chain import CHAIN_COLUMNS, CHAIN_FILE, HEAD_TAG
from pipeline.tracking.logged_run import LoggedRun
from pipeline.tracking.safe_reading import read_table
from pipeline.tracking.store import Store
from pipeline.tracking.tags import CONFIG_FILE, RECORDS_FILE
from pipeline.tracking.uri import TrackingConfig

RUN_FILE = "run.json"


class ReplayRun(LoggedRun):
    """A logged run with its hash chain."""

    @cached_property
    def _chain(self) -> tuple[LoggedChain | None, tuple[str, ...]]:
        return read_chain(self)

    @property
    def chain(self) -> LoggedChain | None:
        """Its hash chain, None if it has none that is readable."""
        return self._chain[0]

    @property
    def integrity_errors(self) -> tuple[str, ...]:
        """What shows that the chain is not as it was logged."""
        return self._chain[1]


def find(run: str, tracking: TrackingConfig, required: Sequence[str] = (CONFIG_FILE, RECORDS_FILE)) -> ReplayRun:
    """Return a run by its id, or by the folder that it was exported to.

    Args:
        run: The id, its first 8 or more characters, or the folder.
        tracking: The store, for an id.
        required: The artifacts that it must have.

    Returns:
        The run.

    Raises:
        ConfigError: No such store, run or folder; a folder that is not as it was exported; a required artifact is
            missing; no readable records.
    """
    logged = _exported(Path(run)) if Path(run).is_dir() else _stored(run, tracking)
    logged.require(*required)
    _ = logged.records  # unreadable records must be refused before any training
    return logged


def read_chain(run: LoggedRun) -> tuple[LoggedChain | None, tuple[str, ...]]:
    """Return a run's hash chain, None without a readable one, and what shows that it is not as it was logged."""
    if not run.files.has(CHAIN_FILE):
        is_lost = HEAD_TAG in run.tags
        return None, (f"the run's tag {HEAD_TAG} speaks of one, but there is no {CHAIN_FILE}",) if is_lost else ()
    try:
        with run.files.open(CHAIN_FILE) as path:
            chain = LoggedChain.from_table(read_table(path, CHAIN_COLUMNS, name=f"{CHAIN_FILE} of run {run.run_id}"))
    except ConfigError as refusal:
        return None, (str(refusal),)
    return chain, tuple(chain.integrity_errors(run.tags))


def _stored(run_id: str, tracking: TrackingConfig) -> ReplayRun:
    tracking.existing_uri()
    store = Store.open(tracking)
    return ReplayRun.from_store(store, store.find(run_id))


def _exported(folder: Path) -> ReplayRun:
    verify(folder)
    path = folder / RUN_FILE
    if not path.is_file():
        runs = "; a sweep's runs are in its folder runs" if (folder / "runs").is_dir() else ""
        raise ConfigError(f"run {folder}: has no readable {RUN_FILE}, as a run has that export wrote{runs}")
    return ReplayRun(**vars(read_run(folder, RunFacts.read(path))))
