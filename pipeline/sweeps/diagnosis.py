"""A network that was trained elsewhere: a table of measurements becomes a run with a verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from pipeline.analysis.classes import DEATH, DIVERGED, EXPLODING, SATURATION, TOO_HIGH, TOO_LOW, VANISHING
from pipeline.analysis.explanation import explain
from pipeline.analysis.measurements import QUANTITIES, Measurements, read_measurements
from pipeline.analysis.summary import Summary
from pipeline.analysis.verdict import Verdict, judge
from pipeline.errors import ConfigError
from pipeline.runs import artifacts
from pipeline.runs.result import UNTRACKED, RunResult
from pipeline.sweeps.run_summary import run_lines
from pipeline.sweeps.summary import link_lines
from pipeline.tracking.metrics import MetricLogger
from pipeline.tracking.safe_reading import UNREADABLE
from pipeline.tracking.store import RunLogger, Store, TrackingConfig
from pipeline.tracking.tags import FIRST_TAGS
from pipeline.wording import command, option

NAME = "measured elsewhere"  # of a run without a name
ADVICE = {
    VANISHING: "What usually helps: ReLU with He initialisation, another activation at its critical initialisation, "
    "residual blocks or normalisation.",
    EXPLODING: "What usually helps: smaller initial weights (He or critical initialisation), normalisation, or "
    "gradient clipping.",
    SATURATION: "What usually helps: standardised inputs and smaller initial weights.",
    DEATH: "What usually helps: a smaller learning rate, or leaky ReLU.",
    DIVERGED: "What usually helps: a learning rate ten times smaller, or gradient clipping.",
    TOO_HIGH: "What usually helps: a learning rate ten times smaller.",
    TOO_LOW: "What usually helps: a learning rate ten times larger.",
}
JUDGED_FROM = {"dead_fraction": "dead units", "saturated_fraction": "saturation", "cost/train": "the learning rate"}


@dataclass(frozen=True)
class Diagnosis:
    """The verdict on a network that was trained elsewhere.

    Attributes:
        result: Its numbers, verdict and explanation.
        measurements: What was measured.
        summary: The summary of it.
        store: The store that has the run; None without tracking.
    """

    result: RunResult
    measurements: Measurements
    summary: Summary
    store: Store | None

    @property
    def exit_code(self) -> int:
        """1 if the run is not logged."""
        return int(self.result.error is not None)

    def lines(self) -> list[str]:
        """Return verdict, chart and scores, and how to see more."""
        r = self.result
        if r.error is not None:
            return [f"failed: {r.name} (run {r.run_id}): {r.error}"]
        lines = run_lines(r, None, self.summary.last_step, self.measurements.replicates)
        if self.store is None:
            return lines
        links = link_lines(self.store, self.store.run_link(r.run_id), "its page")
        return [*lines, f"its report: {command('report')} {option('run', r.run_id[:8])}", *links]


def read_table(path: Path) -> pd.DataFrame:
    """Return the table in a parquet file, or in a CSV file whose name ends in ``.csv``.

    Raises:
        ConfigError: There is no such file, it is a folder, or it is not readable.
    """
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "no such file"
        raise ConfigError(f"{path}: {problem}; must be a parquet or .csv file")
    try:
        if path.suffix.lower() == ".csv":
            return pd.read_csv(path, index_col=False)
        return pq.ParquetFile(path).read().to_pandas(ignore_metadata=True)
    except UNREADABLE as failure:
        kind = "CSV" if path.suffix.lower() == ".csv" else "parquet"
        raise ConfigError(f"{path}: is not readable as {kind} ({type(failure).__name__})") from failure


def diagnose(table: pd.DataFrame, name: str, tracking: TrackingConfig | None) -> Diagnosis:
    """Judge the measurements in a table, and log them as a run.

    Args:
        table: One row for each step, layer and replicate (:mod:`pipeline.analysis.measurements`).
        name: Name of the run.
        tracking: The store; None to log nothing.

    Raises:
        ConfigError: The table cannot be judged.
    """
    measurements = read_measurements(table)
    summary = measurements.summary()
    result = _conclude(RunResult(name or NAME, UNTRACKED, {}, "FINISHED"), measurements, summary)
    if tracking is None:
        return Diagnosis(result, measurements, summary, None)
    store = Store.open(tracking)
    with store.start(result.name, FIRST_TAGS | {"kind": "run", "mlflow.source.name": "gradvitals"}) as run_logger:
        result = replace(result, run_id=run_logger.run_id)
        _log(run_logger, result, measurements, summary)
        if not run_logger.end(result.status):
            result = replace(result, status="FAILED", error="the store does not have all of it")
    return Diagnosis(result, measurements, summary, store)


def _conclude(result: RunResult, measurements: Measurements, summary: Summary) -> RunResult:
    """Return the result with its numbers, verdict and explanation."""
    divergences = measurements.divergences
    result = result.with_records(summary).with_divergences(divergences, measurements.replicates)
    verdict = judge(summary, None, len(divergences), None, ())
    if verdict is None:
        return result
    text = explain(verdict, None, None, summary.hidden_layers)
    advice = list(dict.fromkeys(ADVICE[name] for name in verdict.classes if name in ADVICE))
    text = " ".join([text, *advice[:1], _limits(verdict, measurements)])
    return replace(result, verdict=verdict, verdict_words=verdict.words, explanation=text)


def _limits(verdict: Verdict, measurements: Measurements) -> str:
    """Say what is not judged: what only a config shows, and quantities that the table does not have."""
    measured = {record.probe for record in measurements.records}
    missing = [f"{what} ({_column(probe)})" for probe, what in JUDGED_FROM.items() if probe not in measured]
    others = f" The table lacks the columns for {', '.join(missing)}." if missing else ""
    alone = "The verdict is about this one network: other seeds may differ. " if measurements.replicates == 1 else ""
    return f"{alone}Not judged without a config: what theory expects, the initial weights, and the data.{others}"


def _column(probe: str) -> str:
    return next(name for name, quantity in QUANTITIES.items() if quantity.probe == probe)


def _log(run_logger: RunLogger, result: RunResult, measurements: Measurements, summary: Summary) -> None:
    """Log records, metrics, verdict and figure, as a run logs them that was trained here."""
    probes = list(dict.fromkeys(record.probe for record in measurements.records))
    run_logger.params({"layers": measurements.layers, "replicates": measurements.replicates})
    metrics = MetricLogger(run_logger, measurements.replicates, probes, [], None)
    waiting = list(measurements.divergences)
    with artifacts.record_writer(run_logger) as writer:
        for record in measurements.records:
            for divergence in [d for d in waiting if d.finding.step <= record.step]:
                waiting.remove(divergence)
                metrics.divergences.append(divergence)
            metrics.record(record)
            writer.add(record)
        writer.finish()
    artifacts.log_profiles(metrics, summary)
    metrics.final(result.headline, summary.last_step)
    run_logger.metric("non_finite_values", summary.non_finite, summary.last_step)
    artifacts.log_divergences(run_logger, metrics.divergences)
    artifacts.log_figure(run_logger, summary, result.name, None)
    if result.verdict is not None:
        artifacts.log_verdict(run_logger, result.verdict, result.explanation)
    words = f"**Verdict: {result.verdict_words}.** {result.explanation}" if result.verdict else ""
    run_logger.tags({"mlflow.note.content": f"**{result.name}** was trained elsewhere.\n\n{words}"})
