"""Search with Optuna: each trial is a cell, and the metric of its run is reported to Optuna.

Several commands may work on one study at once: each slot of the study is settled once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from optuna.trial import Trial
from rich.table import Table

from pipeline.config.compose import Cell, compose_cell, compose_run
from pipeline.config.instantiate import instantiate
from pipeline.config.schema import OWN_PACKAGES
from pipeline.errors import ConfigError, DeletedError
from pipeline.progress import bars
from pipeline.runs.cell import CellResult
from pipeline.runs.job import CellJob, RunOptions, Stack, prepare_cell
from pipeline.runs.limits import Limits
from pipeline.runs.stack import run_stack
from pipeline.sweeps.plan import source_tags, tracking_of
from pipeline.sweeps.search.space import SearchConfig, short, text
from pipeline.sweeps.search.study import Result, Study, result_of
from pipeline.sweeps.search.summary import count_trials, log_search_summary, run_again, search_links, trial_table
from pipeline.sweeps.slurm.config import refuse_executor
from pipeline.sweeps.sweep import choose_executor, open_store, report_interruption
from pipeline.tracking.locks import RunLocks
from pipeline.tracking.metric_names import check_metric
from pipeline.tracking.retry import ignore_store_errors
from pipeline.tracking.run_names import run_name
from pipeline.tracking.store import Store
from pipeline.tracking.tags import PRUNED_TAG, SWEEP_TAG, verdict_of
from pipeline.wording import command, counted

KEY = "search"
TRIAL_TAG = "optuna_trial"
DIVERGED = "all replicates diverged"
messages = logging.getLogger("gradvitals.user")


@dataclass(frozen=True)
class SearchOptions:
    """What the user chose for a search.

    Args:
        trials: Number of trials in all, if not as in the config.
        jobs: Number of trials that run at the same time; each has a process of its own if there are several.
        limits: Limits of each trial.
        quiet: Show no progress bars.
    """

    trials: int | None = None
    jobs: int = 1
    limits: Limits = Limits()  # noqa: RUF009 (frozen)
    quiet: bool = False

    def __post_init__(self) -> None:
        for name, value in (("TRIALS", self.trials), ("JOBS", self.jobs)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: must be >= 1")


@dataclass(frozen=True)
class SearchResult:
    """The end of a search.

    Attributes:
        best: Overrides that run the best trial again; empty if no trial has a value.
        links: Lines with the addresses of the charts and of the summary.
    """

    study: Study
    best: Sequence[str]
    links: Sequence[str]

    @property
    def exit_code(self) -> int:
        """1 if a trial failed."""
        return int(any(result_of(t).error for t in self.study.settled()))

    def table(self) -> Table:
        """Return the best trials, the best first."""
        return trial_table(self.study)

    def lines(self) -> list[str]:
        """Return how the trials ended, how to run the best one again, and the links."""
        best = f"the best again: {command(run_again(self.best))}" if self.best else "no trial has a value"
        return [count_trials(self.study), best, *self.links]


def run_search(overrides: Sequence[str], options: SearchOptions, config_dir: str | None = None) -> SearchResult:
    """Run the trials that the study does not have yet.

    Raises:
        ConfigError: A mistake in the search or at the corners of its space, before the first trial runs.
    """
    raw_config = compose_run(overrides, config_dir)
    refuse_executor(raw_config)
    config = search_of(raw_config, overrides, options.trials)
    study_id = check_space(config, overrides, config_dir)
    tracking = tracking_of(raw_config)
    store = open_store(tracking)
    locks, lock = RunLocks.of(store), uuid.uuid4().hex
    with locks.acquire(lock):
        study = Study(store.sidecar_dir("studies"), study_id, config, locks, lock)
        before = study.settled_count()
        messages.info("%s", _announcement(study, before))
        searcher = Searcher(study, store, overrides, config_dir)
        run_options = RunOptions(
            command=uuid.uuid4().hex,
            limits=options.limits,
            pruning=config.pruning,
            metrics=tracking.metrics,
            figures=tracking.draws_figures(config.trials),
            parameters=tracking.parameters,
        )
        with (
            report_interruption(study.settled_count, config.trials, "trial"),
            bars(config.trials - before, options.quiet) as progress,
            closing(searcher),
        ):
            executor = choose_executor(options.jobs, tracking, store, run_options, progress)
            with closing(executor.map(run_stack, searcher.stacks())) as results:
                for job, done in results:
                    searcher.tell(job, done)
        best = study.best()
        own = [o for o in overrides if not o.lstrip("+").startswith((f"{KEY}=", f"{KEY}."))]
        again = [*own, *(f"{k}={v}" for k, v in searcher.values(best.params).items())] if best else []
        summary_id = log_search_summary(store, str(raw_config.get("name") or KEY), study, again)
    return SearchResult(study, again, search_links(store, study, summary_id))


def search_of(raw_config: Mapping[str, Any], overrides: Sequence[str], trials: int | None) -> SearchConfig:
    """Return the search that a resolved config describes. Keys that the command line fixes are not searched over.

    Raises:
        ConfigError: The config describes no search, or an invalid one.
    """
    if raw_config.get(KEY) is None:
        raise ConfigError(
            f"{KEY}: this config describes no search; give one: experiment=search_tanh, or {KEY}=tpe and its keys"
        )
    if not isinstance(raw_config[KEY], Mapping):
        raise ConfigError(f"{KEY}={raw_config[KEY]}: must be a mapping, such as conf/search/tpe.yaml has")
    described = dict(raw_config[KEY])
    space = described.get("space")
    if isinstance(space, Mapping):
        fixed = {o.partition("=")[0].lstrip("+") for o in overrides}
        described["space"] = {key: r for key, r in space.items() if key not in fixed}
    config: SearchConfig = instantiate(SearchConfig, described, KEY, OWN_PACKAGES)
    return config if trials is None else replace(config, trials=trials)


def check_space(config: SearchConfig, overrides: Sequence[str], config_dir: str | None) -> str:
    """Prepare the cells at the corners of the space, and check the metric. Return the study's id.

    Raises:
        ConfigError: An invalid cell, or a metric that no run logs.
    """
    cell_ids: list[str] = []
    for corner in config.corner_points():
        try:
            job = prepare_cell(cell_at(corner, overrides, config_dir).config, "", corner, {})
            choice = tracking_of(job.raw_config).metrics
        except ConfigError as invalid:
            point = ", ".join(f"{k}={v}" for k, v in corner.items())
            raise ConfigError(f"{invalid} (search.space, at {point})") from invalid
        if not cell_ids:
            check_metric(config.metric, job.run, f"{KEY}.metric", choice)
        cell_ids.append(job.cell_id)
    return study_id(config, cell_ids)


def study_id(config: SearchConfig, cell_ids: Sequence[str]) -> str:
    """Return a study's id: the same for the same search over the same cells, for any number of trials."""
    parts = {**asdict(config), "trials": None, "cells": list(cell_ids)}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
    return f"{KEY}-{digest[:8]}"


