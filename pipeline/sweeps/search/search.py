"""A search: Optuna asks for trials, each is a cell like any other, and its run's metric is told back.

The process that was started asks and tells; with several jobs its workers run the cells. Several commands may work on
one study at once: each slot is settled once, whoever does it.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from optuna.trial import Trial
from rich.console import Console
from rich.markup import escape

from pipeline import signals
from pipeline.config import schema as configs
from pipeline.config.compose import compose_run
from pipeline.config.instantiate import instantiate
from pipeline.config.schema import checkpoint_config
from pipeline.errors import ConfigError, StoreError
from pipeline.progress import Bars, bars
from pipeline.reproducibility.fingerprint import code_digest, fingerprint
from pipeline.runs.cell import CellJob, CellPolicy, CellResult, close_stale_runs, run_cell
from pipeline.runs.limits import Limits
from pipeline.sweeps.executor import BUSY_PAUSE
from pipeline.sweeps.feed import Feed
from pipeline.sweeps.plan import source_tags, tracking_of
from pipeline.sweeps.search.space import SearchConfig, short, text
from pipeline.sweeps.search.study import Result, Study, result_of
from pipeline.sweeps.search.summary import report, summarise
from pipeline.tracking.locks import RunLocks
from pipeline.tracking.metrics import check_metric
from pipeline.tracking.retry import ignore_store_errors
from pipeline.tracking.run_names import run_name
from pipeline.tracking.store import Store
from pipeline.tracking.tags import PRUNED_TAG, SWEEP_TAG
from pipeline.training.prepare import prepare_run

KEY = "search"
TRIAL_TAG = "optuna_trial"
DIVERGED = "all replicates diverged"


@dataclass(frozen=True)
class Options:
    """How to search.

    Args:
        trials: how many in all, if not as the config says.
        jobs: trials that run at the same time, each in a process of its own if more than one.
        limits: of each trial.
    """

    trials: int | None = None
    jobs: int = 1
    limits: Limits = Limits()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        for name, value in (("TRIALS", self.trials), ("JOBS", self.jobs)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: must be >= 1")


def search(
    overrides: Sequence[str], config_dir: str | None, quiet: bool, console: Console, options: Options | None = None
) -> int:
    """Run the trials that the study does not have yet; returns the exit code, 1 if a trial failed.

    Raises:
        ConfigError: a mistake in the search or at the edges of its space, before the first trial runs.
    """
    options = options or Options()
    node = compose_run(overrides, config_dir)
    config = search_of(node, overrides, options.trials)
    study_id = checked(config, overrides, config_dir)
    tracking = tracking_of(node)
    store = Store.open(tracking)
    for run in close_stale_runs(store):
        told = f"run {run.info.run_id} ({run.info.run_name}) was left RUNNING by a process that died: closed as KILLED"
        console.print(told, highlight=False)
    locks, lease = RunLocks.of(store), uuid.uuid4().hex
    with locks.acquire(lease):
        study = Study(store.sidecar_dir("studies"), study_id, config, locks, lease)
        before = study.settled_count()
        console.print(_begins(study, before), highlight=False)
        policy = CellPolicy(command=uuid.uuid4().hex, limits=options.limits, pruning=config.pruning)
        searcher = Searcher(study, store, overrides, config_dir, console)
        with _told(study, console), bars(config.trials - before, quiet) as shown:
            if options.jobs > 1:
                Feed(options.jobs, tracking, store, policy, lambda *_: shown.advance()).feed(searcher)
            else:
                one_by_one(searcher, policy, shown)
        best = study.best()
        given = [o for o in overrides if not o.lstrip("+").startswith((f"{KEY}=", f"{KEY}."))]
        again = [*given, *(f"{k}={v}" for k, v in searcher.values(best.params).items())] if best else []
        summary_id = summarise(store, str(node.get("name") or KEY), study, again)
        report(console, store, study, summary_id, again)
    return 1 if any(result_of(t).error for t in study.settled()) else 0


def search_of(node: Mapping[str, Any], overrides: Sequence[str], trials: int | None) -> SearchConfig:
    """The search that a resolved config describes; what the command line fixes is not searched over.

    Raises:
        ConfigError: it describes none, or a wrong one.
    """
    if node.get(KEY) is None:
        raise ConfigError(
            f"{KEY}: this config describes no search; give one: experiment=search_tanh, or {KEY}=tpe and its keys"
        )
    if not isinstance(node[KEY], Mapping):
        raise ConfigError(f"{KEY}={node[KEY]}: must be a mapping, such as conf/search/tpe.yaml has")
    described = dict(node[KEY])
    space = described.get("space")
    if isinstance(space, Mapping):
        fixed = {o.partition("=")[0].lstrip("+") for o in overrides}
        described["space"] = {key: r for key, r in space.items() if key not in fixed}
    config: SearchConfig = instantiate(SearchConfig, described, KEY, configs.OWN_PACKAGES)
    return config if trials is None else replace(config, trials=trials)


def checked(config: SearchConfig, overrides: Sequence[str], config_dir: str | None) -> str:
    """Build the cells at the edges of the space, and find the metric. Returns the study's id.

    Raises:
        ConfigError: a cell that does not stand up, or a metric that no run logs.
    """
    identities: list[str] = []
    for corner in config.corner_points():
        which = ", ".join(f"{k}={v}" for k, v in corner.items())
        try:
            node = cell_config(corner, overrides, config_dir)
            run = prepare_run(configs.build(node))
            checkpoint_config(node)
        except ConfigError as wrong:
            raise ConfigError(f"{wrong} (search.space, at {which})") from wrong
        if not identities:
            check_metric(config.metric, run, f"{KEY}.metric")
        identities.append(fingerprint(node, run.data.digest))
    return study_id(config, identities)


def study_id(config: SearchConfig, identities: Sequence[str]) -> str:
    """A study's id: the same search over the same cells, whatever the number of trials."""
    parts = {**asdict(config), "trials": None, "cells": list(identities)}
    together = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
    return f"{KEY}-{together[:8]}"


