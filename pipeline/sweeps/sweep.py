"""Run a sweep: plan all cells, open the store, run what is not finished, summarise. A run is a sweep of one cell."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from rich.table import Table
from threadpoolctl import threadpool_limits

from pipeline import signals
from pipeline.config.compose import compose_cell, compose_sweep
from pipeline.errors import ConfigError, DeletedError, StoreError
from pipeline.profiling import PROFILE
from pipeline.progress import Bars, bars
from pipeline.reproducibility.environment import provenance
from pipeline.runs.cell import CellAction, CellResult, close_stale_runs
from pipeline.runs.job import CellJob, RunOptions, prepare_cell
from pipeline.runs.limits import Limits
from pipeline.runs.result import UNTRACKED, RunResult
from pipeline.runs.stack import run_stack
from pipeline.sweeps.executor import Executor, ProcessExecutor, SerialExecutor, start_server
from pipeline.sweeps.plan import data_lines, plan_sweep, source_tags, tracking_of
from pipeline.sweeps.run_summary import run_lines
from pipeline.sweeps.slurm.config import refuse_executor, slurm_of
from pipeline.sweeps.slurm.executor import Leaving, SlurmExecutor
from pipeline.sweeps.slurm.queue import Queue, check_cluster
from pipeline.sweeps.stacks import describe_stacks, plan_stacks
from pipeline.sweeps.summary import legend_lines, link_lines, log_summary, result_table, store_option, summary_links
from pipeline.tracking.run_names import run_name
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.wording import command, counted, option

messages = logging.getLogger("gradvitals.user")
OUTER_OVERRIDES = ("experiment=", "hydra.", "tracking")  # not part of a run's name
ACTIONS: dict[CellAction, str] = {
    "new": "trained",
    "resumed": "resumed",
    "skipped": "skipped, finished before",
    "skipped (failed)": "skipped, failed before",
    "retried": "retried",
    "rerun": "rerun",
    "rerun (unreadable)": "rerun, for their records could not be read",
}
AGAIN: dict[CellAction, str] = {"skipped": "force", "skipped (failed)": "retry"}  # the option that runs skipped cells


@dataclass(frozen=True)
class SweepOptions:
    """What the user chose for a sweep.

    Args:
        retry: Run failed cells again.
        force: Run all cells again.
        fail_fast: Stop at the first failure.
        jobs: Number of stacks that run at the same time; each has a process of its own if there are several.
        is_stacked: Train cells that share shapes together (:mod:`pipeline.sweeps.stacks`).
        limits: Limits of each run.
        quiet: Show no progress bars.
        leaving: What becomes of Slurm's tasks when the command is interrupted.
    """

    retry: bool = False
    force: bool = False
    fail_fast: bool = False
    jobs: int = 1
    is_stacked: bool = True
    limits: Limits = Limits()  # noqa: RUF009 (frozen)
    quiet: bool = False
    leaving: Leaving = Leaving()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ConfigError(f"JOBS={self.jobs}: must be >= 1")

    def run_options(self, tracking: TrackingConfig, cells: int, repeat: bool = False) -> RunOptions:
        """Return the options of each run of one command.

        Args:
            tracking: The config of the store.
            cells: The number of cells.
            repeat: Resume interrupted runs only; start a new run for a cell that has ended.
        """
        return RunOptions(
            command=uuid.uuid4().hex,
            retry=self.retry,
            force=self.force,
            repeat=repeat,
            limits=self.limits,
            metrics=tracking.metrics,
            figures=tracking.draws_figures(cells),
            parameters=tracking.parameters,
        )


@dataclass(frozen=True)
class SweepResult:
    """The end of a sweep.

    Attributes:
        results: One for each cell, in the order of the sweep; NOT RUN for those after a failure with ``fail_fast``.
        actions: What was done about each cell that has a result.
        links: Lines with the addresses of the charts and of the summary.
        store: The store of the runs.
        is_logged: Whether the store has the summary.
    """

    sweep_id: str
    results: Sequence[RunResult]
    actions: Sequence[CellAction]
    links: Sequence[str]
    store: Store
    is_logged: bool = True

    @property
    def exit_code(self) -> int:
        """1 if a cell has not finished, or the summary is not logged."""
        return int(not self.is_logged or any(r.status != "FINISHED" for r in self.results))

    def table(self) -> Table:
        """Return the final numbers of each cell."""
        return result_table(self.sweep_id, self.results)

    def lines(self) -> list[str]:
        """Return what the table's numbers mean, the failures, the links, and how many cells were run, skipped ..."""
        failed = [f"failed: {r.name} (run {r.run_id}): {r.error}" for r in self.results if r.status == "FAILED"]
        report = command(f"report {option('sweep', self.sweep_id)}", options=store_option(self.store))
        page = [f"one page about it: {report}"] if self.is_logged else []
        done = count_actions(self.actions, len(self.results))
        return ["", *legend_lines(self.results), *failed, "", *page, *self.links, done]


