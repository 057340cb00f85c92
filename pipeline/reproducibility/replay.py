"""Train a logged run again from its logged config, and compare its chain and every record, bit for bit."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console
from threadpoolctl import threadpool_limits

from pipeline.config import schema as configs
from pipeline.config.schedules import At
from pipeline.errors import ConfigError
from pipeline.progress import bars
from pipeline.reproducibility import match_machine, worktree
from pipeline.reproducibility.chain_reader import FirstDifference, LoggedChain, first_chain_difference
from pipeline.reproducibility.environment import Provenance, provenance
from pipeline.reproducibility.environment_diff import changes
from pipeline.reproducibility.fingerprint import code_digest
from pipeline.reproducibility.hash_chain import HashChain
from pipeline.reproducibility.record_diff import Difference, first_difference
from pipeline.reproducibility.run_source import ReplayRun, find, load
from pipeline.tracking.safe_reading import printable
from pipeline.tracking.tags import PRUNED_STEP_TAG
from pipeline.tracking.uri import TrackingConfig
from pipeline.training.loop import Callbacks, train
from pipeline.training.prepare import PreparedRun, prepare_run
from pipeline.training.records import Record, tidy

LONGEST_LINE = 10_000


def reproduce(
    run_id: str,
    changed: Sequence[str],
    tracking: TrackingConfig,
    allowed: Collection[str],
    quiet: bool,
    console: Console,
    as_it_is: bool = False,
) -> int:
    """Train again and compare; prints "identical" (returns 0) or the first difference (returns 1).

    A logged config is untrusted: only classes and functions of ``engine``, ``pipeline`` and ``allowed`` are called.

    Args:
        run_id: of a run in the store, or a folder that a run was exported to.
        changed: ``key=value``, what to change in its config first.
        as_it_is: leave threads, core type and CPU features as they are here.

    Raises:
        ConfigError: no such run, no records, or a config that does not stand up.
    """
    logged = load(find(run_id, tracking))
    node = logged.node(changed)
    say, uri = Say(console), None if logged.place else tracking.resolved_uri()
    try:
        config = configs.build(node, configs.OWN_PACKAGES | set(allowed))
    except ConfigError:
        if logged.tags.get("git.commit") != provenance().tags.get("git.commit"):
            _offer(logged, uri, say)  # a part may have another name in this code
        raise
    threads = 1 if as_it_is else _become_like(logged, say)
    with threadpool_limits(threads), bars(1, quiet) as progress:
        run = prepare_run(config)
        differ = changes(Provenance(dict(logged.tags), logged.patch, logged.packages), present(node, run.data.digest))
        for change in differ:
            say(f"differs: {change}")
        if any(change.what in ("commit", "code (code.sha256)") for change in differ):
            _offer(logged, uri, say)
        with progress.run(printable(logged.name), run.length.last_step) as on_step:
            again, trail = _train(run, logged, on_step)
    return _verdict(logged, again, trail, say)


def patch(run_id: str, tracking: TrackingConfig) -> int:
    """Print what was not committed when the run was recorded.

    Raises:
        ConfigError: no such run, or nothing to print.
    """
    text = load(find(run_id, tracking)).patch
    if not text:
        raise ConfigError(f"RUN={run_id}: was recorded without a patch")
    sys.stdout.write(text)
    return 0


@dataclass(frozen=True)
class Say:
    """Prints whole lines, as they are but for what a terminal would obey: much of them is text from elsewhere."""

    console: Console

    def __call__(self, line: str) -> None:
        """Print one."""
        self.console.print(printable(line, LONGEST_LINE), highlight=False, soft_wrap=True, markup=False)


def present(node: dict[str, Any], data_digest: str) -> Provenance:
    """The state of everything now, with what a run of this config would say of itself."""
    now = provenance()
    own = {"config.sha256": configs.digest(node), "data.sha256": data_digest, "code.sha256": code_digest(node)}
    return Provenance(now.tags | own, now.patch, now.packages)


def _become_like(logged: ReplayRun, say: Say) -> int:
    """Start anew with the run's core type and CPU features if that takes it; returns the BLAS threads to use."""
    plan = match_machine.plan(logged.tags, provenance().tags, match_machine.cpu_flags())
    if plan.variables and match_machine.can_restart_process():
        told = ", ".join(f"{name}={value}" for name, value in plan.variables.items())
        say(f"starts anew with {told}, as the run was recorded (--as-it-is leaves the machine as it is)")
        match_machine.restart_process(plan.variables, plan.threads)
    for line in plan.unmatched:
        say(f"not set: {line}")
    for name, value in plan.variables.items():
        say(f"not set: {name}={value}, which must be set before the process begins")
    return plan.threads


