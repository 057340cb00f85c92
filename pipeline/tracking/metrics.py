"""What a run's records become in the tracker: finite metrics, with intervals and theory beside them."""

from __future__ import annotations

import logging
import math

import numpy as np

from engine.arrays import Array
from pipeline.analysis.estimates import estimate
from pipeline.analysis.expectation import Expectation
from pipeline.tracking.store import RunLogger
from pipeline.training.divergence import Divergence
from pipeline.training.records import Record, non_finite

LARGEST = 1e300  # the tracker gets nothing beyond; log10 of it is there
log = logging.getLogger("gradvitals")


def log10_mean(record: Record) -> Array:
    """log10 of the geometric mean over the replicates of each layer."""
    with np.errstate(all="ignore"):
        return np.log10(estimate(record.values, geometric=True).mean)


class MetricLogger:
    """Hands records to the tracker as metrics: finite values only, and how many replicates they leave out.

    Args:
        divergences: where to note what is found.
        expectation: theory's, to stand beside what is measured.
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
        """Share of replicates that have diverged so far."""
        return len(self.divergences) / self.replicates

    def diverged(self, divergence: Divergence) -> None:
        """Take note of a replicate that has diverged."""
        self.divergences.append(divergence)
        log.warning("%s", divergence.finding.sentence())

    def metric(self, key: str, value: float, step: int) -> None:
        """One value, unless it is not finite or so large that a store may not take it."""
        if abs(value) <= LARGEST:  # not so for NaN
            self.run_logger.metric(key, value, step)

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
        keys = [f"{record.probe}/layer_{number:02d}" for number in record.layers] or [record.probe]
        if self.replicates == 1:  # each value is its own mean; a few numbers are told fastest without NumPy
            means = record.values[:, 0].tolist()
            lost = sum(not math.isfinite(value) for value in means)
        else:
            lost, e = non_finite([record]), estimate(record.values, record.geometric)
            means = e.mean.tolist()
            for key, low, high in zip(keys, e.low.tolist(), e.high.tolist(), strict=True):
                self.metric(f"interval_low/{key}", low, step)
                self.metric(f"interval_high/{key}", high, step)
        if lost:
            self.metric(f"non_finite/{record.probe}", lost, step)
        for key, mean in zip(keys, means, strict=True):
            self.metric(key, mean, step)
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
