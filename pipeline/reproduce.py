"""Train a logged run again from its logged config, and compare its chain and every record, bit for bit."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from threadpoolctl import threadpool_limits

from pipeline import config as configs
from pipeline import likeness, worktree
from pipeline.address import TrackingConfig
from pipeline.artifacts import CONFIG_FILE
from pipeline.chain import Chain
from pipeline.doom import PRUNED_STEP_TAG
from pipeline.environment import changes
from pipeline.errors import ConfigError
from pipeline.identity import code_digest
from pipeline.progress import bars
from pipeline.provenance import Provenance, provenance
from pipeline.records import COLUMNS, Record, tidy
from pipeline.schedules import At
from pipeline.source import Loaded, config_of, find, load
from pipeline.trail import Parting, Trail, parting
from pipeline.training import Run, ready, train
from pipeline.untrusted import shown

LONGEST_LINE = 10_000


@dataclass(frozen=True)
class Difference:
    """The first record at which two runs part, in order of step, then of the record in the run."""

    step: int
    probe: str
    layer: int | None
    replicate: int
    logged: float | None
    again: float | None

    def __str__(self) -> str:
        return self.told("logged", "now")

    def told(self, first: str, second: str) -> str:
        """In words, with what to call the two."""
        layer = "the network" if self.layer is None else f"layer {self.layer}"
        return (
            f"step {self.step}, {layer}, {self.probe}, replicate {self.replicate}: "
            f"{first} {_number(self.logged)}, {second} {_number(self.again)}{self._size()}"
        )

    def _size(self) -> str:
        if self.logged is None or self.again is None:
            return ""
        with np.errstate(all="ignore"):
            relative = np.abs(np.float64(self.again) - self.logged) / np.maximum(abs(self.logged), abs(self.again))
        return f" (by {relative:.2g} of it)" if np.isfinite(relative) and relative > 0 else ""


def _number(value: float | None) -> str:
    return "no such record" if value is None else repr(float(value))


def first_difference(logged: pd.DataFrame, again: pd.DataFrame) -> Difference | None:
    """The first row in which two tables of records differ; None if they are identical, NaN equal to NaN."""
    keys = [c for c in COLUMNS if c != "value"]
    count = min(len(logged), len(again))
    same_key = np.ones(count, dtype=bool)
    for key in keys:
        a, b = (t[key].iloc[:count].astype("object").where(t[key].iloc[:count].notna(), None) for t in (logged, again))
        same_key &= np.array([x == y for x, y in zip(a, b, strict=True)], dtype=bool)
    was, now = (t["value"].iloc[:count].to_numpy(dtype=np.float64) for t in (logged, again))
    same = same_key & ((was.view(np.int64) == now.view(np.int64)) | (np.isnan(was) & np.isnan(now)))
    if same.all() and len(logged) == len(again):
        return None
    at = int(np.argmin(same)) if not same.all() else count
    in_logged, in_again = at < len(logged), at < len(again)
    row = (logged if in_logged else again).iloc[at]
    matching = at < count and bool(same_key[at])
    layer = None if pd.isna(row["layer"]) else int(row["layer"])
    return Difference(
        int(row["step"]),
        str(row["probe"]),
        layer,
        int(row["replicate"]),
        float(logged["value"].iloc[at]) if in_logged else None,
        float(again["value"].iloc[at]) if in_again and (matching or not in_logged) else None,
    )


def logged_config(path: Path, changes: Sequence[str]) -> dict[str, Any]:
    """A logged config.yaml, with ``key=value`` changes applied.

    Raises:
        ConfigError: a file that is not such a config, a change that does not fit it.
    """
    try:
        return config_of(path.read_text(encoding="utf-8"), changes)
    except UnicodeDecodeError as broken:
        raise ConfigError(f"{CONFIG_FILE}: is not readable YAML") from broken


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
        run = ready(config)
        differ = changes(Provenance(dict(logged.tags), logged.patch, logged.packages), present(node, run.data.digest))
        for change in differ:
            say(f"differs: {change}")
        if any(change.what in ("commit", "code (code.sha256)") for change in differ):
            _offer(logged, uri, say)
        with progress.run(shown(logged.name), run.clock.last_step) as on_step:
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
        self.console.print(shown(line, LONGEST_LINE), highlight=False, soft_wrap=True, markup=False)


def present(node: dict[str, Any], data_digest: str) -> Provenance:
    """The state of everything now, with what a run of this config would say of itself."""
    now = provenance()
    own = {"config.sha256": configs.digest(node), "data.sha256": data_digest, "code.sha256": code_digest(node)}
    return Provenance(now.tags | own, now.patch, now.packages)


def _become_like(logged: Loaded, say: Say) -> int:
    """Start anew with the run's core type and CPU features if that takes it; returns the BLAS threads to use."""
    plan = likeness.plan(logged.tags, provenance().tags, likeness.cpu_flags())
    if plan.variables and likeness.can_start_anew():
        told = ", ".join(f"{name}={value}" for name, value in plan.variables.items())
        say(f"starts anew with {told}, as the run was recorded (--as-it-is leaves the machine as it is)")
        likeness.start_anew(plan.variables, plan.threads)
    for line in plan.cannot:
        say(f"not set: {line}")
    for name, value in plan.variables.items():
        say(f"not set: {name}={value}, which must be set before the process begins")
    return plan.threads


