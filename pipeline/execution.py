"""One run with all its side effects: trains, and tells the tracker everything. The impure shell around ``train``."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from threadpoolctl import threadpool_limits

from engine.arrays import Array
from pipeline import config as configs
from pipeline import figures
from pipeline.address import without_secrets
from pipeline.chain import CHAIN_FILE, Chain
from pipeline.checkpoint import Checkpoints, Saved, checkpoint_config
from pipeline.divergence import Divergence
from pipeline.doom import PRUNED_STEP_TAG, PRUNED_TAG, Doom, DoomedError, Pruning
from pipeline.identity import cell_key, code_digest, identity, identity_tags
from pipeline.leases import Leases
from pipeline.limits import Limits, limited, nothing
from pipeline.patience import tolerant
from pipeline.progress import Bars
from pipeline.provenance import provenance
from pipeline.recorder import Recorder, log10_mean
from pipeline.records import Record, non_finite, tidy
from pipeline.remedies import remedies
from pipeline.statistics import Estimate, estimate
from pipeline.stopwatch import Stopwatch
from pipeline.summary import PROFILED, Summary, show
from pipeline.theory import expect
from pipeline.tracking import RunLog, Store
from pipeline.training import Run, ready, train
from pipeline.verdict import Verdict, judge
from pipeline.words import paragraph

CONFIG_FILE = "config.yaml"
ERROR_TAG = "error"
RECORDS_FILE = "records.parquet"
THEORY_FILE = "theory.json"
DIVERGENCE_FILE, LAST_STEPS_FILE = "divergence.json", "last_steps.parquet"
log = logging.getLogger("gradvitals")
log.setLevel(logging.INFO)


@dataclass
class Outcome:
    """How one run ended.

    Attributes:
        status: FINISHED, FAILED, or KILLED if it was pruned.
        headline: its final numbers by metric name, with intervals.
        error: the last line of the traceback of a failed run.
        pruned: why it was ended early, if it was (:mod:`pipeline.doom`).
        profile: δ of each layer at the start, if it was recorded.
        divergences: what was found of replicates that diverged. Such a run is a result, not a failure.
        diverged_replicates, diverged_at: how many of them, and the first step at which one was not finite.
        verdict, paragraph: what is wrong, if the run measured enough to tell; and the same in plain words.
        verdict_words: the verdict's classes; "" if there is none.
        values: the final numbers replicate by replicate, [R] each.
        diverged_fraction: share of its replicates that diverged.
        summary: its records, of a finished run.
    """

    name: str
    run_id: str
    swept: Mapping[str, str]
    status: str = "RUNNING"
    headline: dict[str, Estimate] = field(default_factory=dict)
    error: str | None = None
    pruned: str | None = None
    profile: Record | None = None
    divergences: list[Divergence] = field(default_factory=list)
    diverged_replicates: int = 0
    diverged_at: int | None = None
    verdict: Verdict | None = None
    verdict_words: str = ""
    paragraph: str = ""
    values: Mapping[str, Array] = field(default_factory=dict)
    diverged_fraction: float = 0.0
    summary: Summary | None = field(default=None, repr=False)


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
        leases = Leases(store.side("locks"))
        with leases.held(lease):
            return execute(node, store, name, swept, {**tags, **leases.tags(lease)}, bars, Going())
    run_log = store.resume(going.run_id) if going.run_id else store.start(name, tags)
    outcome = Outcome(name, run_id=run_log.run_id, swept=swept)
    with _logged(run_log, going.attempt):
        try:
            with threadpool_limits(1), limited(going.limits, going.beat) as beat:
                _train_and_log(node, store, run_log, outcome, bars, going, beat)
            outcome.status = "KILLED" if outcome.pruned else "FINISHED"
        except Exception as failure:
            outcome.status = "FAILED"
            outcome.error = traceback.format_exception_only(failure)[-1].strip()
            log.exception("the run failed")
            with tolerant(f"the failure of run {run_log.run_id} is not in the store"):
                run_log.text(traceback.format_exc(), "traceback.txt")
                note = f"**Failed.**\n\n```\n{traceback.format_exc()[-4000:]}\n```"
                run_log.tags({"mlflow.note.content": note, ERROR_TAG: outcome.error[:4000]})
        except BaseException:
            log.warning("interrupted")
            run_log.end("KILLED", hurry=True)
            raise
    if not run_log.end(outcome.status) and outcome.error is None:
        outcome.status, outcome.error = "FAILED", "the store does not have all of it"
    return outcome


@dataclass(frozen=True)
class Going:
    """How a run is to be run.

    Attributes:
        cell: the identity it is expected to have; "" for any.
        run_id: of a run that was interrupted and is gone on with; None for a new one.
        attempt: how often it was gone on with.
        limits: of its time and memory.
        beat: told each step.
        pruning: when to end it early; None for never.
    """

    cell: str = ""
    run_id: str | None = None
    attempt: int = 0
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
    config = configs.build(node)
    run = ready(config)
    origin = provenance()
    cell = identity(node, run.data.digest)
    if going.cell not in ("", cell):
        raise RuntimeError("code or data have changed since the sweep began; start it again")
    run_log.params(flat_params(node) | {"layer_sizes": "-".join(map(str, run.sizes))})
    run_log.tags(
        origin.tags
        | {"config.sha256": configs.digest(node), "data.sha256": run.data.digest, "seed": str(config.seed)}
        | {"code.sha256": code_digest(node)}
        | identity_tags(cell)
    )
    run_log.text(yaml.safe_dump(without_secrets(node), sort_keys=False), CONFIG_FILE)
    run_log.text(origin.packages, "packages.txt")
    if origin.patch:
        run_log.text(origin.patch, "uncommitted.patch")
    log.info("layers %s, %d training examples, %d steps", run.sizes, run.data.train.shape[1], run.clock.last_step)
    summary = Summary(hidden_layers=len(run.sizes) - 2)
    expectation = expect(run)
    recorder = Recorder(run_log, config.replicates, outcome.divergences, expectation)
    stopwatch = Stopwatch(time.perf_counter)
    place = store.side("checkpoints") / run_log.run_id
    checkpoints = Checkpoints(place, cell, checkpoint_config(node), time.monotonic)
    saved = checkpoints.load() if going.run_id else None
    if going.run_id:
        log.info("goes on from step %d", saved.state.now.step if saved else 0)
    chain = _chain(node, run, saved)
    if chain is not None:
        checkpoints.extra = chain.state

    def diverged(divergence: Divergence) -> None:
        checkpoints.diverged(divergence)
        recorder.diverged(divergence)

    layers = len(run.sizes) - 1
    doom = Doom(going.pruning, lambda newest: judge(newest, config, 0, expectation, layers), summary.hidden_layers)

    def take(record: Record) -> None:
        summary.add(record)
        recorder.record(record)
        doom.add(record)

    if saved is not None:
        saved.tell(take, recorder.diverged)
    with bars.run(outcome.name, run.clock.last_step) as on_step:

        def stepped(step: int) -> None:
            beat()
            doom.look()
            on_step(step)

        start = saved.state if saved else None
        try:
            for record in train(run, stepped, diverged, stopwatch, chain, checkpoints, start):
                take(record)
                checkpoints.record(record)
                stopwatch.lap("tracking")
        except DoomedError as doomed:
            outcome.pruned = str(doomed)
            log.info("pruned: %s", doomed)
    last_step = summary.records[-1].step if summary.records else 0
    run_log.flush()
    log_profiles(run_log, summary)
    stopwatch.lap("tracking")
    outcome.summary = summary
    outcome.values, outcome.profile = summary.final_values(), summary.at("delta_rms", 0)
    outcome.headline = summary.headline()
    outcome.verdict = judge(summary, config, len(outcome.divergences), expectation, len(run.sizes) - 1)
    if outcome.verdict is not None:
        proposed = remedies(outcome.verdict, config, expectation)
        text = paragraph(outcome.verdict, config, expectation, proposed, summary.hidden_layers)
        outcome.paragraph = text.replace("RUN=...", f"RUN={outcome.run_id}")
        outcome.verdict_words = outcome.verdict.words
        log_verdict(run_log, outcome.verdict, outcome.paragraph)
    for key, value in outcome.headline.items():
        recorder.metric(key, float(value.mean), last_step)
    lost = non_finite(summary.records)
    run_log.metric("non_finite_values", lost, last_step)
    outcome.diverged_fraction = recorder.diverged_fraction
    outcome.diverged_replicates = len(outcome.divergences)
    outcome.diverged_at = min((d.finding.step for d in outcome.divergences), default=None)
    recorder.metric("diverged_fraction", recorder.diverged_fraction, last_step)
    log.info("%d values recorded, %d not finite", sum(r.values.size for r in summary.records), lost)
    theory = expectation.as_json(log10_mean(outcome.profile)) if expectation and outcome.profile else None
    if theory is not None:
        run_log.text(json.dumps(theory, indent=1), THEORY_FILE)
    _log_files(run_log, summary, outcome.name, theory)
    _log_divergences(run_log, outcome.divergences)
    stopwatch.lap("files")
    if chain is not None:
        _log_chain(run_log, chain)
        stopwatch.lap("chain")
    _log_overhead(run_log, stopwatch.seconds, last_step)
    note = {"mlflow.note.content": describe(outcome, config, run.sizes, lost)}
    run_log.tags(note | (chain.tags() if chain is not None else {}))
    if outcome.pruned and going.pruning is not None:
        told = {PRUNED_TAG: outcome.pruned, PRUNED_STEP_TAG: str(last_step)}
        run_log.tags(told | {cell_key(going.pruning.identity(cell)): "1"})
        store.untag(run_log.run_id, cell_key(cell))  # the cell itself has not been run
    checkpoints.remove()


def _chain(node: Mapping[str, Any], run: Run, saved: Saved | None) -> Chain | None:
    """The run's witness, from where it was interrupted; None for a config older than chains."""
    chosen = configs.chain_config(node)
    if chosen is None:
        return None
    return Chain(run, chosen.schedule, True, saved.state.now.step if saved else 0, saved.extra if saved else None)


