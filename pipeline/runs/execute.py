"""Train one run and log it: records become metrics, files and a verdict. The impure shell around ``train``."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from threadpoolctl import threadpool_limits

from pipeline import signals
from pipeline.analysis.expectation import expect
from pipeline.analysis.explanation import explain
from pipeline.analysis.remedies import remedies
from pipeline.analysis.summary import Summary
from pipeline.analysis.verdict import Verdict, judge
from pipeline.config.schema import chain_config, checkpoint_config
from pipeline.progress import Bars
from pipeline.reproducibility.fingerprint import cell_key, fingerprint
from pipeline.reproducibility.hash_chain import HashChain
from pipeline.runs import artifacts
from pipeline.runs.early_stopping import EarlyStopping, StoppedEarlyError
from pipeline.runs.job import Attempt, CellJob, RunOptions
from pipeline.runs.limits import enforce_limits
from pipeline.runs.result import ERROR_TAG, RunResult, to_markdown
from pipeline.tracking.metrics import MetricLogger, log10_mean
from pipeline.tracking.retry import ignore_store_errors
from pipeline.tracking.store import RunLogger, Store
from pipeline.tracking.tags import PRUNED_STEP_TAG, PRUNED_TAG, THEORY_FILE
from pipeline.training.checkpoints import Checkpoint, Checkpoints
from pipeline.training.divergence import Divergence
from pipeline.training.loop import Callbacks, train
from pipeline.training.records import Record, non_finite
from pipeline.training.timing import Timer

log = logging.getLogger("gradvitals")
log.setLevel(logging.INFO)


def execute(job: CellJob, store: Store, options: RunOptions, attempt: Attempt, bars: Bars) -> RunResult:
    """Train the job's run and log it. The caller holds the cell's lock.

    A failure is logged and returned, not raised. An interruption (Ctrl-C, SIGTERM) closes the run as KILLED and is
    raised.
    """
    if attempt.run_id is None:
        run_logger = store.start(job.name, job.tags, attempt.not_before)
    else:
        run_logger = store.resume(attempt.run_id)
    result = RunResult(job.name, run_logger.run_id, job.swept, "FAILED")
    with run_logger:
        with _log_file(run_logger, attempt.number):
            try:
                with threadpool_limits(1), enforce_limits(options.limits) as heartbeat:
                    execution = _Execution(job, store, run_logger, options, is_resumed=attempt.run_id is not None)
                    with bars.run(job.name, job.run.length.last_step) as show_step, execution.early_stop():
                        callbacks = execution.callbacks(heartbeat, show_step)
                        for record in train(job.run, callbacks, execution.timer, execution.start):
                            execution.add(record)
                    result = execution.conclude()
            except Exception as failure:
                result = replace(result, error=traceback.format_exception_only(failure)[-1].strip())
                log.exception("the run failed")
                _log_failure(store, run_logger, str(result.error))
            except BaseException:
                signals.acknowledge()
                log.warning("interrupted")
                # A call that was cut short may spoil the next one, but not a second.
                with contextlib.suppress(Exception):
                    run_logger.end("KILLED", hurry=True)
                raise
        if not run_logger.end(result.status) and result.error is None:
            result = replace(result, status="FAILED", error="the store does not have all of it")
    return result


def _log_failure(store: Store, run_logger: RunLogger, error: str) -> None:
    artifacts.remove_checkpoints(store, run_logger.run_id)
    with ignore_store_errors(f"the failure of run {run_logger.run_id} is not in the store"):
        run_logger.text(traceback.format_exc(), "traceback.txt")
        note = f"**Failed.**\n\n```\n{traceback.format_exc()[-4000:]}\n```"
        run_logger.tags({"mlflow.note.content": note, ERROR_TAG: error[:4000]})


@contextlib.contextmanager
def _log_file(run_logger: RunLogger, attempt: int) -> Iterator[None]:
    """Collect log messages in the artifact ``run.log``; each later attempt has a file of its own."""
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


class _Execution:
    """One run in progress: its records go to the summary, the store and the checkpoints."""

    def __init__(
        self, job: CellJob, store: Store, run_logger: RunLogger, options: RunOptions, is_resumed: bool
    ) -> None:
        self.job, self.run, self.store, self.run_logger = job, job.run, store, run_logger
        self.pruning, self.has_figure = options.pruning, options.figures
        data = self.run.data
        if fingerprint(job.raw_config, data.digest) != job.cell_id:
            raise RuntimeError("code or data have changed since the sweep began; start it again")
        artifacts.log_origin(run_logger, job.raw_config, self.run, job.cell_id)
        log.info(
            "layers %s, %d training examples, %d steps", self.run.sizes, data.train.shape[1], self.run.length.last_step
        )
        self.divergences: list[Divergence] = []
        self.summary = Summary(hidden_layers=len(self.run.sizes) - 2)
        self.expectation = expect(self.run)
        self.metrics = MetricLogger(run_logger, self.run, self.divergences, self.expectation, options.metrics)
        hidden_layers = self.summary.hidden_layers
        self.early_stopping = EarlyStopping(self.pruning, lambda newest: self._judge(newest, 0), hidden_layers)
        self.timer = Timer(time.perf_counter)
        self.pruned: str | None = None
        folder = artifacts.checkpoint_folder(store, run_logger.run_id)
        self.checkpoints = Checkpoints(folder, job.cell_id, checkpoint_config(job.raw_config), time.monotonic)
        checkpoint = self.checkpoints.load() if is_resumed else None
        self.chain = _hash_chain(job, checkpoint)
        if self.chain is not None:
            self.checkpoints.extra = self.chain.state
        self.start = checkpoint.state if checkpoint else None
        if is_resumed:
            log.info("resumed from step %d", checkpoint.state.now.step if checkpoint else 0)
        if checkpoint is not None:
            checkpoint.replay(self._add_to_logs, self.metrics.diverged)

    @property
    def last_step(self) -> int:
        """The step of the newest record."""
        return self.summary.records[-1].step if self.summary.records else 0

    def callbacks(self, heartbeat: Callable[[], None], show_step: Callable[[int], None]) -> Callbacks:
        """Return what training calls on its way.

        Args:
            heartbeat: To be called at each step, also while a divergence is located.
            show_step: Shows progress.
        """

        def on_step(step: int) -> None:
            heartbeat()
            self.early_stopping.check()
            show_step(step)

        return Callbacks(on_step, self._add_divergence, lambda step: heartbeat(), self.chain, self.checkpoints)

    @contextlib.contextmanager
    def early_stop(self) -> Iterator[None]:
        """End training without an error when the run is stopped early."""
        try:
            yield
        except StoppedEarlyError as stopped:
            self.pruned = str(stopped)
            log.info("pruned: %s", stopped)

    def add(self, record: Record) -> None:
        """Log a new record, and save it with the next checkpoint."""
        self._add_to_logs(record)
        self.checkpoints.record(record)
        self.timer.mark("tracking")

    def _add_to_logs(self, record: Record) -> None:
        self.summary.add(record)
        self.metrics.record(record)
        self.early_stopping.add(record)

    def _add_divergence(self, divergence: Divergence) -> None:
        self.checkpoints.diverged(divergence)
        self.metrics.diverged(divergence)

    def _judge(self, summary: Summary, diverged: int) -> Verdict | None:
        return judge(summary, self.run.config, diverged, self.expectation, len(self.run.sizes) - 1)

    def conclude(self) -> RunResult:
        """Log the final numbers, the verdict and the files; return the result."""
        run_logger, summary, last_step = self.run_logger, self.summary, self.last_step
        run_logger.flush()
        artifacts.log_profiles(self.metrics, summary)
        self.timer.mark("tracking")
        lost = non_finite(summary.records)
        result = self._result()
        self.metrics.final(result.headline, last_step)
        run_logger.metric("non_finite_values", lost, last_step)
        self.metrics.metric("diverged_fraction", result.diverged_fraction, last_step)
        log.info("%d values recorded, %d not finite", sum(r.values.size for r in summary.records), lost)
        theory = None
        if self.expectation is not None and result.profile is not None:
            theory = self.expectation.as_json(log10_mean(result.profile))
            run_logger.text(json.dumps(theory, indent=1), THEORY_FILE)
        artifacts.log_records(run_logger, summary)
        if self.has_figure:
            artifacts.log_figure(run_logger, summary, result.name, theory)
        artifacts.log_divergences(run_logger, self.divergences)
        self.timer.mark("files")
        if self.chain is not None:
            artifacts.log_chain(run_logger, self.chain)
            self.timer.mark("chain")
        self.metrics.overhead(self.timer.seconds, last_step)
        note = {"mlflow.note.content": to_markdown(result, self.run, lost)}
        run_logger.tags(note | (self.chain.tags() if self.chain is not None else {}))
        if self.pruned and self.pruning is not None:
            pruned_cell = cell_key(self.pruning.identity(self.job.cell_id))
            run_logger.tags({PRUNED_TAG: self.pruned, PRUNED_STEP_TAG: str(last_step), pruned_cell: "1"})
            self.store.untag(run_logger.run_id, cell_key(self.job.cell_id))  # the whole cell has not been run
        self.checkpoints.remove()
        return result

    def _result(self) -> RunResult:
        """Return the result, and log the verdict."""
        config = self.run.config
        status = "KILLED" if self.pruned else "FINISHED"
        result = RunResult(self.job.name, self.run_logger.run_id, self.job.swept, status, pruned=self.pruned)
        result = result.with_records(self.summary).with_divergences(self.divergences, config.replicates)
        verdict = self._judge(self.summary, len(self.divergences))
        if verdict is None:
            return result
        proposed = remedies(verdict, config, self.expectation)
        text = explain(verdict, config, self.expectation, proposed, self.summary.hidden_layers)
        text = text.replace("RUN=...", f"RUN={result.run_id}")
        artifacts.log_verdict(self.run_logger, verdict, text)
        return replace(result, verdict=verdict, verdict_words=verdict.words, explanation=text)


def _hash_chain(job: CellJob, saved: Checkpoint | None) -> HashChain | None:
    """Return the run's chain, as it was at the checkpoint; None for a config without the key."""
    config = chain_config(job.raw_config)
    if config is None:
        return None
    step, state = (saved.state.now.step, saved.extra) if saved else (0, None)
    return HashChain(job.run, config.schedule, True, step, state)
