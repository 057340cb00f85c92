"""Names of the tags and files that a run has in the store, and of the sweeps it belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import ConfigError
from pipeline.tracking.store import Store

CONFIG_FILE = "config.yaml"


RECORDS_FILE = "records.parquet"


THEORY_FILE = "theory.json"


DIVERGENCE_FILE, LAST_STEPS_FILE = "divergence.json", "last_steps.parquet"


PRUNED_TAG, PRUNED_STEP_TAG = "pruned", "pruned_at_step"


SWEEP_TAG, COMMAND_TAG, ATTEMPTS_TAG = "sweep", "command", "attempts"


def sweeps_of(tags: Mapping[str, str]) -> list[str]:
    """The ids of all sweeps that a run belongs to."""
    return tags.get(SWEEP_TAG, "").split()


def in_sweep(sweep_id: str) -> str:
    """The filter that finds the runs of a sweep, here and in MLflow's search box.

    Raises:
        ConfigError: not a sweep's id.
    """
    if not re.fullmatch(r"[^'\"`\\%\s]+", sweep_id):
        raise ConfigError(f"SWEEP={sweep_id}: must be a sweep's id, as make sweep printed it")
    return f"tags.{SWEEP_TAG} LIKE '%{sweep_id}%'"


def replace(store: Store, runs: Sequence[Any], by: Any | None, sweep_id: str | None) -> None:
    """Of a cell's runs, one is the sweep's (None: one that is about to begin); no other goes on or counts there."""
    for run in runs:
        if by is not None and run.info.run_id == by.info.run_id:
            join(store, run, sweep_id)
        else:
            leave(store, run, sweep_id)


def join(store: Store, run: Any, sweep_id: str | None) -> None:
    """Make a run one of this sweep's, too."""
    ids = sweeps_of(run.data.tags)
    if sweep_id and sweep_id not in ids:
        store.tag(run.info.run_id, {SWEEP_TAG: " ".join([*ids, sweep_id])})


def leave(store: Store, run: Any, sweep_id: str | None) -> None:
    """A run that is replaced leaves the sweep; it stays in the store."""
    ids = sweeps_of(run.data.tags)
    if sweep_id and sweep_id in ids:
        store.tag(run.info.run_id, {SWEEP_TAG: " ".join(i for i in ids if i != sweep_id) or "replaced"})
