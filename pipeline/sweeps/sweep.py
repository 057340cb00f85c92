"""A sweep's life: composed and checked whole, store made first, every failure told, one summary at the end."""

from __future__ import annotations

import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from pipeline import signals
from pipeline.config.compose import compose_sweep
from pipeline.errors import ConfigError
from pipeline.progress import Bars, bars
from pipeline.reports.figures import style
from pipeline.reproducibility.fingerprint import code_digest
from pipeline.runs import cell as cells_
from pipeline.runs.cell import CellAction, CellJob, CellPolicy, CellResult
from pipeline.runs.limits import Limits
from pipeline.runs.result import RunResult
from pipeline.sweeps.executor import BUSY_PAUSE, Pool
from pipeline.sweeps.plan import check, id_of, source_tags, tracking_of
from pipeline.sweeps.summary import report, summarise
from pipeline.tracking.run_names import run_name
from pipeline.tracking.store import Store, TrackingConfig


@dataclass(frozen=True)
class Options:
    """How to go through the cells.

    Args:
        retry: run failed cells again.
        force: run all cells again.
        fail_fast: stop at the first failure.
        jobs: cells that run at the same time, each in a process of its own if more than one.
        limits: of each cell.
    """

    retry: bool = False
    force: bool = False
    fail_fast: bool = False
    jobs: int = 1
    limits: Limits = Limits()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ConfigError(f"JOBS={self.jobs}: must be >= 1")


def sweep(
    overrides: Sequence[str], config_dir: str | None, quiet: bool, console: Console, options: Options | None = None
) -> int:
    """Run every cell that is not finished yet; returns the exit code, 1 if a cell failed.

    Raises:
        ConfigError: a mistake in any cell, before the first one runs.
    """
    options = options or Options()
    cells = compose_sweep(overrides, config_dir)
    identities = check(cells)
    tracking = tracking_of(cells[0].config)
    store = Store.open(tracking)
    name = str(cells[0].config.get("name") or "sweep")
    sweep_id = id_of(name, identities)
    policy = CellPolicy(command=uuid.uuid4().hex, retry=options.retry, force=options.force, limits=options.limits)
    closed = cells_.close_stale_runs(store)
    for run in closed:
        told = f"run {run.info.run_id} ({run.info.run_name}) was left RUNNING by a process that died: closed as KILLED"
        console.print(told, highlight=False)
    console.print(f"{len(cells)} runs, sweep {sweep_id}", highlight=False)
    colours = style.run_colours([cell.swept for cell in cells])
    tags = {"sweep": sweep_id, "kind": "run", **source_tags(overrides)}
    tasks = [
        CellJob(
            run_name(c.swept, name), c.swept, c.config, cell, code_digest(c.config), {**tags, "mlflow.runColor": colour}
        )
        for c, cell, colour in zip(cells, identities, colours, strict=True)
    ]
    settled = settle_all(tasks, store, tracking, policy, options, quiet, console)
    outcomes = [
        settled[i].outcome if i in settled else RunResult(t.name, "", t.swept, status="NOT RUN", error="not run")
        for i, t in enumerate(tasks)
    ]
    summary_id = summarise(store, name, sweep_id, outcomes)
    report(console, store, sweep_id, summary_id, outcomes)
    console.print(decisions(settled, len(tasks)), highlight=False)
    return 1 if any(o.status != "FINISHED" for o in outcomes) else 0


def settle_all(
    tasks: Sequence[CellJob],
    store: Store,
    tracking: TrackingConfig,
    policy: CellPolicy,
    options: Options,
    quiet: bool,
    console: Console,
) -> dict[int, CellResult]:
    """How each task was settled, by its number; with ``fail_fast`` some may be missing."""
    done: dict[int, CellResult] = {}

    def told(number: int, settled: CellResult) -> None:
        settled.outcome.summary = None  # a long sweep need not keep the records of all its cells
        done[number] = settled
        if settled.outcome.error:
            console.print(f"[red]failed[/red] {settled.outcome.name}: {settled.outcome.error}", highlight=False)
        elif settled.decision == "goes on":
            console.print(f"went on with {settled.outcome.name} (run {settled.outcome.run_id})", highlight=False)

    waiting: set[int] = set()

    def busy(number: int) -> None:
        if number not in waiting:
            waiting.add(number)
            text = f"{tasks[number].name}: another process is at it; waiting (if its machine is gone: FORCE=1)"
            console.print(text, highlight=False)

    try:
        with bars(len(tasks), quiet) as shown:
            if options.jobs > 1:

                def told_and_shown(number: int, settled: CellResult) -> None:
                    told(number, settled)
                    shown.advance()

                Pool(options.jobs, tracking, store, policy, told_and_shown, busy).run(tasks, options.fail_fast)
            else:
                one_by_one(tasks, store, policy, options.fail_fast, shown, told, busy)
    except BaseException:
        signals.acknowledge()
        left = f"{len(done)} of {len(tasks)} runs are done; the same command goes on from there"
        console.print(f"interrupted: {left}", highlight=False)
        raise
    return done


def one_by_one(
    tasks: Sequence[CellJob],
    store: Store,
    policy: CellPolicy,
    fail_fast: bool,
    shown: Bars,
    told: Callable[[int, CellResult], None],
    busy: Callable[[int], None],
) -> None:
    """Settle the tasks in this process; those that another process is at come last."""
    left, waited = deque(range(len(tasks))), 0
    while left:
        number = left.popleft()
        settled = cells_.run_cell(tasks[number], store, policy, shown)
        if settled is None:
            left.append(number)
            waited += 1
            busy(number)
            if waited >= len(left):  # all that are left are with others
                time.sleep(BUSY_PAUSE)
                waited = 0
            continue
        waited = 0
        if settled.decision.endswith("before"):
            shown.advance()
        told(number, settled)
        if fail_fast and settled.outcome.status == "FAILED":
            return


def decisions(settled: Mapping[int, CellResult], cells: int) -> str:
    """How many cells were run and how many were not, and why."""
    counts = Counter(s.decision for s in settled.values())
    words: dict[CellAction, str] = {
        "new": "run",
        "goes on": "interrupted before and gone on with",
        "finished before": "finished before and not run again (FORCE=1 does)",
        "failed before": "failed before and not run again (RETRY=1 does)",
        "tried again": "failed before and tried again",
        "done anew": "done anew",
        "damaged": "finished before, but with records that cannot be read, and done anew",
    }
    told = [f"{counts[key]} {text}" for key, text in words.items() if counts[key]]
    if len(settled) < cells:
        told.append(f"{cells - len(settled)} not run, for one failed")
    return f"{cells} runs: " + ", ".join(told)
