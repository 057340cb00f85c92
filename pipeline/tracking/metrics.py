"""Log a run's records as MLflow metrics; :mod:`pipeline.tracking.metric_names` has the table of their names."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np

from engine.arrays import Array
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.analysis.expectation import Expectation
from pipeline.tracking.metric_names import (
    ACTIVITIES,
    DIVERGED,
    HIGH,
    LOW,
    NON_FINITE,
    NORMS,
    OVERHEAD,
    RESIDUAL,
    THEORY_DELTA,
    THEORY_Z,
    UNKNOWN_WORST,
    WORST,
    by_layer_name,
    layer_names,
    log10_name,
    owner,
)
from pipeline.tracking.run_logger import RunLogger
from pipeline.tracking.uri import ALL, SUMMARY, MetricChoice
from pipeline.training.divergence import Divergence
from pipeline.training.records import Record, non_finite

LARGEST = 1e300  # larger values are not logged; their log10 is
log = logging.getLogger("gradvitals")


def log10_mean(record: Record) -> Array:
    """Return log10 of the geometric mean over the replicates of each layer."""
    with np.errstate(all="ignore"):
        return np.log10(estimate(record.values, geometric=True).mean)


def worst(name: str, values: Sequence[float]) -> float:
    """Return the worst of a probe's finite values over layers, by the table ``WORST``; NaN without one."""
    finite = [value for value in values if math.isfinite(value)]
    kind = WORST.get(name, UNKNOWN_WORST)
    if not finite:
        return math.nan
    if kind == "smallest":
        return min(finite)
    return max(finite) if kind == "largest" else max(finite, key=abs)


def layer_mean(values: Sequence[float], geometric: bool) -> float:
    """Return the mean of the finite values over layers; NaN without one.

    Args:
        values: One value for each layer.
        geometric: Whether to average log10 of the values. A value of 0 then makes the mean 0.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite or (geometric and min(finite) < 0):
        return math.nan
    if not geometric:
        return math.fsum(value / len(finite) for value in finite)  # the sum itself may overflow
    if min(finite) == 0:
        return 0.0
    return float(10.0 ** (math.fsum(map(math.log10, finite)) / len(finite)))


class MetricLogger:
    """Log records as MLflow metrics. Values that are not finite are dropped and counted.

    Args:
        run_logger: The run's logger.
        replicates: Number of replicates.
        probes: Names of the probes that are measured.
        divergences: The list to which divergences are added.
        expectation: The theoretical prediction to log with the measurements; None for none.
        choice: The series to log, ``tracking.metrics``.
    """

    def __init__(
        self,
        run_logger: RunLogger,
        replicates: int,
        probes: Sequence[str],
        divergences: list[Divergence],
        expectation: Expectation | None,
        choice: MetricChoice = SUMMARY,
    ) -> None:
        self.run_logger = run_logger
        self.replicates = replicates
        self.divergences = divergences
        self.expectation = expectation
        self.logs_all = choice == ALL
        self._listed = () if isinstance(choice, str) else choice
        self._probes = tuple(probes)
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
        """Log a record: the mean over replicates of each layer, or over the layers. Binned records are skipped."""
        step = record.step
        if step != self._step:
            self._step = step
            self.metric(DIVERGED, self.diverged_fraction, step)
        if record.bins is not None:
            return
        if self.replicates == 1:  # each value is its own mean; for a few numbers plain Python is faster than NumPy
            means = record.values[:, 0].tolist()
            dropped = sum(not math.isfinite(value) for value in means)
        else:
            dropped, e = non_finite([record]), estimate(record.values, record.geometric)
            means = e.mean.tolist()
            if self.logs_all:
                self._interval(layer_names(record.probe, record.layers), e, step)
        if dropped:
            self.metric(NON_FINITE + record.probe, dropped, step)
        if not record.layers or self._logs_layers(record.probe):
            self._layers(record, means)
        if record.layers and record.probe not in NORMS:
            self.metric(f"{record.probe}/mean", layer_mean(means, record.geometric), step)
            self.metric(f"{record.probe}/worst", worst(record.probe, means), step)
        if record.probe == "delta_rms" and self.expectation is not None:
            self._theory(record, self.expectation)

    def final(self, headline: Mapping[str, Estimate], step: int) -> None:
        """Log the final numbers, and the intervals of those that no other number repeats."""
        for key, value in headline.items():
            self.metric(key, float(value.mean), step)
            if "per_layer" not in key:  # the interval of decades_lost, divided by the number of layers
                self._interval([key], value, step)

    def overhead(self, seconds: Mapping[str, float], step: int) -> None:
        """Log the time of every other activity relative to the time of the training steps (``overhead/chain``)."""
        bare = seconds.get("step", 0.0)
        if bare <= 0:
            return
        shares = {name: spent / bare for name, spent in seconds.items() if name not in ("step", "initialise")}
        probes = sum(share for name, share in shares.items() if name not in ACTIVITIES)
        self.metric(f"{OVERHEAD}all_probes", probes, step)
        log.info("steps took %.3g s; on top of that, in %% of it: probes %.1f", bare, 100 * probes)
        for name, share in sorted(shares.items(), key=lambda item: -item[1]):
            log.info("  %-32s %6.2f %%", name, 100 * share)
            if self.logs_all or name in ACTIVITIES:
                self.metric(f"{OVERHEAD}{name}", share, step)

    def profile(self, record: Record, end: str) -> None:
        """Log log10 of a norm with the layer as the metric's step: MLflow then draws norm against layer.

        Args:
            record: The norm, at one step.
            end: "start" or "end" of training.
        """
        if record.probe in NORMS or self._logs_layers(record.probe):
            means = estimate(record.values, record.geometric).mean
            for number, mean in zip(record.layers, means.tolist(), strict=True):
                if mean > 0:
                    self.metric(f"{by_layer_name(record.probe)}/{end}", math.log10(mean), number)

    def _logs_layers(self, name: str) -> bool:
        """Return whether each layer of a record of this name is logged."""
        return self.logs_all or name in NORMS or owner(name, self._probes) in self._listed

    def _layers(self, record: Record, means: Sequence[float]) -> None:
        names = layer_names(record.probe, record.layers)
        log10_names = layer_names(log10_name(record.probe), record.layers)
        for name, log10, mean in zip(names, log10_names, means, strict=True):
            self.metric(name, mean, record.step)
            if record.geometric and 0 < mean < math.inf:
                self.metric(log10, math.log10(mean), record.step)

    def _interval(self, names: Sequence[str], e: Estimate, step: int) -> None:
        for name, low, high in zip(names, np.ravel(e.low).tolist(), np.ravel(e.high).tolist(), strict=True):
            self.metric(LOW + name, low, step)
            self.metric(HIGH + name, high, step)

    def _theory(self, record: Record, expectation: Expectation) -> None:
        """Log the measured δ relative to the prediction at every step, and on request the prediction at the start."""
        measured = log10_mean(record)
        residual = expectation.residual(measured)
        values = residual.tolist()
        self.metric(f"{RESIDUAL}/mean", layer_mean(values, geometric=False), record.step)
        self.metric(f"{RESIDUAL}/worst", worst(RESIDUAL, values), record.step)
        if not self.logs_all:
            return
        series = {RESIDUAL: residual}
        if record.step == 0:
            series[THEORY_DELTA] = expectation.log10_delta(measured)
            with np.errstate(all="ignore"):
                series[THEORY_Z] = np.log10(expectation.profile.z_mean_square)
        for name, by_layer in series.items():
            for key, value in zip(layer_names(name, record.layers), by_layer.tolist(), strict=True):
                self.metric(key, value, record.step)
