"""One run in progress: its records become metrics, files and a verdict. The impure shell around the training."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from types import TracebackType

from pipeline import signals
from pipeline.analysis.expectation import expect
from pipeline.analysis.summary import RunningSummary, Summary
from pipeline.analysis.verdict import Verdict, judge
from pipeline.config.schema import chain_config, checkpoint_config
from pipeline.errors import DeletedError, StoreError, SupersededError
from pipeline.profiling import PROFILE
from pipeline.reproducibility.environment import provenance
from pipeline.reproducibility.fingerprint import cell_key, fingerprint
from pipeline.reproducibility.hash_chain import HashChain
from pipeline.runs import artifacts
from pipeline.runs.cell import CellTask
from pipeline.runs.conclusion import conclude
from pipeline.runs.early_stopping import EarlyStopping
from pipeline.runs.job import CellJob, RunOptions
from pipeline.runs.limits import enforce_limits
from pipeline.runs.result import ERROR_TAG, RunResult, to_markdown
from pipeline.tracking.metrics import MetricLogger, log10_mean
from pipeline.tracking.store import RunLogger, Store
from pipeline.tracking.tags import PRUNED_STEP_TAG, PRUNED_TAG, STOPPED_STEP_TAG, THEORY_FILE, attempts_of
from pipeline.training.checkpoints import Checkpoint, Checkpoints
from pipeline.training.divergence import Divergence
from pipeline.training.loop import Callbacks
from pipeline.training.records import Record
from pipeline.training.timing import Timer
from pipeline.training.trainer import TrainingState

log = logging.getLogger("gradvitals")
log.setLevel(logging.INFO)
log.addHandler(logging.NullHandler())  # what no run.log takes is not printed


CURRENT_RUN: ContextVar[str | None] = ContextVar("current_run", default=None)  # whose messages are logged


class Execution:
    """One run in progress: its records go to the summary, the store and the checkpoints.

    As a context manager it opens the run in the store and its log file, and closes both. A failure is logged and
    becomes the result (:meth:`fail`); an interruption (Ctrl-C, SIGTERM) closes the run as KILLED.

    Args:
        task: The cell and the run to write to. The caller holds the cell's lock.
        store: The store.
        options: What the user chose.

    Attributes:
        start: The saved state from which training resumes, after :meth:`prepare`.
    """

    start: TrainingState | None

    def __init__(self, task: CellTask, store: Store, options: RunOptions) -> None:
        self.task, self.job, self.run, self.attempt = task, task.job, task.job.run, task.attempt
        self.is_closed = False
        self.store, self.options, self.pruning = store, options, options.pruning
        self.pruned: str | None = None
        self.deleted: DeletedError | None = None

    def __enter__(self) -> Execution:
        """Open the run and its log file."""
        job, attempt = self.job, self.attempt
        if attempt.run_id is None:
            self.run_logger = self.store.start(job.name, self.task.tags, attempt.not_before)
        else:
            self.run_logger = self.store.resume(attempt.run_id)
        if self.options.task:
            self.run_logger.check_owner = self._check_owner
        self._open = contextlib.ExitStack()
        self._open.enter_context(_log_file(self.run_logger, attempt.number))
        self.writer = self._open.enter_context(artifacts.record_writer(self.run_logger))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the log file, remove unfinished records, and close the run if it has not ended."""
        if kind is not None and not self.is_closed:
            is_interrupted = not issubclass(kind, Exception | GeneratorExit)
            if is_interrupted:
                signals.acknowledge()
            self.abandon(is_interrupted)
        self._open.close()
        self.run_logger.discard()

    def abandon(self, hurry: bool = False) -> None:
        """Close the run as KILLED: the next attempt resumes it.

        Args:
            hurry: Whether the user wants to leave.
        """
        log.warning("interrupted")
        self._open.close()
        self.is_closed = True
        # A call that was cut short may spoil the next one, but not a second.
        with contextlib.suppress(Exception, SupersededError):
            self.run_logger.end("KILLED", hurry=hurry)

    def prepare(self) -> None:
        """Log the origin, and load the checkpoint of an interrupted run.

        Raises:
            RuntimeError: Code or data have changed.
        """
        job, run_logger, is_resumed = self.job, self.run_logger, self.attempt.run_id is not None
        with PROFILE.activity("data"):
            data = self.run.data
        if fingerprint(job.raw_config, data.digest, job.code) != job.cell_id:
            raise RuntimeError("code or data have changed since the sweep began; start it again")
        with self._as_current():
            artifacts.log_origin(run_logger, job, self.options.origin or provenance())
            log.info(
                "layers %s, %d training examples, %d steps",
                self.run.sizes,
                data.train.shape[1],
                self.run.length.last_step,
            )
            self._load_checkpoint(is_resumed)

    def _check_owner(self, waits: bool) -> None:
        """Check that no later attempt has resumed the run. That a run was deleted is found by the write itself.

        Args:
            waits: Whether to retry if the store does not answer.

        Raises:
            StoreAwayError: The store does not answer at present; only without ``waits``.
            SupersededError: A later attempt has resumed the run: it is the run's only writer.
        """
        run_id, own, client = self.run_logger.run_id, self.attempt.number, self.store.client
        try:
            latest = attempts_of(client.retry.call(lambda: client.bare.get_run(run_id), waits=waits).data.tags)
        except DeletedError:
            return
        if latest > own:
            raise SupersededError(f"run {run_id} was resumed by attempt {latest}; this one, {own}, leaves it alone")

    def _load_checkpoint(self, is_resumed: bool) -> None:
        self.divergences: list[Divergence] = []
        self.summary = self._empty_summary()
        with PROFILE.activity("theory"):
            self.expectation = expect(self.run)
        config = self.run.config
        self.metrics = MetricLogger(
            self.run_logger,
            config.replicates,
            list(config.probes),
            self.divergences,
            self.expectation,
            self.options.metrics,
        )
        hidden_layers = self.summary.hidden_layers
        self.early_stopping = EarlyStopping(self.pruning, self._judge_newest, hidden_layers)
        folder = artifacts.checkpoint_folder(self.store, self.run_logger.run_id)
        saving = checkpoint_config(self.job.raw_config)
        self.checkpoints = Checkpoints(
            folder,
            self.job.cell_id,
            saving,
            time.monotonic,
            is_urgent=signals.is_leaving,
            check_owner=partial(self.run_logger.check_owner, False),
        )
        checkpoint = self.checkpoints.load() if is_resumed else None
        self.chain = _hash_chain(self.job, checkpoint)
        if self.chain is not None:
            self.checkpoints.extra = self.chain.state
        self.start = checkpoint.state if checkpoint else None
        if is_resumed:
            log.info("resumed from step %d", checkpoint.state.now.step if checkpoint else 0)
        if checkpoint is not None:
            checkpoint.replay(self._add_to_logs, self.metrics.diverged)

    def _empty_summary(self) -> RunningSummary:
        hidden_layers = len(self.run.sizes) - 2
        return Summary(hidden_layers) if self.options.keeps_records else RunningSummary(hidden_layers)

    @contextlib.contextmanager
    def _as_current(self) -> Iterator[None]:
        """Keep the messages of the block out of the logs of other runs in the same stack."""
        token = CURRENT_RUN.set(self.run_logger.run_id)
        try:
            yield
        finally:
            CURRENT_RUN.reset(token)

    def callbacks(self, show_step: Callable[[int], None], heartbeat: Callable[[], None]) -> Callbacks:
        """Return what the training of this cell calls on its way.

        Args:
            show_step: Shows progress.
            heartbeat: To be called at each step, also while a divergence is located.
        """

        def on_step(step: int) -> None:
            heartbeat()
            show_step(step)
            if signals.is_leaving() and self.checkpoints.is_current(step):
                raise SystemExit(f"left at step {step}, after a checkpoint")

        checkpointer = self.checkpoints if self.checkpoints.config.seconds is not None else None
        on_end = partial(artifacts.log_parameters, self.run_logger) if self.options.parameters else None
        return Callbacks(
            on_step,
            self._add_divergence,
            lambda step: heartbeat(),
            self.chain,
            checkpointer,
            self._is_stopped,
            on_end,
        )

    def _is_stopped(self) -> bool:
        """Return whether the run is stopped early."""
        if not self.pruned and (reason := self.early_stopping.check()):
            self.pruned = reason
            with self._as_current():
                log.info("pruned: %s", reason)
        return self.pruned is not None or self.deleted is not None

    def add(self, record: Record) -> None:
        """Log a new record, and save it with the next checkpoint. A run that was deleted stops."""
        try:
            self._add_to_logs(record)
        except DeletedError as deleted:
            self.deleted = deleted
        self.checkpoints.record(record)

    def _add_to_logs(self, record: Record) -> None:
        self.summary.add(record)
        self.writer.add(record)
        self.metrics.record(record)
        self.early_stopping.add(record)

    def _add_divergence(self, divergence: Divergence) -> None:
        self.checkpoints.diverged(divergence)
        with self._as_current():
            self.metrics.diverged(divergence)

    def _judge_newest(self, newest: RunningSummary) -> Verdict | None:
        return judge(newest, self.run.config, 0, self.expectation, self.run.sizes, self.run.facts)

    def finish(self, seconds: Mapping[str, float]) -> RunResult:
        """Log the final numbers, the verdict and the files; close the run and return the result.

        Args:
            seconds: Time of the run's training by activity, seconds.
        """
        if self.deleted is not None:
            return self.fail(self.deleted)
        try:
            with self._as_current(), enforce_limits(self.options.limits):
                result = self._conclude(Timer(time.perf_counter), seconds)
            return self._close(result)
        except Exception as failure:  # noqa: BLE001 (logged by fail)
            return self.fail(failure)

    def fail(self, failure: Exception) -> RunResult:
        """Log a failure as the run's description, close the run as FAILED and return the result."""
        error = traceback.format_exception_only(failure)[-1].strip()
        error = " ".join((str(failure) if isinstance(failure, StoreError) else error).split())
        trace = "".join(traceback.format_exception(failure))
        with self._as_current():
            log.error("the run failed", exc_info=failure)
        self.run_logger.text(trace, "traceback.txt")
        note = f"**Failed.**\n\n```\n{trace[-4000:]}\n```"
        self.run_logger.tags({"mlflow.note.content": note, ERROR_TAG: error[:4000]})
        result = RunResult(self.job.name, self.run_logger.run_id, self.job.swept, "FAILED", error=error)
        try:
            return self._close(result)
        except Exception:
            log.exception("run %s does not have all of its files", result.run_id)
            with contextlib.suppress(Exception):
                self.run_logger.check_owner(True)
                self.store.end(result.run_id, "FAILED", {ERROR_TAG: error[:4000]})
            if isinstance(failure, DeletedError):
                artifacts.remove_checkpoints(self.store, result.run_id)
            self.is_closed = True
            return result

    def _close(self, result: RunResult) -> RunResult:
        self._open.close()
        is_complete = self.run_logger.end(result.status)
        self.is_closed = True
        if self.run_logger.is_closed:  # otherwise the next command resumes it
            artifacts.remove_checkpoints(self.store, self.run_logger.run_id)
        if not is_complete and result.error is None:
            return replace(result, status="FAILED", error="the store does not have all of it")
        return result

    def _conclude(self, timer: Timer, seconds: Mapping[str, float]) -> RunResult:
        run_logger, summary = self.run_logger, self.summary
        last_step, lost = summary.last_step, summary.non_finite
        artifacts.log_profiles(self.metrics, summary)
        timer.mark("tracking")
        result = self._result()
        self.metrics.final(result.headline, last_step)
        run_logger.metric("non_finite_values", lost, last_step)
        self.metrics.metric("diverged_fraction", result.diverged_fraction, last_step)
        log.info("%d values recorded, %d not finite", summary.values, lost)
        theory = None
        if self.expectation is not None and result.profile is not None:
            theory = self.expectation.as_json(log10_mean(result.profile))
            run_logger.text(json.dumps(theory, indent=1), THEORY_FILE)
        with PROFILE.activity("files"):
            self.writer.finish()
        if self.options.figures:
            artifacts.log_figure(run_logger, summary, result.name, theory)
        artifacts.log_divergences(run_logger, self.divergences)
        timer.mark("files")
        if self.chain is not None:
            with PROFILE.activity("files"):
                artifacts.log_chain(run_logger, self.chain)
            timer.mark("chain")
        self.metrics.overhead(timer.added_to(seconds), last_step)
        note = {"mlflow.note.content": to_markdown(result, self.run, lost)}
        run_logger.tags(note | (self.chain.tags() if self.chain is not None else {}))
        if self.pruned and self.pruning is not None:
            pruned_cell = cell_key(self.pruning.identity(self.job.cell_id))
            run_logger.tags({PRUNED_TAG: self.pruned, PRUNED_STEP_TAG: str(last_step), pruned_cell: "1"})
            self.store.untag(run_logger.run_id, cell_key(self.job.cell_id))  # the whole cell has not been run
        return result

    def _result(self) -> RunResult:
        """Return the result, and log the verdict."""
        status = "KILLED" if self.pruned else "FINISHED"
        result = RunResult(self.job.name, self.run_logger.run_id, self.job.swept, status, pruned=self.pruned)
        result = conclude(result, self.run, self.summary, self.divergences, self.expectation)
        if result.stopped_at is not None:
            self.run_logger.tags({STOPPED_STEP_TAG: str(result.stopped_at)})
            log.info("stopped early at step %d", result.stopped_at)
        if result.verdict is not None:
            artifacts.log_verdict(self.run_logger, result.verdict, result.paragraph)
        return result


def _hash_chain(job: CellJob, saved: Checkpoint | None) -> HashChain | None:
    """Return the run's chain, as it was at the checkpoint; None for a config without the key."""
    config = chain_config(job.raw_config)
    if config is None:
        return None
    step, state = (saved.state.now.step, saved.extra) if saved else (0, None)
    return HashChain(job.run, config.schedule, True, step, state)


@contextlib.contextmanager
def _log_file(run_logger: RunLogger, attempt: int) -> Iterator[None]:
    """Collect the run's log messages in the artifact ``run.log``; each later attempt has a file of its own."""
    path = run_logger.folder / (f"run.{attempt}.log" if attempt else "run.log")
    handler = logging.FileHandler(path, encoding="utf-8", delay=False, errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(lambda record: record.name == log.name and CURRENT_RUN.get() in (None, run_logger.run_id))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
