"""Names of the tags and artifacts of a run, its verdict in tags, and its membership in sweeps.

MLflow's run page shows the tags above the description, in the order in which the store got them. So a run is created
with the tags of its verdict, without a value at first. Tags whose name starts with "mlflow." are not shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.wording import command

if TYPE_CHECKING:
    from mlflow.entities import Run

    from pipeline.tracking.store import Store

CONFIG_FILE, RECORDS_FILE, THEORY_FILE = "config.yaml", "records.parquet", "theory.json"
DATA_FILE = "data.json"
FIGURE_FILE = "gradient_norm_by_layer.png"
DIVERGENCE_FILE, LAST_STEPS_FILE = "divergence.json", "last_steps.parquet"
PACKAGES_FILE, PATCH_FILE, PROVENANCE_FILE = "packages.txt", "uncommitted.patch", "provenance.json"
PRUNED_TAG, PRUNED_STEP_TAG = "pruned", "pruned_at_step"
STOPPED_STEP_TAG = "stopped_early_at_step"
SWEEP_TAG, COMMAND_TAG, ATTEMPTS_TAG = "sweep", "mlflow.command", "mlflow.attempts"
VERDICT_TAG, DECADES_TAG, VERDICT_FILE = "verdict", "decades", "verdict.txt"
NO_VERDICT = "–"
FIRST_TAGS = {VERDICT_TAG: NO_VERDICT, DECADES_TAG: NO_VERDICT}  # of a new run


def verdict_of(tags: Mapping[str, str]) -> str:
    """Return the words of a run's verdict, "" if it has none."""
    words = tags.get(VERDICT_TAG, "")
    return "" if words == NO_VERDICT else words


def verdict_first(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags in the order in which MLflow's run page is to show them."""
    return {name: tags[name] for name in FIRST_TAGS if name in tags} | dict(tags)


def attempts_of(tags: Mapping[str, str]) -> int:
    """Return how many times a run was resumed. Runs of older versions have another tag."""
    return int(tags.get(ATTEMPTS_TAG, tags.get("attempts", "0")))


def sweeps_of(tags: Mapping[str, str]) -> list[str]:
    """Return the ids of all sweeps that a run belongs to."""
    return tags.get(SWEEP_TAG, "").split()


def in_sweep(sweep_id: str) -> str:
    """Return the search filter for the runs of a sweep; it also works in MLflow's search box.

    Args:
        sweep_id: The sweep's id.

    Raises:
        ConfigError: The text cannot be a sweep's id.
    """
    if not re.fullmatch(r"[^'\"`\\%\s]+", sweep_id):
        raise ConfigError(f"sweep {sweep_id}: must be a sweep's id, as `{command('sweep')}` printed it")
    return f"tags.{SWEEP_TAG} LIKE '%{sweep_id}%'"


def replace(store: Store, runs: Sequence[Run], by: Run | None, sweep_id: str | None) -> None:
    """Make one of a cell's runs the only one that belongs to a sweep.

    Args:
        store: The store.
        runs: All runs of the cell.
        by: The run that belongs to the sweep; None for a run that has not started yet.
        sweep_id: The sweep, None for no sweep.
    """
    for run in runs:
        if by is not None and run.info.run_id == by.info.run_id:
            join(store, run, sweep_id)
        else:
            leave(store, run, sweep_id)


def join(store: Store, run: Run, sweep_id: str | None) -> None:
    """Add a run to a sweep."""
    ids = sweeps_of(run.data.tags)
    if sweep_id and sweep_id not in ids:
        store.tag(run.info.run_id, {SWEEP_TAG: " ".join([*ids, sweep_id])})


def leave(store: Store, run: Run, sweep_id: str | None) -> None:
    """Remove a replaced run from a sweep. The run stays in the store."""
    ids = sweeps_of(run.data.tags)
    if sweep_id and sweep_id in ids:
        store.tag(run.info.run_id, {SWEEP_TAG: " ".join(i for i in ids if i != sweep_id) or "replaced"})
