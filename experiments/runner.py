"""Run one experiment: train its sweeps, analyse the records, and answer its claims."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from engine.arrays import Array
from experiments.claims import Answer, answer, markdown, outside_reasons, table
from experiments.experiment import Experiment
from pipeline.analysis.summary import Summary
from pipeline.config.compose import compose_run, compose_sweep
from pipeline.errors import ConfigError
from pipeline.paths import PROJECT
from pipeline.progress import bars
from pipeline.reports.outputs import png, write_output
from pipeline.runs.job import CellJob, RunOptions
from pipeline.runs.result import RunResult
from pipeline.runs.stack import run_stack
from pipeline.sweeps.plan import prepare_cells, source_tags, tracking_of
from pipeline.sweeps.stacks import plan_stacks
from pipeline.sweeps.summary import Extras, link_lines, log_summary, summary_links
from pipeline.sweeps.sweep import choose_executor, open_store
from pipeline.tracking.logged_run import LoggedRun
from pipeline.tracking.store import Store
from pipeline.tracking.tags import SWEEP_TAG

DOTS_PER_INCH = 150  # of written figures


@dataclass(frozen=True)
class Result:
    """A finished cell, for the analysis.

    Attributes:
        sweep: The experiment file that the cell belongs to.
        swept: The swept values as text, by key.
        raw_config: The resolved config as plain data.
        summary: The records.
    """

    sweep: str
    swept: Mapping[str, str]
    raw_config: Mapping[str, Any]
    summary: Summary

    def values(self, probe: str, index: int = 0) -> Array:
        """Return the first (0) or last (-1) record of a probe [layers or 1, R].

        Raises:
            LookupError: The probe was not recorded.
        """
        record = self.summary.at(probe, index)
        if record is None:
            raise LookupError(f"{probe} was not recorded in {dict(self.swept)}")
        return record.values


def select(results: Sequence[Result], sweep: str | None = None, **swept: str) -> list[Result]:
    """Return the results of a sweep with the given swept values.

    Args:
        results: All results.
        sweep: The experiment file. None for all of them.
        **swept: The values by the last part of their key, as in ``activation="tanh"``.
    """

    def matches(result: Result) -> bool:
        short = {key.rpartition(".")[2].rpartition("@")[2]: value for key, value in result.swept.items()}
        return all(short.get(key) == value for key, value in swept.items())

    return [r for r in results if (sweep is None or r.sweep == sweep) and matches(r)]


@dataclass(frozen=True)
class ExperimentResult:
    """The result of one experiment.

    Attributes:
        experiment: The experiment.
        results: The finished cells, or the results of ``collect``.
        answers: The answered claims.
        figure: The figure.
        failed: The number of failed cells.
        links: Lines with the addresses of the logged runs and the figure.
    """

    experiment: Experiment
    results: Sequence[Any]
    answers: list[Answer]
    figure: Figure
    failed: int
    links: Sequence[str]

    @property
    def exit_code(self) -> int:
        """1 if a cell failed, else 0. A claim outside its tolerance is a finding, not a failure."""
        return int(self.failed > 0)

    def table(self) -> Table:
        """Return the table of claims."""
        description = self.experiment.description
        return table(f"{description.title} ({description.source})", self.answers)

    def lines(self) -> list[str]:
        """Return the claims outside their tolerance with their reasons, and the links."""
        return [*(f"outside: {line}" for line in outside_reasons(self.answers)), *self.links]


def run_experiment(
    experiment: Experiment, overrides: Sequence[str], slow: bool, quiet: bool, processes: int = 1
) -> ExperimentResult:
    """Run an experiment, log its runs and a summary, and answer its claims.

    Args:
        experiment: The experiment.
        overrides: Overrides of all configs.
        slow: Whether to run the slow variant.
        quiet: Whether progress bars are off.
        processes: How many stacks of cells run at the same time.

    Raises:
        ConfigError: Any cell is invalid. No cell has run.
    """
    tags = {
        SWEEP_TAG: f"{experiment.name}-{uuid.uuid4().hex[:8]}",
        "kind": "run",
        "experiment": experiment.name,
        **source_tags(overrides),
    }
    if experiment.collect:
        refused = set(overrides) - set(applicable(experiment, overrides))
        if refused:
            raise ConfigError(f"{min(refused)}: {experiment.name} has its own configs; allowed: tracking.*")
        store = open_store(tracking_of(compose_run(overrides)))
        runs: list[RunResult] = []
        results = experiment.collect(slow)
    else:
        jobs = _jobs(experiment, overrides, slow, tags, quiet)
        store = open_store(tracking_of(jobs[0][1].raw_config))
        runs, results = _run_jobs(jobs, store, quiet, processes)
    answers = answer(experiment.claims(slow), experiment.measured(results))
    figure = experiment.figure(results)
    summary_id = _log_summary(store, tags, runs, answers, figure)
    if runs:
        links = summary_links(store, tags[SWEEP_TAG], runs, summary_id, "figure.png")
    else:
        links = link_lines(store, store.run_link(summary_id, "/artifacts/figure.png"), "its figure")
    failed = sum(run.status == "FAILED" for run in runs)
    return ExperimentResult(experiment, results, answers, figure, failed, links)


def applicable(experiment: Experiment, overrides: Sequence[str]) -> list[str]:
    """Return the overrides that apply to an experiment: all, or only ``tracking`` if it has its own configs."""
    return [text for text in overrides if not experiment.collect or text.startswith("tracking")]


def _jobs(
    experiment: Experiment, overrides: Sequence[str], slow: bool, tags: Mapping[str, str], quiet: bool
) -> list[tuple[str, CellJob]]:
    """Return all checked cells, each with its sweep."""
    sweeps = experiment.sweeps(slow)
    jobs = []
    for sweep in sweeps:
        cells = compose_sweep([f"experiment={sweep}", *overrides], experiment.config_dir)
        jobs += [(sweep, job) for job in prepare_cells(cells, sweep, tags, quiet)]
    return jobs


def _run_jobs(
    jobs: Sequence[tuple[str, CellJob]], store: Store, quiet: bool, processes: int
) -> tuple[list[RunResult], list[Result]]:
    """Train and log all cells. The table of an experiment with several sweeps has a column for the sweep."""
    has_parts = len({sweep for sweep, _ in jobs}) > 1
    keys = list(dict.fromkeys(key for _, job in jobs for key in job.swept))
    runs, results = [], []
    with bars(len(jobs), quiet) as progress:
        tracking, cells = tracking_of(jobs[0][1].raw_config), len(jobs)
        options = RunOptions(
            command=uuid.uuid4().hex,
            force=True,
            metrics=tracking.metrics,
            figures=tracking.draws_figures(cells),
            parameters=tracking.parameters,
            keeps_records=True,
        )
        stacks = plan_stacks([job for _, job in jobs], processes)
        executor = choose_executor(min(processes, len(stacks)), tracking, store, options, progress)
        finished = {id(job): done for job, done in executor.map(run_stack, stacks)}
        for sweep, job in jobs:
            done = finished[id(job)]
            swept = ({"part": sweep} if has_parts else {}) | {key: job.swept.get(key, "–") for key in keys}
            runs.append(replace(done.result, swept=swept, summary=None))
            if done.result.status == "FINISHED":
                summary = done.result.summary or LoggedRun.from_store(store, store.find(done.result.run_id)).summary()
                results.append(Result(sweep, job.swept, job.raw_config, summary))
    return runs, results


def _log_summary(
    store: Store, tags: Mapping[str, str], runs: Sequence[RunResult], answers: Sequence[Answer], figure: Figure
) -> str:
    """Log the claims and the figure as a run of their own. Return its id."""
    name, sweep_id = tags["experiment"], tags[SWEEP_TAG]
    page = "\n".join(markdown(answers)) + "\n"
    metrics = {f"claim/{a.claim.key}": float(a.measured.mean) for a in answers if a.measured is not None}
    metrics["claim/within"] = sum(a.within for a in answers) / max(len(answers), 1)
    statuses = {f"claim.{a.claim.key}": "within" if a.within else "outside" for a in answers}
    if runs:
        extras = Extras({"claims.md": page}, {"figure.png": figure}, metrics, statuses)
        return log_summary(store, name, sweep_id, runs, extras)
    with store.start(f"sweep {name}", {**tags, "sweep_summary": sweep_id, "kind": "sweep"}) as summary:
        summary.text(page, "claims.md")
        summary.figure(figure, "figure.png")
        for key, value in metrics.items():
            summary.metric(key, value)
        summary.tags(statuses)
        summary.end("FINISHED")
    return summary.run_id


def write_pages(result: ExperimentResult, slow: bool, root: Path = PROJECT, force: bool = False) -> list[Path]:
    """Write the pages and figures of an experiment.

    Args:
        result: The finished experiment.
        slow: Whether the slow variant was run.
        root: The folder that the paths of ``pages`` are relative to.
        force: Whether to replace files that were not written here.

    Returns:
        The written files.

    Raises:
        ConfigError: A file of another origin is there.
    """
    experiment = result.experiment
    if experiment.pages is None:
        return []
    command = f"python -m experiments {experiment.name}{' --slow' if slow else ''} --write"
    written = []
    for name, content in experiment.pages(result.results, command).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_output(content.encode() if isinstance(content, str) else png(content, DOTS_PER_INCH), path, force)
        written.append(path)
    return written