def cell_config(values: Mapping[str, str], overrides: Sequence[str], config_dir: str | None) -> dict[str, Any]:
    """The resolved config of one point of the space."""
    node = compose_run([*overrides, *(f"{key}={value}" for key, value in values.items())], config_dir)
    node.pop(KEY, None)
    return node


def _begins(study: Study, before: int) -> str:
    c = study.config
    what = f"{c.trials} trials over {', '.join(c.space)} to {c.aim}"
    return f"study {study.id}: {what}" + (f"; {before} of them are there" if before else "")


@contextmanager
def _told(study: Study, console: Console) -> Iterator[None]:
    """Say how far it came when it is interrupted."""
    try:
        yield
    except BaseException:
        signals.acknowledge()
        try:
            count = study.settled_count()
            left = f"{count} of {study.config.trials} trials are done; the same command goes on from there"
            console.print(f"interrupted: {left}", highlight=False)
        except StoreError as refused:
            console.print(f"interrupted: {refused}", highlight=False)
        raise


@dataclass
class Searcher:
    """Turns trials into cells, and runs into results."""

    study: Study
    store: Store
    overrides: Sequence[str]
    config_dir: str | None
    console: Console

    def done(self) -> bool:
        """Whether every slot is settled."""
        return self.study.done()

    def ask(self) -> tuple[Trial, CellJob] | None:
        """The next trial and its cell; None if there is none to be had at the moment.

        A point of the space that makes no cell is told as failed.
        """
        while (trial := self.study.claim()) is not None:
            try:
                return trial, self._task(trial)
            except ConfigError as wrong:
                self._tell(trial, Result("", error=str(wrong)))
            except BaseException:
                self.abandon(trial)
                raise
        return None

    def tell(self, trial: Trial, settled: CellResult) -> None:
        """What became of a trial's cell."""
        self._tell(trial, self._result(trial, settled))

    def abandon(self, trial: Trial) -> None:
        """Give up a trial that is not going to end here."""
        with ignore_store_errors(f"trial {trial.number} is left to the next command"):
            self.study.abandon(trial)

    def wait(self) -> None:
        """Others are at work on what is left."""
        self.study.tell_waiting()
        time.sleep(BUSY_PAUSE)

    def values(self, params: Mapping[str, Any]) -> dict[str, str]:
        """Parameters as overrides."""
        space = self.study.config.space
        return {key: str(v) if space[key].choices is not None else text(v) for key, v in params.items()}

    def _task(self, trial: Trial) -> CellJob:
        node = cell_config(self.values(trial.params), self.overrides, self.config_dir)
        cell = fingerprint(node, prepare_run(configs.build(node)).data.digest)
        swept = {key: short(value) for key, value in trial.params.items()}
        tags = {SWEEP_TAG: self.study.id, "kind": "run", TRIAL_TAG: str(trial.number), **source_tags(self.overrides)}
        return CellJob(run_name(swept, node.get("name")), swept, node, cell, code_digest(node), tags)

    def _result(self, trial: Trial, settled: CellResult) -> Result:
        """From what the run logged, whoever ran it and whenever."""
        outcome, config = settled.outcome, self.study.config
        if outcome.run_id in ("", "none"):
            return Result("", error=outcome.error or "failed")
        run = self.store.find(outcome.run_id)
        tags, metrics = run.data.tags, run.data.metrics
        if run.info.status == "RUNNING":  # its process died when all but this was done
            self.store.end(outcome.run_id, "KILLED")
        if tags.get(TRIAL_TAG) != str(trial.number):
            self.store.tag(outcome.run_id, {TRIAL_TAG: str(trial.number)})
        diverged = len([k for k in tags.get("diverged_replicates", "").split(",") if k])
        plain = Result(outcome.run_id, verdict=tags.get("verdict", ""), diverged=diverged)
        if outcome.error:
            return replace(plain, error=outcome.error)
        if run.info.status != "FINISHED":
            return replace(plain, pruned=tags.get(PRUNED_TAG, "ended early"))
        value = metrics.get(config.metric)
        if metrics.get("diverged_fraction") == 1.0 and (config.pruning is not None or value is None):
            self.store.tag(outcome.run_id, {PRUNED_TAG: DIVERGED})
            return replace(plain, pruned=DIVERGED)
        if value is None:
            return replace(plain, error=f"its run logged no {config.metric}")
        return replace(plain, value=config.objective(value))

    def _tell(self, trial: Trial, result: Result) -> None:
        self.study.tell(trial, result)
        if result.error:
            where = ", ".join(f"{k}={v}" for k, v in self.values(trial.params).items())
            self.console.print(f"[red]failed[/red] {escape(where)}: {escape(result.error)}", highlight=False)


def one_by_one(searcher: Searcher, policy: CellPolicy, shown: Bars) -> None:
    """Run trials in this process until every slot is settled."""
    while not searcher.done():
        asked = searcher.ask()
        if asked is None:
            searcher.wait()
            continue
        trial, task = asked
        try:
            while (settled := run_cell(task, searcher.store, policy, shown)) is None:
                time.sleep(BUSY_PAUSE)  # the same cell runs elsewhere
            searcher.tell(trial, settled)
        except BaseException:
            searcher.abandon(trial)
            raise
