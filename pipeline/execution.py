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

from pipeline import config as configs
from pipeline import interrupts
from pipeline.artifacts import (
    THEORY_FILE,
    log_chain,
    log_divergences,
    log_origin,
    log_overhead,
    log_pictures_and_records,
    log_profiles,
    log_verdict,
)
from pipeline.chain import Chain
from pipeline.checkpoint import Checkpoints, Saved, checkpoint_config, folder_of, forget
from pipeline.divergence import Divergence
from pipeline.doom import PRUNED_STEP_TAG, PRUNED_TAG, Doom, DoomedError, Pruning
from pipeline.identity import cell_key, identity
from pipeline.leases import Leases
from pipeline.limits import Limits, limited, nothing
from pipeline.outcome import Outcome, describe
from pipeline.patience import tolerant
from pipeline.progress import Bars
from pipeline.recorder import Recorder, log10_mean
from pipeline.records import Record, non_finite
from pipeline.remedies import remedies
from pipeline.stopwatch import Stopwatch
from pipeline.summary import Summary
from pipeline.theory import expect
from pipeline.tracking import RunLog, Store
from pipeline.training import Run, ready, train
from pipeline.verdict import Verdict, judge
from pipeline.words import paragraph

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
    going: Going | None = None,
) -> Outcome:
    """Train the run that a resolved config describes and log it; a failure is logged and returned, not raised.

    Interrupted (Ctrl-C, SIGTERM), the run is closed as KILLED and the interruption goes on.

    Args:
        swept: the keys that differ between the cells of its sweep, for tables.
        going: how it is to be run, and which run it goes on with.
    """
    if going is None:
        lease = uuid.uuid4().hex
        leases = Leases.of(store)
        with leases.held(lease):
            return execute(node, store, name, swept, {**tags, **leases.tags(lease)}, bars, Going())
    run_log = store.resume(going.run_id) if going.run_id else store.start(name, tags, going.not_before)
    outcome = Outcome(name, run_id=run_log.run_id, swept=swept)
    with run_log:
        with _logged(run_log, going.attempt):
            try:
                with threadpool_limits(1), limited(going.limits, going.beat) as beat:
                    _train_and_log(node, store, run_log, outcome, bars, going, beat)
                outcome.status = "KILLED" if outcome.pruned else "FINISHED"
            except Exception as failure:
                outcome.status = "FAILED"
                outcome.error = traceback.format_exception_only(failure)[-1].strip()
                log.exception("the run failed")
                _log_failure(store, run_log, outcome.error)
            except BaseException:
                interrupts.heard()
                log.warning("interrupted")
                with contextlib.suppress(Exception):  # a call that was cut short may spoil the next one, not a second
                    run_log.end("KILLED", hurry=True)
                raise
        if not run_log.end(outcome.status) and outcome.error is None:
            outcome.status, outcome.error = "FAILED", "the store does not have all of it"
    return outcome


def _log_failure(store: Store, run_log: RunLog, error: str) -> None:
    """The traceback of the exception that is being handled; nothing goes on from a failed run's checkpoints."""
    forget(store, run_log.run_id)
    with tolerant(f"the failure of run {run_log.run_id} is not in the store"):
        run_log.text(traceback.format_exc(), "traceback.txt")
        note = f"**Failed.**\n\n```\n{traceback.format_exc()[-4000:]}\n```"
        run_log.tags({"mlflow.note.content": note, ERROR_TAG: error[:4000]})


@dataclass(frozen=True)
class Going:
    """How a run is to be run.

    Attributes:
        cell: the identity it is expected to have; "" for any.
        run_id: of a run that was interrupted and is gone on with; None for a new one.
        attempt: how often it was gone on with.
        not_before: of a new run, the earliest time at which it may be said to have begun, milliseconds since 1970.
        limits: of its time and memory.
        beat: told each step.
        pruning: when to end it early; None for never.
    """

    cell: str = ""
    run_id: str | None = None
    attempt: int = 0
    not_before: int | None = None
    limits: Limits = Limits()  # noqa: RUF009 (frozen)
    beat: Callable[[], None] = nothing
    pruning: Pruning | None = None


@contextlib.contextmanager
def _logged(run_log: RunLog, attempt: int) -> Iterator[None]:
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
            with tolerant(f"{path.name} of run {run_log.run_id} is not in the store"):
                run_log.file(path)


def _train_and_log(
    node: Mapping[str, Any],
    store: Store,
    run_log: RunLog,
    outcome: Outcome,
    bars: Bars,
    going: Going,
    beat: Callable[[], None],
) -> None:
    run = ready(configs.build(node))
    cell = identity(node, run.data.digest)
    if going.cell not in ("", cell):
        raise RuntimeError("code or data have changed since the sweep began; start it again")
    log_origin(run_log, node, run, cell)
    log.info("layers %s, %d training examples, %d steps", run.sizes, run.data.train.shape[1], run.clock.last_step)
    checkpoints = Checkpoints(folder_of(store, run_log.run_id), cell, checkpoint_config(node), time.monotonic)
    saved = checkpoints.load() if going.run_id else None
    if going.run_id:
        log.info("goes on from step %d", saved.state.now.step if saved else 0)
    chain = _chain(node, run, saved)
    if chain is not None:
        checkpoints.extra = chain.state
    execution = _Execution(run, run_log, outcome, going.pruning, checkpoints, chain)
    with bars.run(outcome.name, run.clock.last_step) as on_step:
        execution.train(saved, beat, on_step)
    execution.conclude()
    if outcome.pruned and going.pruning is not None:
        told = {PRUNED_TAG: outcome.pruned, PRUNED_STEP_TAG: str(execution.last_step)}
        run_log.tags(told | {cell_key(going.pruning.identity(cell)): "1"})
        store.untag(run_log.run_id, cell_key(cell))  # the cell itself has not been run
    checkpoints.remove()


