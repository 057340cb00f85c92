"""Train a logged run again from its logged config, and compare its hash chain and every record bit by bit."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits

from pipeline.config import schema as configs
from pipeline.config.schedules import At
from pipeline.errors import ConfigError
from pipeline.progress import bars
from pipeline.reproducibility import worktree
from pipeline.reproducibility.chain_reader import ChainDifference, LoggedChain, first_chain_difference
from pipeline.reproducibility.environment import Provenance, provenance
from pipeline.reproducibility.environment_diff import changes
from pipeline.reproducibility.fingerprint import code_digest
from pipeline.reproducibility.hash_chain import HashChain
from pipeline.reproducibility.match_machine import can_restart_process, cpu_flags, match_machine, restart_process
from pipeline.reproducibility.record_diff import RecordDifference, first_record_difference
from pipeline.reproducibility.run_source import ReplayRun, find
from pipeline.tracking.safe_reading import printable
from pipeline.tracking.tags import PRUNED_STEP_TAG
from pipeline.tracking.uri import TrackingConfig
from pipeline.training.loop import Callbacks, train
from pipeline.training.prepare import PreparedRun, prepare_run
from pipeline.training.records import Record, tidy
from pipeline.wording import counted

LONGEST_LINE = 10_000  # characters
MESSAGES = logging.getLogger("gradvitals.user")


@dataclass(frozen=True)
class ReplayOptions:
    """How to replay a run.

    Attributes:
        allowed: Packages, besides ``engine`` and ``pipeline``, whose classes and functions a logged config may call.
        match_machine: Whether to use the recorded BLAS threads, core type and CPU features.
    """

    allowed: Collection[str] = ()
    match_machine: bool = True


@dataclass(frozen=True)
class ReplayResult:
    """The comparison of a run with its replay.

    Attributes:
        run_id: The run's id.
        records: Number of logged records.
        logged_steps: Number of steps of the logged chain; 0 without a chain.
        replayed_steps: Number of those steps that the replay reached.
        has_same_layout: Whether both chains have the same layers and number of replicates.
        chain_difference: The first digest that differs.
        record_difference: The first record that differs.
        integrity_errors: Signs that the chain was changed after it was logged.
    """

    run_id: str
    records: int
    logged_steps: int
    replayed_steps: int
    has_same_layout: bool
    chain_difference: ChainDifference | None
    record_difference: RecordDifference | None
    integrity_errors: tuple[str, ...]

    @property
    def is_identical(self) -> bool:
        """Return whether every record and every digest is equal."""
        return self._has_identical_chain and self.record_difference is None

    @property
    def _has_identical_chain(self) -> bool:
        is_complete = self.logged_steps == self.replayed_steps
        return self.chain_difference is None and self.has_same_layout and is_complete

    @property
    def exit_code(self) -> int:
        """Return 0 for an identical replay of an intact run, else 1."""
        return 0 if self.is_identical and not self.integrity_errors else 1

    def lines(self) -> list[str]:
        """Return the result as text."""
        errors = [f"tampered: the chain was changed after it was logged: {error}" for error in self.integrity_errors]
        if self.is_identical:
            steps = counted(self.logged_steps, "step")
            chain = f" and the chain at {steps}" if self.logged_steps else "; it has no chain"
            lines = [f"identical: all {self.records} records{chain}, run {self.run_id}"]
        else:
            lines = self._difference_lines()
        return printable_lines([*errors, *lines])

    def _difference_lines(self) -> list[str]:
        """Return the earlier difference first; at equal steps the chain, which shows where in the step it arises."""
        record = "" if self.record_difference is None else self.record_difference.describe("logged", "now")
        if self.chain_difference is None:
            return [*([f"different: {record}"] if record else []), *self._chain_lines()]
        chain = self.chain_difference.describe("was", "is")
        names = f"differ at step {self.chain_difference.step}: {self.chain_difference.all_names()}"
        if self.record_difference is None:
            return [f"different: {chain}", names, "all records are identical"]
        if self.record_difference.step < self.chain_difference.step:
            return [f"different: {record}", f"in the chain: {chain}", names]
        return [f"different: {chain}", names, f"first different record: {record}"]

    def _chain_lines(self) -> list[str]:
        """Describe chains without a difference at their common steps."""
        if not self.has_same_layout:
            return ["different: the chains have different layers or numbers of replicates"]
        if self.logged_steps != self.replayed_steps:
            logged = counted(self.logged_steps, "step")
            return [f"different: the logged chain has {logged}, the replayed {self.replayed_steps}"]
        return ["the chain is identical at all steps"] if self.logged_steps else []


def reproduce(
    run_id: str, changed: Sequence[str], tracking: TrackingConfig, options: ReplayOptions, quiet: bool
) -> ReplayResult:
    """Train a run again and compare.

    A logged config is untrusted: it may call only what ``options.allowed`` permits. Differences between the recorded
    and the present environment are reported before training starts, because training can take hours.

    Args:
        run_id: The id of a run in the store, or a folder that a run was exported to.
        changed: ``key=value`` changes of the logged config.
        tracking: The store.
        options: How to replay.
        quiet: Whether to show no progress bar.

    Raises:
        ConfigError: There is no such run, it has no records, or its config is invalid.
    """
    logged = find(run_id, tracking)
    raw_config = logged.raw_config(changed)
    uri = None if logged.folder else tracking.resolved_uri()
    try:
        config = configs.build(raw_config, configs.OWN_PACKAGES | set(options.allowed))
    except ConfigError:
        if logged.provenance.get("git.commit") != provenance().facts.get("git.commit"):
            _report(_worktree_lines(logged, uri))  # this code may have renamed a class that the config names
        raise
    threads = _match_machine(logged) if options.match_machine else 1
    with threadpool_limits(threads), bars(1, quiet) as progress:
        with logged.file_contents_hidden(raw_config):
            run = prepare_run(config)
        _report(_environment_lines(logged, present_environment(raw_config, run.facts.digest), uri))
        with progress.run(printable(logged.name), run.length.last_step) as on_step:
            records, chain = _train(run, logged, on_step)
    return _compare(logged, records, chain)


def recorded_patch(run_id: str, tracking: TrackingConfig) -> str:
    """Return the changes that were not committed when the run was recorded.

    Raises:
        ConfigError: There is no such run, or it has no patch.
    """
    patch = find(run_id, tracking).patch
    if not patch:
        raise ConfigError(f"run {run_id}: was recorded without a patch")
    return patch


def printable_lines(lines: Iterable[str]) -> list[str]:
    """Replace control characters, which a terminal would obey: parts of the lines come from untrusted runs."""
    return [printable(line, LONGEST_LINE) for line in lines]


def _report(lines: Iterable[str]) -> None:
    for line in printable_lines(lines):
        MESSAGES.info("%s", line)


def present_environment(raw_config: dict[str, Any], data_digest: str) -> Provenance:
    """Return the environment that a run of this config would record at present."""
    now = provenance()
    digests = {
        "config.sha256": configs.digest(raw_config),
        "data.sha256": data_digest,
        "code.sha256": code_digest(raw_config),
    }
    return Provenance(now.facts | digests, now.patch, now.packages)


def _match_machine(logged: ReplayRun) -> int:
    """Restart the process if core type or CPU features must change; return the number of BLAS threads to use."""
    match = match_machine(logged.provenance, provenance().facts, cpu_flags())
    if match.variables and can_restart_process():
        settings = ", ".join(f"{name}={value}" for name, value in match.variables.items())
        _report([f"restarting with {settings}, as the run was recorded (--as-it-is keeps this machine's settings)"])
        restart_process(match.variables, match.threads)
    _report(f"not set: {line}" for line in match.unmatched)
    _report(
        f"not set: {name}={value}, which must be set before the process starts"
        for name, value in match.variables.items()
    )
    return match.threads


def _environment_lines(logged: ReplayRun, present: Provenance, uri: str | None) -> list[str]:
    differences = changes(Provenance(dict(logged.provenance), logged.patch, logged.packages), present)
    lines = [f"differs: {difference}" for difference in differences]
    if any(difference.what in ("commit", "code (code.sha256)") for difference in differences):
        lines += _worktree_lines(logged, uri)
    return lines


def _worktree_lines(logged: ReplayRun, uri: str | None) -> list[str]:
    run = worktree.absolute_name(logged.run_id, logged.folder)
    commands = worktree.commands(logged.provenance, logged.patch, run, uri)
    return (
        ["to run the code that recorded it, in a separate worktree:", *(f"  {c}" for c in commands)] if commands else []
    )


class _EndOfLoggedRunError(Exception):
    """The logged run was stopped early at this step."""


def _train(
    run: PreparedRun, logged: ReplayRun, on_step: Callable[[int], None]
) -> tuple[pd.DataFrame, LoggedChain | None]:
    """Return the records, and the chain at the steps of the logged chain."""
    chain = None if logged.chain is None else HashChain(run, At(logged.chain.steps), ends=False)
    pruned_step = logged.tags.get(PRUNED_STEP_TAG, "")
    last_step = int(pruned_step) if pruned_step.isdecimal() else run.length.last_step

    def stop_or_show(step: int) -> None:
        if step > last_step:
            raise _EndOfLoggedRunError
        on_step(step)

    records: list[Record] = []
    with contextlib.suppress(_EndOfLoggedRunError):
        for record in train(run, Callbacks(on_step=stop_or_show, observer=chain)):
            records.append(record)
    return tidy(records), None if chain is None else LoggedChain.from_table(chain.table())


def _compare(logged: ReplayRun, records: pd.DataFrame, chain: LoggedChain | None) -> ReplayResult:
    has_same_layout, chain_difference = True, None
    if logged.chain is not None and chain is not None:
        has_same_layout = (logged.chain.names, logged.chain.replicates) == (chain.names, chain.replicates)
        if has_same_layout:
            pairs = [(k, k) for k in range(chain.replicates)]
            chain_difference = first_chain_difference(logged.chain, chain, pairs)
    return ReplayResult(
        run_id=logged.run_id,
        records=len(logged.records),
        logged_steps=0 if logged.chain is None else len(logged.chain.steps),
        replayed_steps=0 if chain is None else len(chain.steps),
        has_same_layout=has_same_layout,
        chain_difference=chain_difference,
        record_difference=first_record_difference(logged.records, records),
        integrity_errors=logged.integrity_errors,
    )
