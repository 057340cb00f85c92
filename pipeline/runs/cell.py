"""Decide what to do about a cell: skip a finished one, resume an interrupted one, retry a failed one on request.

The caller holds the cell's lock before the store is queried, so several processes may work on the same sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.errors import ConfigError, StoreError
from pipeline.reproducibility.fingerprint import cell_key, digest_of_files
from pipeline.runs.artifacts import remove_checkpoints
from pipeline.runs.job import Attempt, CellJob, RunOptions
from pipeline.runs.result import ERROR_TAG, RunResult
from pipeline.tracking import tags
from pipeline.tracking.locks import RunLocks, host_of, is_name, lease_of
from pipeline.tracking.logged_run import HEADLINE_PROBES, LoggedRun
from pipeline.tracking.store import Store

CellAction = Literal["new", "skipped", "skipped (failed)", "resumed", "retried", "rerun", "rerun (unreadable)"]


@dataclass(frozen=True)
class CellResult:
    """A cell's result, and the action that led to it."""

    result: RunResult
    action: CellAction


@dataclass(frozen=True)
class CellTask:
    """A cell that is to be trained, and the run that the training writes to.

    Attributes:
        tags: Tags of a new run.
    """

    job: CellJob
    action: CellAction
    attempt: Attempt
    tags: Mapping[str, str]


def decide(job: CellJob, store: Store, options: RunOptions, locks: RunLocks) -> CellTask | CellResult | None:
    """Decide what to do about a cell. The caller holds its lock.

    Returns:
        The task if the cell is to be trained, its result if it has one, or None if another process works on it.

    Raises:
        ConfigError: The code has changed since the cell was prepared.
    """
    if digest_of_files(job.code_files) != job.code:
        raise ConfigError("the code has changed since the sweep began; start it again")
    runs = runs_of_cell(store, job.cell_id)
    action, run = choose_action(runs, options)
    if action == "resumed" and is_busy(run, locks, job.cell_id):
        return None
    sweep_id = job.tags.get(tags.SWEEP_TAG)
    if action == "new" and options.pruning is not None:
        pruned = runs_of_cell(store, options.pruning.identity(job.cell_id))
        if pruned:
            tags.join(store, pruned[0], sweep_id)
            return CellResult(read_result(store, pruned[0], job), "skipped")
    if run is not None and action in ("skipped", "skipped (failed)"):
        try:
            result = read_result(store, run, job)
        except StoreError:
            raise
        except ConfigError:  # its records are not readable
            action, run = "rerun (unreadable)", None
        else:
            tags.replace(store, runs, run, sweep_id)
            remove_checkpoints(store, run.info.run_id)  # its process may have died before it did
            return CellResult(result, action)
    attempt = _attempt(runs, run)
    if run is not None:
        owner = {tags.ATTEMPTS_TAG: str(attempt.number), **locks.tags(job.cell_id), **options.task}
        store.tag(run.info.run_id, owner)
    tags.replace(store, runs, run, sweep_id)
    own_tags = {**locks.tags(job.cell_id), cell_key(job.cell_id): "1", tags.COMMAND_TAG: options.command}
    return CellTask(job, action, attempt, {**tags.FIRST_TAGS, **job.tags, **own_tags, **options.task})


def _attempt(runs: Sequence[Any], resumed: Any | None) -> Attempt:
    if resumed is not None:
        return Attempt(resumed.info.run_id, tags.attempts_of(resumed.data.tags) + 1)
    # Newer runs start later, even if the machine's clock was set back.
    return Attempt(not_before=runs[0].info.start_time + 1 if runs else None)


def choose_action(runs: Sequence[Any], options: RunOptions) -> tuple[CellAction, Any | None]:
    """Choose the action for a cell from its existing runs. The caller holds the cell's lock.

    Args:
        runs: MLflow runs of the cell, newest first.
        options: What the user chose.

    Returns:
        The action, and the run that it concerns.
    """
    if options.force:
        own = [r for r in runs if r.data.tags.get(tags.COMMAND_TAG) == options.command]
        if not own:
            return ("rerun" if runs else "new"), None
        runs = own
    if not runs:
        return "new", None
    newest = runs[0]
    status = newest.info.status
    if options.repeat and status in ("FINISHED", "FAILED"):
        return "new", None
    if status == "FINISHED":
        return "skipped", newest
    if status != "FAILED":
        return "resumed", newest
    if options.retry and newest.data.tags.get(tags.COMMAND_TAG) != options.command:
        return "retried", None
    return "skipped (failed)", newest


def is_busy(run: Any, locks: RunLocks, cell_id: str) -> bool:
    """Return whether a run is RUNNING under a lock of another machine, or under another lock than the cell's."""
    return is_remote(run, locks) or is_locked_elsewhere(run, locks, cell_id)


def is_remote(run: Any, locks: RunLocks) -> bool:
    """Return whether a run is RUNNING under a lock of another machine."""
    return bool(run.info.status == "RUNNING" and host_of(run.data.tags, locks.host) != locks.host)


def is_locked_elsewhere(run: Any, locks: RunLocks, cell_id: str) -> bool:
    """Return whether a run is RUNNING under a lock that is not the cell's and is held by a process."""
    own = lease_of(run.data.tags)
    return bool(run.info.status == "RUNNING" and own != cell_id and is_name(own) and locks.is_held(own))


def runs_of_cell(store: Store, cell_id: str) -> list[Any]:
    """Return the cell's runs, newest first."""
    return sorted(store.runs_with(cell_key(cell_id)), key=lambda r: r.info.start_time or 0, reverse=True)


def read_result(store: Store, run: Any, job: CellJob) -> RunResult:
    """Return the result of a run that ended before, from its logged records.

    Raises:
        ConfigError: The records are not readable.
    """
    run_tags, status = run.data.tags, str(run.info.status)
    result = RunResult(job.name, run.info.run_id, job.swept, status, pruned=run_tags.get(tags.PRUNED_TAG))
    if status != "FINISHED" and not result.pruned:
        return replace(result, error=run_tags.get(ERROR_TAG, "failed"))
    logged = LoggedRun.from_store(store, run, HEADLINE_PROBES).require(tags.RECORDS_FILE)
    step, stop = run_tags.get("diverged_at_step", ""), run_tags.get(tags.STOPPED_STEP_TAG, "")
    result = replace(
        result,
        verdict_words=tags.verdict_of(run_tags),
        diverged_fraction=float(run.data.metrics.get("diverged_fraction", 0.0)),
        diverged_replicates=round(run.data.metrics.get("diverged_fraction", 0.0) * job.run.config.replicates),
        diverged_at=int(step) if step.isdigit() else None,
        stopped_at=int(stop) if stop.isdigit() else None,
    )
    return result.with_records(logged.summary())


def close_stale_runs(store: Store) -> list[Any]:
    """Close as KILLED each run that is RUNNING on this machine without a living process, and return these runs."""
    locks = RunLocks.of(store)
    closed = []
    for run in store.search("attributes.status = 'RUNNING'"):
        lock = lease_of(run.data.tags)
        if not is_name(lock) or is_remote(run, locks):
            continue
        with locks.acquire(lock) as acquired:
            if acquired and store.find(run.info.run_id).info.status == "RUNNING":
                store.end(run.info.run_id, "KILLED", {"ended_by": "its process died"})
                closed.append(run)
    return closed
