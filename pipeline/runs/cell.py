"""One cell of a sweep, run at most once: found finished, gone on with, tried again, or begun. Safe for many processes.

Who works on a cell holds the lease with the name of its identity, looks the cell up in the store, and only then acts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import ConfigError, StoreError
from pipeline.progress import Bars
from pipeline.reproducibility.fingerprint import cell_key, code_digest, fingerprint_tags
from pipeline.runs.early_stopping import Pruning
from pipeline.runs.execute import ERROR_TAG, RunOptions, execute
from pipeline.runs.limits import Limits, no_op
from pipeline.runs.result import RunResult
from pipeline.tracking.locks import HOST_TAG, LEASE_TAG, RunLocks, is_name
from pipeline.tracking.logged_run import HEADLINE_PROBES, LoggedRun
from pipeline.tracking.store import Store
from pipeline.tracking.tags import (
    ATTEMPTS_TAG,
    COMMAND_TAG,
    PRUNED_TAG,
    RECORDS_FILE,
    SWEEP_TAG,
    join,
    replace,
)

CellAction = Literal["finished before", "failed before", "goes on", "tried again", "done anew", "damaged", "new"]


@dataclass(frozen=True)
class CellJob:
    """A cell to be settled.

    Attributes:
        name: of its run.
        swept: the keys that differ between cells, with this cell's values.
        config: resolved.
        cell: its identity.
        code: the digest of its code, as the driver has it.
        tags: of its run, the sweep's id among them.
    """

    name: str
    swept: Mapping[str, str]
    config: Mapping[str, Any]
    cell: str
    code: str
    tags: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class CellPolicy:
    """What to do about cells that have been run.

    Attributes:
        command: an id of this call, by which its own runs are known.
        retry: run failed ones again.
        force: run all of them again.
        repeat: only what was interrupted is gone on with; whatever ended is left alone, and a new run begins.
        limits: of each cell.
        pruning: when to end a cell early; None for never.
    """

    command: str
    retry: bool = False
    force: bool = False
    repeat: bool = False
    limits: Limits = Limits()  # noqa: RUF009 (frozen)
    pruning: Pruning | None = None


@dataclass(frozen=True)
class CellResult:
    """A cell's outcome, and how it came to be."""

    outcome: RunResult
    decision: CellAction


def run_cell(
    task: CellJob, store: Store, policy: CellPolicy, bars: Bars, heartbeat: Callable[[], None] = no_op
) -> CellResult | None:
    """The cell's outcome, by running it if need be; None if another process is at it."""
    locks = RunLocks.of(store)
    with locks.acquire(task.cell) as free:
        if not free:
            return None
        if code_digest(task.config) != task.code:
            raise ConfigError("the code has changed since the sweep began; start it again")
        runs = runs_of_cell(store, task.cell)
        decision, run = decide(runs, policy)
        if (
            decision == "goes on"
            and run is not None
            and (is_remote(run, locks) or is_locked_elsewhere(run, locks, task.cell))
        ):
            return None
        sweep_id = task.tags.get(SWEEP_TAG)
        pruned = runs_of_cell(store, policy.pruning.identity(task.cell)) if policy.pruning and decision == "new" else []
        if pruned:
            join(store, pruned[0], sweep_id)
            return CellResult(outcome_of(store, pruned[0], task), "finished before")
        if run is not None and decision in ("finished before", "failed before"):
            try:
                outcome = outcome_of(store, run, task)
            except StoreError:
                raise
            except ConfigError:  # what it logged cannot be read any more
                decision, run = "damaged", None
            else:
                replace(store, runs, run, sweep_id)
                return CellResult(outcome, decision)
        tags = {**task.tags, **locks.tags(task.cell), **fingerprint_tags(task.cell), COMMAND_TAG: policy.command}
        if run is not None and decision == "goes on":
            attempt = int(run.data.tags.get(ATTEMPTS_TAG, "0")) + 1
            store.tag(run.info.run_id, {ATTEMPTS_TAG: str(attempt), **locks.tags(task.cell)})
            options = RunOptions(task.cell, run.info.run_id, attempt, None, policy.limits, heartbeat, policy.pruning)
        else:
            run, after = None, runs[0].info.start_time + 1 if runs else None
            options = RunOptions(
                task.cell, not_before=after, limits=policy.limits, heartbeat=heartbeat, pruning=policy.pruning
            )
        replace(store, runs, run, sweep_id)
        return CellResult(execute(task.config, store, task.name, task.swept, tags, bars, options), decision)