def _offer(logged: ReplayRun, uri: str | None, say: Say) -> None:
    """Print the commands that run it with the code that recorded it."""
    run = worktree.absolute(logged.run_id, logged.place)
    lines = worktree.commands(logged.tags, logged.patch, run, uri)
    if lines:
        say("with the code that recorded it, in a worktree of its own:")
        for line in lines:
            say(f"  {line}")


def _train(run: PreparedRun, logged: ReplayRun, on_step: Any) -> tuple[pd.DataFrame, LoggedChain | None]:
    """Records, and the chain at the steps at which the run's was made."""
    chain = None if logged.chain is None else HashChain(run, At(logged.chain.steps), ends=False)
    last = logged.tags.get(PRUNED_STEP_TAG, "")
    end = int(last) if last.isdecimal() else run.length.last_step

    def stepped(step: int) -> None:
        if step > end:
            raise _PrunedError
        on_step(step)

    records: list[Record] = []
    with contextlib.suppress(_PrunedError):
        for record in train(run, Callbacks(on_step=stepped, observer=chain)):
            records.append(record)
    return tidy(records), None if chain is None else LoggedChain.of(chain.table())


class _PrunedError(Exception):
    """The run was ended here."""


def _verdict(logged: ReplayRun, again: pd.DataFrame, trail: LoggedChain | None, say: Say) -> int:
    for fault in logged.integrity_errors:
        say(f"tampered: the chain is not as it was logged: {fault}")
    parted = _parting(logged.chain, trail, say) if logged.chain is not None and trail is not None else None
    difference = first_difference(logged.records, again)
    steps = () if logged.chain is None or trail is None else logged.chain.steps
    cut = trail is not None and logged.chain is not None and trail.steps != logged.chain.steps
    if parted is None and difference is None and not cut:
        beside = f" and the chain at {len(steps)} steps" if steps else "; it has no chain"
        say(f"identical: all {len(logged.records)} records{beside}, run {logged.run_id}")
        return 1 if logged.integrity_errors else 0
    for line in _told(parted, difference):
        say(line)
    if parted is None and steps and not cut:
        say("the chain is the same at all its steps")
    if cut and parted is None and trail is not None:
        say(f"different: the chain was made at {len(steps)} steps, is at {len(trail.steps)}")
    return 1


def _parting(was: LoggedChain, now: LoggedChain, say: Say) -> FirstDifference | None:
    if was.names != now.names or was.replicates != now.replicates:
        say("different: the chain is of a network of other layers, or of another number of replicates")
        return None
    return first_chain_difference(was, now, [(k, k) for k in range(was.replicates)])


def _told(parted: FirstDifference | None, difference: Difference | None) -> list[str]:
    """The earlier of the two first, the chain where both say the same step: it sees where a step begins to differ."""
    if parted is None:
        return [f"different: {difference}"] if difference is not None else []
    lines = [f"different: {parted}", f"differ at step {parted.step}: {parted.all_names()}"]
    if difference is None:
        return [*lines, "all records are the same"]
    if difference.step < parted.step:
        return [f"different: {difference}", f"in the chain: {parted}", lines[1]]
    return [*lines, f"first of the records: {difference}"]