def _offer(logged: Loaded, uri: str | None, say: Say) -> None:
    """Print the commands that run it with the code that recorded it."""
    run = worktree.absolute(logged.run_id, logged.place)
    lines = worktree.commands(logged.tags, logged.patch, run, uri)
    if lines:
        say("with the code that recorded it, in a worktree of its own:")
        for line in lines:
            say(f"  {line}")


def _train(run: Run, logged: Loaded, on_step: Any) -> tuple[pd.DataFrame, Trail | None]:
    """Records, and the chain at the steps at which the run's was made."""
    chain = None if logged.trail is None else Chain(run, At(logged.trail.steps), ends=False)
    last = logged.tags.get(PRUNED_STEP_TAG, "")
    end = int(last) if last.isdecimal() else run.clock.last_step

    def stepped(step: int) -> None:
        if step > end:
            raise _PrunedError
        on_step(step)

    records: list[Record] = []
    with contextlib.suppress(_PrunedError):
        for record in train(run, stepped, witness=chain):
            records.append(record)
    return tidy(records), None if chain is None else Trail.of(chain.table())


class _PrunedError(Exception):
    """The run was ended here."""


def _verdict(logged: Loaded, again: pd.DataFrame, trail: Trail | None, say: Say) -> int:
    for fault in logged.faults:
        say(f"tampered: the chain is not as it was logged: {fault}")
    parted = _parting(logged.trail, trail, say) if logged.trail is not None and trail is not None else None
    difference = first_difference(logged.records, again)
    steps = () if logged.trail is None or trail is None else logged.trail.steps
    cut = trail is not None and logged.trail is not None and trail.steps != logged.trail.steps
    if parted is None and difference is None and not cut:
        beside = f" and the chain at {len(steps)} steps" if steps else "; it has no chain"
        say(f"identical: all {len(logged.records)} records{beside}, run {logged.run_id}")
        return 1 if logged.faults else 0
    for line in _told(parted, difference):
        say(line)
    if parted is None and steps and not cut:
        say("the chain is the same at all its steps")
    if cut and parted is None and trail is not None:
        say(f"different: the chain was made at {len(steps)} steps, is at {len(trail.steps)}")
    return 1


def _parting(was: Trail, now: Trail, say: Say) -> Parting | None:
    if was.names != now.names or was.replicates != now.replicates:
        say("different: the chain is of a network of other layers, or of another number of replicates")
        return None
    return parting(was, now, [(k, k) for k in range(was.replicates)])


def _told(parted: Parting | None, difference: Difference | None) -> list[str]:
    """The earlier of the two first, the chain where both say the same step: it sees where a step begins to differ."""
    if parted is None:
        return [f"different: {difference}"] if difference is not None else []
    lines = [f"different: {parted}", f"differ at step {parted.step}: {parted.all_names()}"]
    if difference is None:
        return [*lines, "all records are the same"]
    if difference.step < parted.step:
        return [f"different: {difference}", f"in the chain: {parted}", lines[1]]
    return [*lines, f"first of the records: {difference}"]