def is_remote(run: Any, locks: RunLocks) -> bool:
    """Whether a run is RUNNING under a lease that cannot be seen from here."""
    return run.info.status == "RUNNING" and run.data.tags.get(HOST_TAG, locks.host) != locks.host


def is_locked_elsewhere(run: Any, locks: RunLocks, cell: str) -> bool:
    """Whether a run is RUNNING under a lease of its own that somebody holds: no sweep's run, but of the same cell."""
    own = run.data.tags.get(LEASE_TAG, "")
    return run.info.status == "RUNNING" and own != cell and is_name(own) and locks.is_held(own)


def runs_of_cell(store: Store, cell: str) -> list[Any]:
    """The cell's runs, newest first."""
    return sorted(store.runs_with(cell_key(cell)), key=lambda r: r.info.start_time or 0, reverse=True)


def decide(runs: Sequence[Any], policy: CellPolicy) -> tuple[CellAction, Any | None]:
    """What to do about a cell that has these runs, newest first, and with which of them; its lease must be held."""
    anew = policy.force and bool(runs)
    if policy.force:
        runs = [r for r in runs if r.data.tags.get(COMMAND_TAG) == policy.command]
    if policy.repeat and runs and runs[0].info.status in ("FINISHED", "FAILED"):
        return "new", None
    if not runs:
        return ("done anew" if anew else "new"), None
    newest = runs[0]
    if newest.info.status == "FINISHED":
        return "finished before", newest
    if newest.info.status != "FAILED":
        return "goes on", newest
    if policy.retry and newest.data.tags.get(COMMAND_TAG) != policy.command:
        return "tried again", None
    return "failed before", newest


def outcome_of(store: Store, run: Any, task: CellJob) -> RunResult:
    """The outcome of a run that ended before, from what it logged."""
    tags = run.data.tags
    outcome = RunResult(task.name, run.info.run_id, task.swept, status=run.info.status)
    outcome.pruned = tags.get(PRUNED_TAG)
    if outcome.status != "FINISHED" and not outcome.pruned:
        outcome.error = tags.get(ERROR_TAG, "failed")
        return outcome
    summary = LoggedRun.from_store(store, run, HEADLINE_PROBES).require(RECORDS_FILE).summary()
    outcome.headline, outcome.values = summary.headline(), summary.final_values()
    outcome.profile = summary.at("delta_rms", 0)
    outcome.verdict_words = tags.get("verdict", "")
    outcome.diverged_fraction = float(run.data.metrics.get("diverged_fraction", 0.0))
    outcome.diverged_replicates = len([k for k in tags.get("diverged_replicates", "").split(",") if k])
    step = tags.get("diverged_at_step", "")
    outcome.diverged_at = int(step) if step.isdigit() else None
    return outcome


def close_stale_runs(store: Store) -> list[Any]:
    """Close as KILLED every run that is RUNNING on this machine in no living process; returns them."""
    locks = RunLocks.of(store)
    closed = []
    for run in store.search("attributes.status = 'RUNNING'"):
        lease = run.data.tags.get(LEASE_TAG, "")
        if not is_name(lease) or is_remote(run, locks):
            continue
        with locks.acquire(lease) as free:
            if free and store.find(run.info.run_id).info.status == "RUNNING":
                store.end(run.info.run_id, "KILLED", {"ended_by": "its process died"})
                closed.append(run)
    return closed
