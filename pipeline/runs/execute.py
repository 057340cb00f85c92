"""One run with all its side effects: trains, and tells the tracker everything. The impure shell around ``train``."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from pipeline import signals
from pipeline.analysis.expectation import expect
from pipeline.analysis.explanation import explain
from pipeline.analysis.remedies import remedies
from pipeline.analysis.summary import Summary
from pipeline.analysis.verdict import Verdict, judge
from pipeline.config import schema as configs
from pipeline.config.schema import checkpoint_config
from pipeline.progress import Bars
from pipeline.reproducibility.fingerprint import cell_key, fingerprint
from pipeline.reproducibility.hash_chain import HashChain
from pipeline.runs.artifacts import (
    folder_of,
    forget,
    log_chain,
    log_divergences,
    log_origin,
    log_overhead,
    log_pictures_and_records,
    log_profiles,
    log_verdict,
)
from pipeline.runs.early_stopping import EarlyStopping, Pruning, StoppedEarlyError
from pipeline.runs.limits import Limits, enforce_limits, no_op
from pipeline.runs.result import RunResult, to_markdown
from pipeline.tracking.locks import RunLocks
from pipeline.tracking.metrics import MetricLogger, log10_mean
from pipeline.tracking.retry import ignore_store_errors
from pipeline.tracking.store import RunLogger, Store
from pipeline.tracking.tags import PRUNED_STEP_TAG, PRUNED_TAG, THEORY_FILE
from pipeline.training.checkpoints import Checkpoint, Checkpoints
from pipeline.training.divergence import Divergence
from pipeline.training.loop import Callbacks, train
from pipeline.training.prepare import PreparedRun, prepare_run
from pipeline.training.records import Record, non_finite
from pipeline.training.timing import Timer

ERROR_TAG = "error"
log = logging.getLogger("gradvitals")
log.setLevel(logging.INFO)


def execute(
    node: Mapping[str, Any],
    store: Store,
    name: str,
    swept: Mapping[str, str],
    tags: Mapping[str, str],
    bars: Bars,
    options: RunOptions | None = None,
) -> RunResult:
    """Train the run that a resolved config describes and log it; a failure is logged and returned, not raised.

    Interrupted (Ctrl-C, SIGTERM), the run is closed as KILLED and the interruption goes on.

    Args:
        swept: the keys that differ between the cells of its sweep, for tables.
        options: how it is to be run, and which run it goes on with.
    """
    if options is None:
        lease = uuid.uuid4().hex
        locks = RunLocks.of(store)
        with locks.acquire(lease):
            return execute(node, store, name, swept, {**tags, **locks.tags(lease)}, bars, RunOptions())
    run_logger = store.resume(options.run_id) if options.run_id else store.start(name, tags, options.not_before)
    outcome = RunResult(name, run_id=run_logger.run_id, swept=swept)
    with run_logger:
        with _logged(run_logger, options.attempt):
            try:
                with threadpool_limits(1), enforce_limits(options.limits, options.heartbeat) as heartbeat:
                    _train_and_log(node, store, run_logger, outcome, bars, options, heartbeat)
                outcome.status = "KILLED" if outcome.pruned else "FINISHED"
            except Exception as failure:
                outcome.status = "FAILED"
                outcome.error = traceback.format_exception_only(failure)[-1].strip()
                log.exception("the run failed")
                _log_failure(store, run_logger, outcome.error)
            except BaseException:
                signals.acknowledge()
                log.warning("interrupted")
                with contextlib.suppress(Exception):  # a call that was cut short may spoil the next one, not a second
                    run_logger.end("KILLED", hurry=True)
                raise
        if not run_logger.end(outcome.status) and outcome.error is None:
            outcome.status, outcome.error = "FAILED", "the store does not have all of it"
    return outcome


def _log_failure(store: Store, run_logger: RunLogger, error: str) -> None:
    """The traceback of the exception that is being handled; no_op goes on from a failed run's checkpoints."""
    forget(store, run_logger.run_id)
    with ignore_store_errors(f"the failure of run {run_logger.run_id} is not in the store"):
        run_logger.text(traceback.format_exc(), "traceback.txt")
        note = f"**Failed.**\n\n```\n{traceback.format_exc()[-4000:]}\n```"
        run_logger.tags({"mlflow.note.content": note, ERROR_TAG: error[:4000]})