@dataclass(frozen=True)
class SingleResult:
    """The end of one run.

    Attributes:
        action: What was done: "new" or "resumed".
        links: Lines with the address of the run's page.
        store: The store of the run.
    """

    job: CellJob
    result: RunResult
    action: CellAction
    links: Sequence[str]
    store: Store

    @property
    def exit_code(self) -> int:
        """1 if the run failed."""
        return int(self.result.error is not None)

    def lines(self) -> list[str]:
        """Return the failure, or verdict, chart and scores; and how to go on."""
        r, run = self.result, self.job.run
        if r.error:
            lines = [f"failed: {r.name} (run {r.run_id}): {r.error}"]
        else:
            lines = run_lines(r, run.facts.description, run.length.last_step, run.config.replicates)
        if self.action == "resumed":
            lines.append(f"resumed an interrupted run ({option('force')} starts a new one)")
        return lines if r.run_id == UNTRACKED else [*lines, *self._next_lines(), *self.links]

    def _next_lines(self) -> list[str]:
        """Return the commands that go on from here."""
        short, options = self.result.run_id[:8], store_option(self.store)
        lines = [f"run it again: {command('reproduce', run=short, options=options)}"]
        if self.result.remedies:
            lines.insert(0, f"try the changes: {command('prescribe', run=short, options=options)}")
        return lines


def run_sweep(overrides: Sequence[str], options: SweepOptions, config_dir: str | None = None) -> SweepResult:
    """Run every cell that is not finished yet, and log a summary of all.

    Raises:
        ConfigError: A mistake in any cell, before the first one runs.
    """
    with PROFILE.activity("compose"):
        cells = compose_sweep(overrides, config_dir)
    with PROFILE.activity("check"):
        plan = plan_sweep(cells, options.quiet)
    slurm = slurm_of(cells[0].config)
    if slurm is not None:
        check_cluster(plan.tracking)
    elif options.leaving.cancel is not None:
        raise ConfigError("--detach, --cancel: need executor=slurm")
    at_a_time = options.jobs if slurm is None else slurm.array_parallelism
    stacks = plan_stacks(plan.jobs, at_a_time) if options.is_stacked else [[job] for job in plan.jobs]
    processes = min(options.jobs, len(stacks)) if slurm is None else 1
    if processes > 1:
        start_server()
    store = open_store(plan.tracking)
    messages.info("%s, sweep %s", describe_stacks(stacks, processes), plan.sweep_id)
    _report_data(plan.jobs)
    done: dict[int, CellResult] = {}  # by the job's number
    numbers = {id(job): number for number, job in enumerate(plan.jobs)}
    total = len(plan.jobs)
    with bars(total, options.quiet) as progress:
        run_options = options.run_options(plan.tracking, total)
        executor: Executor
        if slurm is None:
            executor = choose_executor(processes, plan.tracking, store, run_options, progress)
        else:
            queue = Queue.of_sweep(plan.sweep_id, slurm, store)
            executor = SlurmExecutor(
                queue, plan.tracking.absolute(), store, run_options, progress, options.fail_fast, options.leaving
            )
        with (
            closing(executor.map(run_stack, stacks)) as finished,
            report_interruption(lambda: len(done), total, "run"),  # before the processes end
        ):
            for job, outcome in finished:
                done[numbers[id(job)]] = outcome
                _report(job, outcome)
                if options.fail_fast and outcome.result.status == "FAILED":
                    break
    results = [done[i].result if i in done else _not_run(job) for i, job in enumerate(plan.jobs)]
    try:
        with PROFILE.activity("summary"):
            summary_id = log_summary(store, plan.name, plan.sweep_id, results)
        links = summary_links(store, plan.sweep_id, results, summary_id, "sweep.png")
    except DeletedError as deleted:
        actions = [d.action for d in done.values()]
        problem = [f"the summary is not logged: {deleted}"]
        return SweepResult(plan.sweep_id, results, actions, problem, store, is_logged=False)
    return SweepResult(plan.sweep_id, results, [d.action for d in done.values()], links, store)


