"""One run with all its side effects: trains, and tells the tracker everything. The impure shell around ``train``."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from threadpoolctl import threadpool_limits

from engine.arrays import Array
from pipeline import config as configs
from pipeline import figures
from pipeline.divergence import Divergence
from pipeline.progress import Bars
from pipeline.provenance import provenance
from pipeline.records import Record, non_finite, tidy
from pipeline.remedies import remedies
from pipeline.statistics import Estimate, estimate
from pipeline.stopwatch import Stopwatch
from pipeline.summary import PROFILED, Summary, show
from pipeline.theory import Expectation, expect
from pipeline.tracking import RunLog, Store
from pipeline.training import ready, train
from pipeline.verdict import Verdict, judge
from pipeline.words import paragraph

CONFIG_FILE = "config.yaml"
RECORDS_FILE = "records.parquet"
THEORY_FILE = "theory.json"
DIVERGENCE_FILE, LAST_STEPS_FILE = "divergence.json", "last_steps.parquet"
LARGEST = 1e300  # the tracker gets nothing beyond; log10 of it is there
log = logging.getLogger("gradvitals")
log.setLevel(logging.INFO)


@dataclass
class Outcome:
    """How one run ended.

    Attributes:
        status: FINISHED or FAILED.
        headline: its final numbers by metric name, with intervals.
        error: the last line of the traceback of a failed run.
        profile: δ of each layer at the start, if it was recorded.
        divergences: what was found of replicates that diverged. Such a run is a result, not a failure.
        verdict, paragraph: what is wrong, if the run measured enough to tell; and the same in plain words.
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
    profile: Record | None = None
    divergences: list[Divergence] = field(default_factory=list)
    verdict: Verdict | None = None
    paragraph: str = ""
    values: Mapping[str, Array] = field(default_factory=dict)
    diverged_fraction: float = 0.0
    summary: Summary | None = field(default=None, repr=False)


def execute(
    node: Mapping[str, Any], store: Store, name: str, swept: Mapping[str, str], tags: Mapping[str, str], bars: Bars
) -> Outcome:
    """Train the run that a resolved config describes and log it; a failure is logged and returned, not raised.

    Interrupted (Ctrl-C, SIGTERM), the run is closed as KILLED and the interruption goes on.
    """
    run_log = store.start(name, tags)
    outcome = Outcome(name, run_id=run_log.run_id, swept=swept)
    with _logged(run_log):
        try:
            with threadpool_limits(1):
                _train_and_log(node, run_log, outcome, bars)
            outcome.status = "FINISHED"
        except Exception as failure:
            outcome.status = "FAILED"
            outcome.error = traceback.format_exception_only(failure)[-1].strip()
            log.exception("the run failed")
            run_log.text(traceback.format_exc(), "traceback.txt")
            run_log.tags({"mlflow.note.content": f"**Failed.**\n\n```\n{traceback.format_exc()[-4000:]}\n```"})
        except BaseException:
            log.warning("interrupted")
            run_log.end("KILLED")
            raise
    run_log.end(outcome.status)
    return outcome