@dataclass(frozen=True)
class RunOptions:
    """How a run is to be run.

    Attributes:
        cell: the identity it is expected to have; "" for any.
        run_id: of a run that was interrupted and is gone on with; None for a new one.
        attempt: how often it was gone on with.
        not_before: of a new run, the earliest time at which it may be said to have begun, milliseconds since 1970.
        limits: of its time and memory.
        heartbeat: told each step.
        pruning: when to end it early; None for never.
    """

    cell: str = ""
    run_id: str | None = None
    attempt: int = 0
    not_before: int | None = None
    limits: Limits = Limits()  # noqa: RUF009 (frozen)
    heartbeat: Callable[[], None] = no_op
    pruning: Pruning | None = None


@contextlib.contextmanager
def _logged(run_logger: RunLogger, attempt: int) -> Iterator[None]:
    """Collect what is logged meanwhile in the run's own ``run.log``; each later attempt has one of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (f"run.{attempt}.log" if attempt else "run.log")
        handler = logging.FileHandler(path, encoding="utf-8", delay=False)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            handler.close()
            with ignore_store_errors(f"{path.name} of run {run_logger.run_id} is not in the store"):
                run_logger.file(path)


def _train_and_log(
    node: Mapping[str, Any],
    store: Store,
    run_logger: RunLogger,
    outcome: RunResult,
    bars: Bars,
    options: RunOptions,
    heartbeat: Callable[[], None],
) -> None:
    run = prepare_run(configs.build(node))
    cell = fingerprint(node, run.data.digest)
    if options.cell not in ("", cell):
        raise RuntimeError("code or data have changed since the sweep began; start it again")
    log_origin(run_logger, node, run, cell)
    log.info("layers %s, %d training examples, %d steps", run.sizes, run.data.train.shape[1], run.length.last_step)
    checkpoints = Checkpoints(folder_of(store, run_logger.run_id), cell, checkpoint_config(node), time.monotonic)
    saved = checkpoints.load() if options.run_id else None
    if options.run_id:
        log.info("goes on from step %d", saved.state.now.step if saved else 0)
    chain = _chain(node, run, saved)
    if chain is not None:
        checkpoints.extra = chain.state
    execution = _Execution(run, run_logger, outcome, options.pruning, checkpoints, chain)
    with bars.run(outcome.name, run.length.last_step) as on_step:
        execution.train(saved, heartbeat, on_step)
    execution.conclude()
    if outcome.pruned and options.pruning is not None:
        told = {PRUNED_TAG: outcome.pruned, PRUNED_STEP_TAG: str(execution.last_step)}
        run_logger.tags(told | {cell_key(options.pruning.identity(cell)): "1"})
        store.untag(run_logger.run_id, cell_key(cell))  # the cell itself has not been run
    checkpoints.remove()


class _Execution:
    """A run on its way: its records go to the summary, the tracker and the checkpoints."""

    def __init__(
        self,
        run: PreparedRun,
        run_logger: RunLogger,
        outcome: RunResult,
        pruning: Pruning | None,
        checkpoints: Checkpoints,
        chain: HashChain | None,
    ) -> None:
        self.run, self.run_logger, self.outcome = run, run_logger, outcome
        self.checkpoints, self.chain = checkpoints, chain
        self.summary = Summary(hidden_layers=len(run.sizes) - 2)
        self.expectation = expect(run)
        self.metrics = MetricLogger(run_logger, run.config.replicates, outcome.divergences, self.expectation)
        self.early_stopping = EarlyStopping(pruning, lambda newest: self._judged(newest, 0), self.summary.hidden_layers)
        self.timer = Timer(time.perf_counter)

    @property
    def last_step(self) -> int:
        """The step of the newest record."""
        return self.summary.records[-1].step if self.summary.records else 0

    def _judged(self, summary: Summary, diverged: int) -> Verdict | None:
        return judge(summary, self.run.config, diverged, self.expectation, len(self.run.sizes) - 1)

    def _take(self, record: Record) -> None:
        self.summary.add(record)
        self.metrics.record(record)
        self.early_stopping.add(record)

    def _diverged(self, divergence: Divergence) -> None:
        self.checkpoints.diverged(divergence)
        self.metrics.diverged(divergence)

    def train(self, saved: Checkpoint | None, heartbeat: Callable[[], None], on_step: Callable[[int], None]) -> None:
        """From the beginning, or from where it was interrupted."""
        if saved is not None:
            saved.replay(self._take, self.metrics.diverged)

        def stepped(step: int) -> None:
            heartbeat()
            self.early_stopping.check()
            on_step(step)

        start = saved.state if saved else None
        callbacks = Callbacks(stepped, self._diverged, lambda step: heartbeat(), self.chain, self.checkpoints)
        records = train(self.run, callbacks, self.timer, start)
        try:
            for record in records:
                self._take(record)
                self.checkpoints.record(record)
                self.timer.mark("tracking")
        except StoppedEarlyError as doomed:
            self.outcome.pruned = str(doomed)
            log.info("pruned: %s", doomed)

    def conclude(self) -> None:
        """What it all came to: outcome, verdict, files, cost of measuring."""
        run_logger, summary, outcome, last_step = self.run_logger, self.summary, self.outcome, self.last_step
        run_logger.flush()
        log_profiles(run_logger, summary)
        self.timer.mark("tracking")
        lost = non_finite(summary.records)
        self._fill_outcome()
        self._pronounce()
        for key, value in outcome.headline.items():
            self.metrics.metric(key, float(value.mean), last_step)
        run_logger.metric("non_finite_values", lost, last_step)
        self.metrics.metric("diverged_fraction", outcome.diverged_fraction, last_step)
        log.info("%d values recorded, %d not finite", sum(r.values.size for r in summary.records), lost)
        theory = self.expectation.as_json(log10_mean(outcome.profile)) if self.expectation and outcome.profile else None
        if theory is not None:
            run_logger.text(json.dumps(theory, indent=1), THEORY_FILE)
        log_pictures_and_records(run_logger, summary, outcome.name, theory)
        log_divergences(run_logger, outcome.divergences)
        self.timer.mark("files")
        if self.chain is not None:
            log_chain(run_logger, self.chain)
            self.timer.mark("chain")
        log_overhead(run_logger, self.timer.seconds, last_step)
        note = {"mlflow.note.content": to_markdown(outcome, self.run.config, self.run.sizes, lost)}
        run_logger.tags(note | (self.chain.tags() if self.chain is not None else {}))

    def _fill_outcome(self) -> None:
        outcome, summary = self.outcome, self.summary
        outcome.summary = summary
        outcome.values, outcome.profile = summary.final_values(), summary.at("delta_rms", 0)
        outcome.headline = summary.headline()
        outcome.diverged_fraction = self.metrics.diverged_fraction
        outcome.diverged_replicates = len(outcome.divergences)
        outcome.diverged_at = min((d.finding.step for d in outcome.divergences), default=None)

    def _pronounce(self) -> None:
        """The verdict, its words and what would help."""
        outcome, config = self.outcome, self.run.config
        outcome.verdict = self._judged(self.summary, len(outcome.divergences))
        if outcome.verdict is None:
            return
        proposed = remedies(outcome.verdict, config, self.expectation)
        text = explain(outcome.verdict, config, self.expectation, proposed, self.summary.hidden_layers)
        outcome.paragraph = text.replace("RUN=...", f"RUN={outcome.run_id}")
        outcome.verdict_words = outcome.verdict.words
        log_verdict(self.run_logger, outcome.verdict, outcome.paragraph)


def _chain(node: Mapping[str, Any], run: PreparedRun, saved: Checkpoint | None) -> HashChain | None:
    """The run's observer, from where it was interrupted; None for a config older than chains."""
    chosen = configs.chain_config(node)
    if chosen is None:
        return None
    return HashChain(run, chosen.schedule, True, saved.state.now.step if saved else 0, saved.extra if saved else None)