def cell_at(values: Mapping[str, str], overrides: Sequence[str], config_dir: str | None) -> Cell:
    """Return the cell of one point of the space, without the search's own config."""
    cell = compose_cell([*overrides, *(f"{key}={value}" for key, value in values.items())], config_dir)
    cell.config.pop(KEY, None)
    return cell


def _announcement(study: Study, before: int) -> str:
    config = study.config
    what = f"{counted(config.trials, 'trial')} over {', '.join(config.space)} to {config.aim}"
    return f"study {study.id}: {what}" + (f"; {before} done before" if before else "")


@dataclass
class Searcher:
    """Turns Optuna's trials into jobs, and the results of the jobs into results of trials."""

    study: Study
    store: Store
    overrides: Sequence[str]
    config_dir: str | None
    _open: dict[int, Trial] = field(default_factory=dict)  # trials without a result, by number

    def stacks(self) -> Iterator[Stack | None]:
        """Yield a stack of one cell for each free slot; None while other processes work on the last ones.

        A point of the space that makes no valid cell is a failed trial.
        """
        while not self.study.done():
            trial = self.study.claim()
            if trial is None:
                self.study.report_waiting()
                yield None
                continue
            self._open[trial.number] = trial
            try:
                job = self._job(trial)
            except ConfigError as invalid:
                self._tell(trial, Result("", error=str(invalid)))
            else:
                yield [job]

    def tell(self, job: CellJob, done: CellResult) -> None:
        """Report the result of a job to the study."""
        trial = self._open[int(job.tags[TRIAL_TAG])]
        try:
            result = self._result(trial, done)
        except DeletedError as deleted:
            result = Result("", error=str(deleted))
        self._tell(trial, result)

    def close(self) -> None:
        """Give up the trials that have no result; a later command runs their slots."""
        for trial in self._open.values():
            with ignore_store_errors(f"trial {trial.number} is left to the next command"):
                self.study.abandon(trial)

    def values(self, params: Mapping[str, Any]) -> dict[str, str]:
        """Return parameters as overrides."""
        space = self.study.config.space
        return {key: str(v) if space[key].choices is not None else text(v) for key, v in params.items()}

    def _job(self, trial: Trial) -> CellJob:
        cell = cell_at(self.values(trial.params), self.overrides, self.config_dir)
        swept = {key: short(value) for key, value in trial.params.items()}
        tags = {SWEEP_TAG: self.study.id, "kind": "run", TRIAL_TAG: str(trial.number), **source_tags(cell.overrides)}
        name = run_name(swept, cell.config.get("name"))
        return prepare_cell(cell.config, name, swept, tags, choices=cell.choices)

    def _result(self, trial: Trial, done: CellResult) -> Result:
        """Return the trial's result from what its run logged, in this command or in an earlier one."""
        run_result, config = done.result, self.study.config
        if run_result.run_id in ("", "none"):
            return Result("", error=run_result.error or "failed")
        run = self.store.find(run_result.run_id)
        tags, metrics = run.data.tags, run.data.metrics
        if run.info.status == "RUNNING":  # its process died after the last value was stored
            self.store.end(run_result.run_id, "KILLED")
        if tags.get(TRIAL_TAG) != str(trial.number):
            self.store.tag(run_result.run_id, {TRIAL_TAG: str(trial.number)})
        result = Result(run_result.run_id, verdict=verdict_of(tags), diverged=run_result.diverged_replicates)
        if run_result.error:
            return replace(result, error=run_result.error)
        if run.info.status != "FINISHED":
            return replace(result, pruned=tags.get(PRUNED_TAG, "stopped early"))
        value = metrics.get(config.metric)
        if metrics.get("diverged_fraction") == 1.0 and (config.pruning is not None or value is None):
            self.store.tag(run_result.run_id, {PRUNED_TAG: DIVERGED})
            return replace(result, pruned=DIVERGED)
        if value is None:
            return replace(result, error=f"its run logged no {config.metric}; did it have another tracking.metrics?")
        return replace(result, value=config.objective(value))

    def _tell(self, trial: Trial, result: Result) -> None:
        self.study.tell(trial, result)
        del self._open[trial.number]
        if result.error:
            point = ", ".join(f"{k}={v}" for k, v in self.values(trial.params).items())
            messages.info("failed: %s: %s", point, result.error)
