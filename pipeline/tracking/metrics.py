"""Metrics of a run: one table of their names, the logger that writes them, and the check of a requested name."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from engine.arrays import Array
from pipeline.analysis.estimates import estimate
from pipeline.analysis.expectation import Expectation
from pipeline.analysis.summary import PROFILED
from pipeline.errors import ConfigError
from pipeline.tracking.run_logger import RunLogger
from pipeline.training.divergence import Divergence
from pipeline.training.prepare import PreparedRun
from pipeline.training.records import Record, non_finite

LARGEST = 1e300  # larger values are not logged; their log10 is
LOG10, LOW, HIGH, NON_FINITE, OVERHEAD = "log10_", "interval_low/", "interval_high/", "non_finite/", "overhead/"
DIVERGED = "diverged_fraction"
THEORY = RESIDUAL, THEORY_DELTA, THEORY_Z = "theory_residual", "theory_log10_delta_rms", "theory_log10_z_mean_square"
WHOLE_RUN = ("non_finite_values", DIVERGED, "diverged_at_step", f"{OVERHEAD}all_probes")
ACTIVITIES = ("evaluation", "watch", "tracking", "files", "chain", "checkpoints")
PARTS, ENDS = ("train", "test"), ("start", "end")
log = logging.getLogger("gradvitals")


def layer_names(name: str, layers: Sequence[int]) -> list[str]:
    """Return a series' names by layer, such as ``delta_rms/layer_01``; its own name for a value without layers."""
    return [f"{name}/layer_{number:02d}" for number in layers] or [name]


def log10_mean(record: Record) -> Array:
    """Return log10 of the geometric mean over the replicates of each layer."""
    with np.errstate(all="ignore"):
        return np.log10(estimate(record.values, geometric=True).mean)


class MetricLogger:
    """Log records as MLflow metrics. Values that are not finite are dropped and counted.

    Args:
        run_logger: The run's logger.
        replicates: The number of replicates.
        divergences: The list to which divergences are added.
        expectation: The theoretical prediction to log with the measurements; None for none.
    """

    def __init__(
        self, run_logger: RunLogger, replicates: int, divergences: list[Divergence], expectation: Expectation | None
    ) -> None:
        self.run_logger = run_logger
        self.replicates = replicates
        self.divergences = divergences
        self.expectation = expectation
        self._step = -1

    @property
    def diverged_fraction(self) -> float:
        """The fraction of replicates that have diverged."""
        return len(self.divergences) / self.replicates

    def diverged(self, divergence: Divergence) -> None:
        """Add a replicate that has diverged."""
        self.divergences.append(divergence)
        log.warning("%s", divergence.finding.sentence())

    def metric(self, key: str, value: float, step: int) -> None:
        """Log one value, unless it is not finite or larger than a store accepts."""
        if abs(value) <= LARGEST:  # false for NaN
            self.run_logger.metric(key, value, step)

    def record(self, record: Record) -> None:
        """Log a record: the mean over replicates, its interval, and log10 of magnitudes. Binned records are skipped."""
        step = record.step
        if step != self._step:
            self._step = step
            self.metric(DIVERGED, self.diverged_fraction, step)
        if record.bins is not None:
            return
        names = layer_names(record.probe, record.layers)
        if self.replicates == 1:  # each value is its own mean; for a few numbers plain Python is faster than NumPy
            means = record.values[:, 0].tolist()
            dropped = sum(not math.isfinite(value) for value in means)
        else:
            dropped, e = non_finite([record]), estimate(record.values, record.geometric)
            means = e.mean.tolist()
            for name, low, high in zip(names, e.low.tolist(), e.high.tolist(), strict=True):
                self.metric(LOW + name, low, step)
                self.metric(HIGH + name, high, step)
        if dropped:
            self.metric(NON_FINITE + record.probe, dropped, step)
        for name, mean in zip(names, means, strict=True):
            self.metric(name, mean, step)
            if record.geometric and 0 < mean < math.inf:
                self.metric(LOG10 + name, math.log10(mean), step)
        if record.probe == "delta_rms" and self.expectation is not None:
            self._theory(record, self.expectation)

    def _theory(self, record: Record, expectation: Expectation) -> None:
        """Log the predicted δ at the start, and the measured δ relative to it at every step."""
        measured = log10_mean(record)
        series = {RESIDUAL: expectation.residual(measured)}
        if record.step == 0:
            series[THEORY_DELTA] = expectation.log10_delta(measured)
            with np.errstate(all="ignore"):
                series[THEORY_Z] = np.log10(expectation.profile.z_mean_square)
        for name, values in series.items():
            for key, value in zip(layer_names(name, record.layers), values.tolist(), strict=True):
                self.metric(key, value, record.step)


def check_metric(metric: str, run: PreparedRun, key: str) -> None:
    """Check that a run logs a metric.

    Args:
        metric: The requested name.
        run: The run, before training.
        key: The config key that holds the name, for the message.

    Raises:
        ConfigError: No run of this config logs the metric.
    """
    single, series = list(_single_names(run)), list(_series_names(run))
    if metric in single or metric in series:
        return
    close = difflib.get_close_matches(metric, [*single, *series], n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]}?" if close else ""
    probes = ", ".join(run.config.probes) or "none"
    raise ConfigError(
        f"{key}={metric}: no run of this config logs it{hint} (allowed: {', '.join(single)}, or a probe's series such "
        f"as gradient_norm/layer_01; probes: {probes})"
    )


def _single_names(run: PreparedRun) -> Iterator[str]:
    """Yield the metrics of the whole run, and the series of the whole network."""
    probes, hidden = run.config.probes, len(run.sizes) - 2
    score = "r2" if run.facts.classes is None else "accuracy"
    for quantity, part in product(("cost", score), PARTS):
        yield f"final_{quantity}_{part}"
        yield f"{quantity}/{part}"
    if hidden >= 2:
        for probe, end in product(("delta_rms", "gradient_norm"), ENDS):
            if probe in probes:
                yield f"decades_lost_{probe}_{end}"
                yield f"decades_lost_per_layer_{probe}_{end}"
        if "delta_rms" in probes:
            yield from (f"verdict_decades{bound}" for bound in ("", "_low", "_high"))
    yield from WHOLE_RUN


def _series_names(run: PreparedRun) -> Iterator[str]:
    """Yield the metrics of each probe and layer, with their intervals, logarithms and predictions."""
    probes, layers = run.config.probes, range(1, len(run.sizes))
    intervals = (LOW, HIGH) if run.config.replicates > 1 else ()
    for quantity, part, prefix in product(("cost", "accuracy", "r2"), PARTS, (NON_FINITE, *intervals)):
        yield f"{prefix}{quantity}/{part}"
    for probe in probes:
        for name, prefix in product((probe, *layer_names(probe, layers)), ("", LOG10, *intervals)):
            yield prefix + name
        yield NON_FINITE + probe
        yield OVERHEAD + probe
    yield from (OVERHEAD + name for name in ACTIVITIES)
    yield from (f"{LOG10}{p}_by_layer/{end}" for p, end in product(PROFILED, ENDS) if p in probes)
    for name in THEORY:
        yield from layer_names(name, layers)
