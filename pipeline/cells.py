"""One cell of a sweep, run at most once: found finished, gone on with, tried again, or begun. Safe for many processes.

Who works on a cell holds the lease with the name of its identity, looks the cell up in the store, and only then acts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline import logged
from pipeline.doom import PRUNED_TAG, Pruning
from pipeline.errors import ConfigError, StoreError
from pipeline.execution import ERROR_TAG, Going, execute
from pipeline.identity import cell_key, code_digest, identity_tags
from pipeline.leases import HOST_TAG, LEASE_TAG, Leases, is_name
from pipeline.limits import Limits, nothing
from pipeline.outcome import Outcome
from pipeline.progress import Bars
from pipeline.tracking import Store

SWEEP_TAG, COMMAND_TAG, ATTEMPTS_TAG = "sweep", "command", "attempts"
Decision = Literal["finished before", "failed before", "goes on", "tried again", "done anew", "damaged", "new"]


@dataclass(frozen=True)
class Task:
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
class Policy:
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
class Settled:
    """A cell's outcome, and how it came to be."""

    outcome: Outcome
    decision: Decision


def settle(task: Task, store: Store, policy: Policy, bars: Bars, beat: Callable[[], None] = nothing) -> Settled | None:
    """The cell's outcome, by running it if need be; None if another process is at it."""
    leases = Leases.of(store)
    with leases.held(task.cell) as free:
        if not free:
            return None
        if code_digest(task.config) != task.code:
            raise ConfigError("the code has changed since the sweep began; start it again")
        runs = found(store, task.cell)
        decision, run = decide(runs, policy)
        if decision == "goes on" and run is not None and (elsewhere(run, leases) or at_work(run, leases, task.cell)):
            return None
        sweep_id = task.tags.get(SWEEP_TAG)
        pruned = found(store, policy.pruning.identity(task.cell)) if policy.pruning and decision == "new" else []
        if pruned:
            join(store, pruned[0], sweep_id)
            return Settled(outcome_of(store, pruned[0], task), "finished before")
        if run is not None and decision in ("finished before", "failed before"):
            try:
                outcome = outcome_of(store, run, task)
            except StoreError:
                raise
            except ConfigError:  # what it logged cannot be read any more
                decision, run = "damaged", None
            else:
                replace(store, runs, run, sweep_id)
                return Settled(outcome, decision)
        tags = {**task.tags, **leases.tags(task.cell), **identity_tags(task.cell), COMMAND_TAG: policy.command}
        if run is not None and decision == "goes on":
            attempt = int(run.data.tags.get(ATTEMPTS_TAG, "0")) + 1
            store.tag(run.info.run_id, {ATTEMPTS_TAG: str(attempt), **leases.tags(task.cell)})
            going = Going(task.cell, run.info.run_id, attempt, None, policy.limits, beat, policy.pruning)
        else:
            run, after = None, runs[0].info.start_time + 1 if runs else None
            going = Going(task.cell, not_before=after, limits=policy.limits, beat=beat, pruning=policy.pruning)
        replace(store, runs, run, sweep_id)
        return Settled(execute(task.config, store, task.name, task.swept, tags, bars, going), decision)


def elsewhere(run: Any, leases: Leases) -> bool:
    """Whether a run is RUNNING under a lease that cannot be seen from here."""
    return run.info.status == "RUNNING" and run.data.tags.get(HOST_TAG, leases.host) != leases.host


def at_work(run: Any, leases: Leases, cell: str) -> bool:
    """Whether a run is RUNNING under a lease of its own that somebody holds: no sweep's run, but of the same cell."""
    own = run.data.tags.get(LEASE_TAG, "")
    return run.info.status == "RUNNING" and own != cell and is_name(own) and leases.is_held(own)


def found(store: Store, cell: str) -> list[Any]:
    """The cell's runs, newest first."""
    return sorted(store.runs_with(cell_key(cell)), key=lambda r: r.info.start_time or 0, reverse=True)


def decide(runs: Sequence[Any], policy: Policy) -> tuple[Decision, Any | None]:
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


def outcome_of(store: Store, run: Any, task: Task) -> Outcome:
    """The outcome of a run that ended before, from what it logged."""
    tags = run.data.tags
    outcome = Outcome(task.name, run.info.run_id, task.swept, status=run.info.status)
    outcome.pruned = tags.get(PRUNED_TAG)
    if outcome.status != "FINISHED" and not outcome.pruned:
        outcome.error = tags.get(ERROR_TAG, "failed")
        return outcome
    summary = logged.read(store, run, logged.HEADLINE_PROBES).summary()
    outcome.headline, outcome.values = summary.headline(), summary.final_values()
    outcome.profile = summary.at("delta_rms", 0)
    outcome.verdict_words = tags.get("verdict", "")
    outcome.diverged_fraction = float(run.data.metrics.get("diverged_fraction", 0.0))
    outcome.diverged_replicates = len([k for k in tags.get("diverged_replicates", "").split(",") if k])
    step = tags.get("diverged_at_step", "")
    outcome.diverged_at = int(step) if step.isdigit() else None
    return outcome


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


def close_the_dead(store: Store) -> list[Any]:
    """Close as KILLED every run that is RUNNING on this machine in no living process; returns them."""
    leases = Leases.of(store)
    closed = []
    for run in store.search("attributes.status = 'RUNNING'"):
        lease = run.data.tags.get(LEASE_TAG, "")
        if not is_name(lease) or elsewhere(run, leases):
            continue
        with leases.held(lease) as free:
            if free and store.find(run.info.run_id).info.status == "RUNNING":
                store.end(run.info.run_id, "KILLED", {"ended_by": "its process died"})
                closed.append(run)
    return closed