def _log_chain(run_log: RunLog, chain: Chain) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CHAIN_FILE
        chain.table().to_parquet(path, index=False, compression="zstd")
        run_log.file(path)


def log_verdict(run_log: RunLog, verdict: Verdict, text: str) -> None:
    """Tags to filter by and to read."""
    tags = {"verdict": verdict.words, "verdict_at_start": verdict.start, "verdict_at_end": verdict.end}
    run_log.tags(tags | {"verdict_paragraph": text})
    d = verdict.decades
    for name, value in (("", d.mean), ("_low", d.low), ("_high", d.high)):
        run_log.metric(f"verdict_decades{name}", float(value))


def _log_divergences(run_log: RunLog, divergences: list[Divergence]) -> None:
    """Tags that can be filtered, the findings, and the vitals of the last steps."""
    run_log.tags({"diverged": str(bool(divergences)).lower()})
    if not divergences:
        return
    findings = sorted((d.finding for d in divergences), key=lambda f: (f.step, f.replicate))
    run_log.tags(
        {
            "diverged_at_step": str(findings[0].step),
            "diverged_replicates": ",".join(str(f.replicate) for f in sorted(findings, key=lambda f: f.replicate)),
            "diverged_first": findings[0].sentence(),
        }
    )
    run_log.metric("diverged_at_step", findings[0].step, findings[0].step)
    told = [asdict(f) | {"operands": {k: str(v) for k, v in f.operands.items()}} for f in findings]
    run_log.text(json.dumps(told, indent=2, ensure_ascii=False), DIVERGENCE_FILE)
    first = min(divergences, key=lambda d: (d.finding.step, d.finding.replicate))
    _log_table(run_log, first.last_steps, LAST_STEPS_FILE)