class _Execution:
    """A run on its way: its records go to the summary, the tracker and the checkpoints."""

    def __init__(
        self,
        run: Run,
        run_log: RunLog,
        outcome: Outcome,
        pruning: Pruning | None,
        checkpoints: Checkpoints,
        chain: Chain | None,
    ) -> None:
        self.run, self.run_log, self.outcome = run, run_log, outcome
        self.checkpoints, self.chain = checkpoints, chain
        self.summary = Summary(hidden_layers=len(run.sizes) - 2)
        self.expectation = expect(run)
        self.recorder = Recorder(run_log, run.config.replicates, outcome.divergences, self.expectation)
        self.doom = Doom(pruning, lambda newest: self._judged(newest, 0), self.summary.hidden_layers)
        self.stopwatch = Stopwatch(time.perf_counter)

    @property
    def last_step(self) -> int:
        """The step of the newest record."""
        return self.summary.records[-1].step if self.summary.records else 0

    def _judged(self, summary: Summary, diverged: int) -> Verdict | None:
        return judge(summary, self.run.config, diverged, self.expectation, len(self.run.sizes) - 1)

    def _take(self, record: Record) -> None:
        self.summary.add(record)
        self.recorder.record(record)
        self.doom.add(record)

    def _diverged(self, divergence: Divergence) -> None:
        self.checkpoints.diverged(divergence)
        self.recorder.diverged(divergence)

    def train(self, saved: Saved | None, beat: Callable[[], None], on_step: Callable[[int], None]) -> None:
        """From the beginning, or from where it was interrupted."""
        if saved is not None:
            saved.tell(self._take, self.recorder.diverged)

        def stepped(step: int) -> None:
            beat()
            self.doom.look()
            on_step(step)

        start = saved.state if saved else None
        keeping = self.stopwatch, self.chain, self.checkpoints, start
        records = train(self.run, stepped, self._diverged, *keeping, on_trace=lambda step: beat())
        try:
            for record in records:
                self._take(record)
                self.checkpoints.record(record)
                self.stopwatch.lap("tracking")
        except DoomedError as doomed:
            self.outcome.pruned = str(doomed)
            log.info("pruned: %s", doomed)

    def conclude(self) -> None:
        """What it all came to: outcome, verdict, files, cost of measuring."""
        run_log, summary, outcome, last_step = self.run_log, self.summary, self.outcome, self.last_step
        run_log.flush()
        log_profiles(run_log, summary)
        self.stopwatch.lap("tracking")
        lost = non_finite(summary.records)
        self._fill_outcome()
        self._pronounce()
        for key, value in outcome.headline.items():
            self.recorder.metric(key, float(value.mean), last_step)
        run_log.metric("non_finite_values", lost, last_step)
        self.recorder.metric("diverged_fraction", outcome.diverged_fraction, last_step)
        log.info("%d values recorded, %d not finite", sum(r.values.size for r in summary.records), lost)
        theory = self.expectation.as_json(log10_mean(outcome.profile)) if self.expectation and outcome.profile else None
        if theory is not None:
            run_log.text(json.dumps(theory, indent=1), THEORY_FILE)
        log_pictures_and_records(run_log, summary, outcome.name, theory)
        log_divergences(run_log, outcome.divergences)
        self.stopwatch.lap("files")
        if self.chain is not None:
            log_chain(run_log, self.chain)
            self.stopwatch.lap("chain")
        log_overhead(run_log, self.stopwatch.seconds, last_step)
        note = {"mlflow.note.content": describe(outcome, self.run.config, self.run.sizes, lost)}
        run_log.tags(note | (self.chain.tags() if self.chain is not None else {}))

    def _fill_outcome(self) -> None:
        outcome, summary = self.outcome, self.summary
        outcome.summary = summary
        outcome.values, outcome.profile = summary.final_values(), summary.at("delta_rms", 0)
        outcome.headline = summary.headline()
        outcome.diverged_fraction = self.recorder.diverged_fraction
        outcome.diverged_replicates = len(outcome.divergences)
        outcome.diverged_at = min((d.finding.step for d in outcome.divergences), default=None)

    def _pronounce(self) -> None:
        """The verdict, its words and what would help."""
        outcome, config = self.outcome, self.run.config
        outcome.verdict = self._judged(self.summary, len(outcome.divergences))
        if outcome.verdict is None:
            return
        proposed = remedies(outcome.verdict, config, self.expectation)
        text = paragraph(outcome.verdict, config, self.expectation, proposed, self.summary.hidden_layers)
        outcome.paragraph = text.replace("RUN=...", f"RUN={outcome.run_id}")
        outcome.verdict_words = outcome.verdict.words
        log_verdict(self.run_log, outcome.verdict, outcome.paragraph)


def _chain(node: Mapping[str, Any], run: Run, saved: Saved | None) -> Chain | None:
    """The run's witness, from where it was interrupted; None for a config older than chains."""
    chosen = configs.chain_config(node)
    if chosen is None:
        return None
    return Chain(run, chosen.schedule, True, saved.state.now.step if saved else 0, saved.extra if saved else None)