@contextlib.contextmanager
def _logged(run_log: RunLog) -> Iterator[None]:
    """Collect what is logged meanwhile in the run's own ``run.log``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.log"
        handler = logging.FileHandler(path, encoding="utf-8", delay=False)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            handler.close()
            run_log.file(path)


def _train_and_log(node: Mapping[str, Any], run_log: RunLog, outcome: Outcome, bars: Bars) -> None:
    config = configs.build(node)
    run = ready(config)
    origin = provenance()
    run_log.params(flat_params(node) | {"layer_sizes": "-".join(map(str, run.sizes))})
    run_log.tags(
        origin.tags | {"config.sha256": configs.digest(node), "data.sha256": run.data.digest, "seed": str(config.seed)}
    )
    run_log.text(yaml.safe_dump(dict(node), sort_keys=False), CONFIG_FILE)
    run_log.text(origin.packages, "packages.txt")
    if origin.patch:
        run_log.text(origin.patch, "uncommitted.patch")
    log.info("layers %s, %d training examples, %d steps", run.sizes, run.data.train.shape[1], run.clock.last_step)
    summary = Summary(hidden_layers=len(run.sizes) - 2)
    expectation = expect(run)
    recorder = Recorder(run_log, config.replicates, outcome.divergences, expectation)
    stopwatch = Stopwatch(time.perf_counter)
    with bars.run(outcome.name, run.clock.last_step) as on_step:
        for record in train(run, on_step, recorder.diverged, stopwatch):
            summary.add(record)
            recorder.record(record)
            stopwatch.lap("tracking")
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
        log_verdict(run_log, outcome.verdict, outcome.paragraph)
    for key, value in outcome.headline.items():
        recorder.metric(key, float(value.mean), last_step)
    lost = non_finite(summary.records)
    run_log.metric("non_finite_values", lost, last_step)
    outcome.diverged_fraction = recorder.diverged_fraction
    recorder.metric("diverged_fraction", recorder.diverged_fraction, last_step)
    log.info("%d values recorded, %d not finite", sum(r.values.size for r in summary.records), lost)
    theory = expectation.as_json(log10_mean(outcome.profile)) if expectation and outcome.profile else None
    if theory is not None:
        run_log.text(json.dumps(theory, indent=1), THEORY_FILE)
    _log_files(run_log, summary, outcome.name, theory)
    _log_divergences(run_log, outcome.divergences)
    stopwatch.lap("files")
    _log_overhead(run_log, stopwatch.seconds, last_step)
    run_log.tags({"mlflow.note.content": describe(outcome, config, run.sizes, lost)})


def log10_mean(record: Record) -> Array:
    """log10 of the geometric mean over the replicates of each layer."""
    with np.errstate(all="ignore"):
        return np.log10(estimate(record.values, geometric=True).mean)


def log_verdict(run_log: RunLog, verdict: Verdict, text: str) -> None:
    """Tags to filter by and to read."""
    tags = {"verdict": verdict.words, "verdict_at_start": verdict.start, "verdict_at_end": verdict.end}
    run_log.tags(tags | {"verdict_paragraph": text})
    d = verdict.decades
    for name, value in (("", d.mean), ("_low", d.low), ("_high", d.high)):
        run_log.metric(f"verdict_decades{name}", float(value))


class Recorder:
    """Hands records to the tracker as metrics: finite values only, and how many replicates they leave out.

    Args:
        divergences: where to note what is found.
        expectation: theory's, to stand beside what is measured.
    """

    def __init__(
        self, run_log: RunLog, replicates: int, divergences: list[Divergence], expectation: Expectation | None
    ) -> None:
        self.run_log = run_log
        self.replicates = replicates
        self.divergences = divergences
        self.expectation = expectation
        self._step = -1

    @property
    def diverged_fraction(self) -> float:
        """Share of replicates that have diverged so far."""
        return len(self.divergences) / self.replicates

    def diverged(self, divergence: Divergence) -> None:
        """Take note of a replicate that has diverged."""
        self.divergences.append(divergence)
        log.warning("%s", divergence.finding.sentence())

    def metric(self, key: str, value: float, step: int) -> None:
        """One value, unless it is not finite or so large that a store may not take it."""
        if abs(value) <= LARGEST:  # not so for NaN
            self.run_log.metric(key, value, step)

    def record(self, record: Record) -> None:
        """The mean over replicates ``probe/layer_01``, its interval ``interval_low/probe/...``, log10 of magnitudes.

        Values with bins are for the run's own data.
        """
        step = record.step
        if step != self._step:
            self._step = step
            self.metric("diverged_fraction", self.diverged_fraction, step)
        if record.bins is not None:
            return
        lost = non_finite([record])
        if lost:
            self.metric(f"non_finite/{record.probe}", lost, step)
        e = estimate(record.values, record.geometric)
        keys = [f"{record.probe}/layer_{number:02d}" for number in record.layers] or [record.probe]
        means, lows, highs = e.mean.tolist(), e.low.tolist(), e.high.tolist()
        for key, mean, low, high in zip(keys, means, lows, highs, strict=True):
            self.metric(key, mean, step)
            if self.replicates > 1:
                self.metric(f"interval_low/{key}", low, step)
                self.metric(f"interval_high/{key}", high, step)
            if record.geometric and 0 < mean < math.inf:
                self.metric(f"log10_{key}", math.log10(mean), step)
        if record.probe == "delta_rms" and self.expectation is not None:
            self._theory(record, self.expectation)

    def _theory(self, record: Record, expectation: Expectation) -> None:
        """Theory's δ at the start beside the measured one, and how far the two are apart as training goes on."""
        measured = log10_mean(record)
        series = {"theory_residual": expectation.residual(measured)}
        if record.step == 0:
            series["theory_log10_delta_rms"] = expectation.log10_delta(measured)
            with np.errstate(all="ignore"):
                series["theory_log10_z_mean_square"] = np.log10(expectation.profile.z_mean_square)
        for name, values in series.items():
            for number, value in zip(record.layers, values.tolist(), strict=True):
                self.metric(f"{name}/layer_{number:02d}", value, record.step)


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
    other = ("evaluation", "watch", "tracking", "files")
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
    return verdict + (
        f"**{outcome.name}**: layers {'-'.join(map(str, sizes))}, {type(config.activation).__name__} then "
        f"{type(config.output).__name__}, {type(config.cost).__name__}, {config.epochs} epochs, "
        f"{config.replicates} replicates from seed {config.seed}.{table}{warning}\n\n"
        "Decades lost: log₁₀ of the norm in the last hidden layer over the first; positive means it vanishes towards "
        f"the input.\n\nRun it again: `make reproduce RUN={outcome.run_id}`"
    )