def _log_overhead(run_log: RunLog, seconds: Mapping[str, float], step: int) -> None:
    """What everything but the steps themselves took, as a share of the time of the steps: ``overhead/delta_rms``."""
    bare = seconds.get("step", 0.0)
    if bare <= 0:
        return
    shares = {name: spent / bare for name, spent in seconds.items() if name != "step"}
    for name, share in shares.items():
        run_log.metric(f"overhead/{name}", share, step)
    other = ("evaluation", "watch", "tracking", "files", "chain", "checkpoints")
    probes = sum(share for name, share in shares.items() if name not in other)
    run_log.metric("overhead/all_probes", probes, step)
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    log.info("steps took %.3g s; on top of that, in %% of it: probes %.1f", bare, 100 * probes)
    for name, share in ranked:
        log.info("  %-32s %6.2f %%", name, 100 * share)


def log_profiles(run_log: RunLog, summary: Summary) -> None:
    """log10 of the main norms with the layer as the metric's step: the UI then draws norm against layer."""
    for probe in PROFILED:
        for index, when in ((0, "start"), (-1, "end")):
            record = summary.at(probe, index)
            if record is not None:
                means = estimate(record.values, record.geometric).mean
                for number, mean in zip(record.layers, means, strict=True):
                    if mean > 0:
                        run_log.metric(f"log10_{probe}_by_layer/{when}", float(np.log10(mean)), number)