def run_single(overrides: Sequence[str], options: SweepOptions, config_dir: str | None = None) -> SingleResult:
    """Train and log one run. Resume it if it was interrupted, unless ``options.force``.

    Raises:
        ConfigError: A mistake in the config, before anything is written.
    """
    job = prepare_single(overrides, config_dir)
    tracking = tracking_of(job.raw_config)
    store = open_store(tracking)
    _report_data([job])
    with bars(1, options.quiet) as progress:
        executor = SerialExecutor(store, options.run_options(tracking, 1, repeat=True), progress)
        ((_, done),) = executor.map(run_stack, [[job]])
    links = link_lines(store, store.run_link(done.result.run_id), "its page")
    return SingleResult(job, done.result, done.action, links, store)


def prepare_single(overrides: Sequence[str], config_dir: str | None = None) -> CellJob:
    """Compose, build and check one run.

    Raises:
        ConfigError: A mistake in the config.
    """
    with PROFILE.activity("compose"):
        cell = compose_cell(overrides, config_dir)
    refuse_executor(cell.config)
    name = run_name(_named(overrides), cell.config.get("name"))
    tags = {"kind": "run", **source_tags(cell.overrides)}
    return prepare_cell(cell.config, name, {}, tags, choices=cell.choices)


def _named(overrides: Sequence[str]) -> dict[str, str]:
    """Return the overrides that a run's name shows, as keys and values."""
    pairs = (text.partition("=") for text in overrides if not text.startswith(OUTER_OVERRIDES))
    return {key: value for key, _, value in pairs}


def open_store(tracking: TrackingConfig) -> Store:
    """Open the store, and close the runs in it whose process died.

    Raises:
        ConfigError: The store cannot be opened.
    """
    for line in tracking.environment_lines:
        messages.info("%s", line)
    store = Store.open(tracking)
    for run in close_stale_runs(store):
        name, run_id = run.info.run_name, run.info.run_id
        messages.info("run %s (%s) was left RUNNING by a process that died: closed as KILLED", run_id, name)
    return store


def choose_executor(jobs: int, tracking: TrackingConfig, store: Store, options: RunOptions, progress: Bars) -> Executor:
    """Return an executor for this number of jobs at a time."""
    if jobs == 1:
        return SerialExecutor(store, options, progress)
    with threadpool_limits(1):  # as in the processes
        options = replace(options, origin=provenance())
    return ProcessExecutor(jobs, tracking, store, options, progress)


def _report_data(jobs: Sequence[CellJob]) -> None:
    for line in data_lines(jobs):
        messages.info("%s", line)


def _report(job: CellJob, done: CellResult) -> None:
    if done.result.error:
        messages.info("failed: %s: %s", job.name, done.result.error)
    elif done.action == "resumed":
        messages.info("resumed %s (run %s)", job.name, done.result.run_id)


def _not_run(job: CellJob) -> RunResult:
    return RunResult(job.name, "", job.swept, "NOT RUN", error="not run")


@contextmanager
def report_interruption(count: Callable[[], int], total: int, noun: str) -> Iterator[None]:
    """Report how many are done when the work is interrupted.

    Args:
        count: Returns how many are done.
        total: How many there are.
        noun: What one of them is.
    """
    try:
        yield
    except BaseException as interruption:
        signals.acknowledge()
        if isinstance(interruption, ConfigError):
            raise
        try:
            messages.info("interrupted: %d of %s done; the same command resumes", count(), counted(total, noun))
        except StoreError as refused:
            messages.info("interrupted: %s", refused)
        raise


def count_actions(actions: Sequence[CellAction], cells: int) -> str:
    """Return how many cells were run, resumed, skipped and so on, in one line."""
    counts = Counter(actions)
    parts = []
    for action, text in ACTIONS.items():
        if counts[action]:
            them = "it" if counts[action] == 1 else "them"
            again = f" ({option(AGAIN[action])} runs {them} again)" if action in AGAIN else ""
            parts.append(f"{counts[action]} {text}{again}")
    if len(actions) < cells:
        parts.append(f"{cells - len(actions)} not run, for a cell failed")
    return f"{counted(cells, 'run')}: " + ", ".join(parts)