def _log_files(run_log: RunLog, summary: Summary, name: str, theory: Mapping[str, Any] | None) -> None:
    pictures = {"gradient_norm_by_layer.png": figures.profile(summary, name, theory)}
    for probe in ("delta_rms", "gradient_norm"):
        pictures[f"{probe}_layer_by_step.png"] = figures.heat_map(summary, probe, f"{name}: log₁₀ {probe}")
    for file_name, figure in pictures.items():
        if figure is not None:
            run_log.figure(figure, file_name)
    _log_table(run_log, summary.records, RECORDS_FILE)


def _log_table(run_log: RunLog, records: list[Record], name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        tidy(records).to_parquet(path, index=False)
        run_log.file(path)


def flat_params(node: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config as flat scalars: ``optimizer.learning_rate``; a class stands for its group: ``activation``."""
    found: dict[str, Any] = {}

    def walk(value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            if "_target_" in value:
                found[key] = re.sub(r"(?<!^)(?=[A-Z])", "_", str(value["_target_"]).rpartition(".")[2]).lower()
            for name, inner in value.items():
                if name != "_target_":
                    walk(inner, f"{key}.{name}" if key else name)
        else:
            found[key] = value

    walk({k: v for k, v in configs.scientific(node).items() if k != "probes"}, "")
    found["probes"] = ",".join(node.get("probes", {}))
    return {key: value for key, value in found.items() if value != {} and len(str(value)) <= 500}


def describe(outcome: Outcome, config: configs.Config, sizes: list[int], lost: int) -> str:
    """The Markdown at the top of the run's page."""
    rows = "\n".join(f"| {name.replace('_', ' ')} | {show(value)} |" for name, value in outcome.headline.items())
    table = f"\n\n| quantity | mean [95% interval] |\n|---|---|\n{rows}" if rows else ""
    warning = f"\n\n{lost} recorded values are not finite; `{RECORDS_FILE}` keeps them." if lost else ""
    if outcome.divergences:
        count = len(outcome.divergences)
        told = "\n".join(f"- {d.finding.sentence()}" for d in outcome.divergences)
        warning = (
            f"\n\n**{count} of {config.replicates} replicates diverged**; means and intervals are of the others."
            f"\n\n{told}\n\nThe steps before it: `{LAST_STEPS_FILE}`.{warning}"
        )
    verdict = f"**Verdict: {outcome.verdict.words}.** {outcome.paragraph}\n\n" if outcome.verdict else ""
    pruned = f"**Pruned**, the rest of its training was not done: {outcome.pruned}.\n\n" if outcome.pruned else ""
    return (pruned + verdict) + (
        f"**{outcome.name}**: layers {'-'.join(map(str, sizes))}, {type(config.activation).__name__} then "
        f"{type(config.output).__name__}, {type(config.cost).__name__}, {config.epochs} epochs, "
        f"{config.replicates} replicates from seed {config.seed}.{table}{warning}\n\n"
        "Decades lost: log₁₀ of the norm in the last hidden layer over the first; positive means it vanishes towards "
        f"the input.\n\nRun it again: `make reproduce RUN={outcome.run_id}`"
    )
