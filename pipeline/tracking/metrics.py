"""Metrics of a run: the table of their names, the logger that writes them, and the check of a requested name.

``tracking.metrics`` chooses the series. The default, ``summary``, logs the two main norms of every layer, and of every
other probe its mean over the layers and its worst layer. ``records.parquet`` always has every value.
"""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np

from engine.arrays import Array
from engine.probes import InputOutputJacobianSpectrum, LayerJacobianSpectrum, Probe, traits_of
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.analysis.expectation import Expectation
from pipeline.analysis.summary import PROFILED
from pipeline.errors import ConfigError, did_you_mean
from pipeline.tracking.run_logger import RunLogger
from pipeline.tracking.uri import ALL, SUMMARY, MetricChoice, TrackingConfig
from pipeline.training.divergence import Divergence
from pipeline.training.prepare import PreparedRun
from pipeline.training.records import Record, non_finite

LARGEST = 1e300  # larger values are not logged; their log10 is
LOG10, LOW, HIGH, NON_FINITE, OVERHEAD = "log10_", "interval_low/", "interval_high/", "non_finite/", "overhead/"
NORMS = ("gradient_norm", "delta_rms")  # logged for every layer
DIVERGED = "diverged_fraction"
RESIDUAL, THEORY_DELTA, THEORY_Z = "theory_residual", "theory_log10_delta_rms", "theory_log10_z_mean_square"
ACTIVITIES = ("evaluation", "watch", "tracking", "files", "chain", "checkpoints")  # what a run does besides its steps
LISTED = "listed"  # logged for the probes that ``tracking.metrics`` lists, and with ``all``
log = logging.getLogger("gradvitals")

Worst = Literal["smallest", "largest", "farthest from 0"]
UNKNOWN_WORST: Worst = "farthest from 0"  # for a probe that WORST does not have, such as a user's own
WORST: Mapping[str, Worst] = {
    "activation_mean": "farthest from 0",
    "activation_std": "smallest",  # all examples look alike
    "bias_gradient_norm": "smallest",  # the layer learns slowest
    "coherence": "smallest",  # the examples' errors cancel
    "dead_examples": "largest",
    "dead_fraction": "largest",
    "dead_units": "largest",
    "delta_cosine": "smallest",
    "delta_ratio": "smallest",
    "delta_ratio_local": "smallest",
    "example_gradient_rms": "smallest",
    "gradient_cosine": "smallest",  # the step undoes the previous one
    "gradient_noise_scale": "largest",
    "gradient_signal_to_noise": "smallest",
    "layer_jacobian_condition": "largest",
    "layer_jacobian_max": "largest",
    "layer_jacobian_mean": "smallest",
    "layer_jacobian_min": "smallest",
    "lost_updates": "largest",
    "near_linear_fraction": "largest",
    "random_cotangent_delta_rms": "smallest",
    "saturated_fraction": "largest",
    "slope_mean_square": "smallest",
    RESIDUAL: "farthest from 0",
    "update_norm": "smallest",
    "update_to_weight": "smallest",
    "weight_norm": "largest",
    "z_cosine": "largest",  # the network no longer separates its inputs
    "z_mean_square": "largest",
}


class Series(NamedTuple):
    """Metrics with one pattern of names.

    Attributes:
        pattern: The name, with the fields of :func:`_fields` in braces.
        choice: The least value of ``tracking.metrics`` that logs it: "summary", "listed" or "all".
        meaning: Its value, for the documentation.
    """

    pattern: str
    choice: str
    meaning: str


SERIES = (
    Series("final_{quantity}_{part}", SUMMARY, "cost and score at the last evaluation"),
    Series("decades_lost_{norm}_{end}", SUMMARY, "log₁₀ of the norm in the last hidden layer over the first"),
    Series("decades_lost_per_layer_{norm}_{end}", SUMMARY, "the same by layer"),
    Series("verdict_decades", SUMMARY, "the decades that the verdict is about"),
    Series("verdict_decades_{bound}", SUMMARY, "its 95% interval"),
    Series("interval_{bound}/final_{quantity}_{part}", SUMMARY, "95% interval over replicates, logged once at the end"),
    Series("interval_{bound}/decades_lost_{norm}_{end}", SUMMARY, "the same"),
    Series("{quantity}/{part}", SUMMARY, "cost, and accuracy or R², at every evaluation"),
    Series("{norm}/{layer}", SUMMARY, "geometric mean over replicates"),
    Series("log10_{norm}/{layer}", SUMMARY, "log₁₀ of it"),
    Series("log10_{norm}_by_layer/{end}", SUMMARY, "the same against layer: *the step is the layer number*"),
    Series("{probe}/mean", SUMMARY, "mean over layers of the mean over replicates; geometric for magnitudes"),
    Series("{probe}/worst", SUMMARY, "that of the worst layer"),
    Series("{whole}", SUMMARY, "mean over replicates of a probe that has no layers"),
    Series("log10_{whole}", SUMMARY, "log₁₀ of it, for magnitudes"),
    Series("theory_residual/mean", SUMMARY, "log₁₀ of measured over expected δ, mean over layers"),
    Series("theory_residual/worst", SUMMARY, "that of the worst layer"),
    Series("diverged_fraction", SUMMARY, "share of replicates that have diverged"),
    Series("diverged_at_step", SUMMARY, "first step with a value that is not finite; only if there is one"),
    Series("non_finite_values", SUMMARY, "number of recorded values that are not finite"),
    Series("non_finite/{record}", SUMMARY, "number of values left out of a mean; only if there are any"),
    Series("overhead/all_probes", SUMMARY, "time of all probes relative to the time of the training steps"),
    Series("overhead/{activity}", SUMMARY, "the same of another activity"),
    Series("{probe}/{layer}", LISTED, "mean over replicates; geometric for magnitudes"),
    Series("log10_{probe}/{layer}", LISTED, "log₁₀ of it, for magnitudes"),
    Series("interval_{bound}/{quantity}/{part}", ALL, "95% interval over replicates, at every step"),
    Series("interval_{bound}/{whole}", ALL, "the same"),
    Series("interval_{bound}/{measured}/{layer}", ALL, "the same"),
    Series("log10_{profiled}_by_layer/{end}", ALL, "log₁₀ against layer: *the step is the layer number*"),
    Series("theory_residual/{layer}", ALL, "log₁₀ of measured over expected δ"),
    Series("theory_log10_delta_rms/{layer}", ALL, "the prediction at the start"),
    Series("theory_log10_z_mean_square/{layer}", ALL, "the same for ⟨z²⟩"),
    Series("overhead/{measurement}", ALL, "time of one probe relative to the time of the training steps"),
)


def layer_names(name: str, layers: Sequence[int]) -> list[str]:
    """Return a series' names by layer, such as ``delta_rms/layer_01``; its own name for a value without layers."""
    return [f"{name}/layer_{number:02d}" for number in layers] or [name]


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
        run: The run, before training.
        divergences: The list to which divergences are added.
        expectation: The theoretical prediction to log with the measurements; None for none.
        choice: The series to log, ``tracking.metrics``.
    """

    def __init__(
        self,
        run_logger: RunLogger,
        run: PreparedRun,
        divergences: list[Divergence],
        expectation: Expectation | None,
        choice: MetricChoice = SUMMARY,
    ) -> None:
        self.run_logger = run_logger
        self.replicates = run.config.replicates
        self.divergences = divergences
        self.expectation = expectation
        self.logs_all = choice == ALL
        self._listed = () if isinstance(choice, str) else choice
        self._probes = tuple(run.config.probes)
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
                    self.metric(f"{LOG10}{record.probe}_by_layer/{end}", math.log10(mean), number)

    def _logs_layers(self, name: str) -> bool:
        """Return whether each layer of a record of this name is logged."""
        return self.logs_all or name in NORMS or _owner(name, self._probes) in self._listed

    def _layers(self, record: Record, means: Sequence[float]) -> None:
        for name, mean in zip(layer_names(record.probe, record.layers), means, strict=True):
            self.metric(name, mean, record.step)
            if record.geometric and 0 < mean < math.inf:
                self.metric(LOG10 + name, math.log10(mean), record.step)

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


def _owner(name: str, probes: Sequence[str]) -> str:
    """Return the probe that makes records of this name: a probe with several parts adds them to its own name."""
    return max((p for p in probes if name == p or name.startswith(f"{p}_")), key=len, default=name)


def check_listed_probes(tracking: TrackingConfig, probes: Mapping[str, Any]) -> None:
    """Check that a config measures the probes that ``tracking.metrics`` lists.

    Args:
        tracking: The config of the store.
        probes: The config's probes by name.

    Raises:
        ConfigError: One of them is not measured.
    """
    for name in () if isinstance(tracking.metrics, str) else tracking.metrics:
        if name not in probes:
            raise ConfigError(f"tracking.metrics=[{name}]: no such probe in this config{did_you_mean(name, probes)}")


def check_metric(metric: str, run: PreparedRun, key: str, choice: MetricChoice = SUMMARY) -> None:
    """Check that a run logs a metric.

    Args:
        metric: The requested name.
        run: The run, before training.
        key: The config key that holds the name, for the message.
        choice: The series that are logged, ``tracking.metrics``.

    Raises:
        ConfigError: No run of this config logs the metric.
    """
    logged = list(metric_names(run, choice))
    if metric in logged:
        return
    if metric in metric_names(run, ALL):
        listed = [p for p in run.config.probes if metric in metric_names(run, (p,))]
        wider = " or ".join([f"tracking.metrics={ALL}", *(f"tracking.metrics=[{p}]" for p in listed)])
        raise ConfigError(f"{key}={metric}: is logged with {wider} only")
    series = {p: f"{p}/layer_01" if p in NORMS else f"{p}/mean" for p in run.config.probes}
    close = difflib.get_close_matches(metric, [*logged, *series], n=1, cutoff=0.6)
    hint = f"; did you mean {series.get(close[0], close[0])}?" if close else ""
    single = [name for name in logged if "/" not in name and not name.startswith(LOG10)]
    probes = ", ".join(run.config.probes) or "none"
    raise ConfigError(
        f"{key}={metric}: no run of this config logs it{hint} (allowed: {', '.join(single)}, or a series such as "
        f"cost/test, gradient_norm/layer_01 and dead_fraction/worst; probes: {probes})"
    )


def metric_names(run: PreparedRun, choice: MetricChoice) -> Iterator[str]:
    """Yield the names of all metrics that a run may log.

    Args:
        run: The run, before training.
        choice: The series that are logged, ``tracking.metrics``.
    """
    listed = () if isinstance(choice, str) else choice
    fields = _fields(run)
    for series in SERIES:
        if not _applies(series.pattern, run):
            continue
        if series.choice == SUMMARY or choice == ALL:
            yield from _expand(series.pattern, fields)
        elif series.choice == LISTED:
            probes = [name for name in fields["probe"] if _owner(name, tuple(run.config.probes)) in listed]
            yield from _expand(series.pattern, {**fields, "probe": probes})
    for probe in set(PROFILED) & set(listed) - set(NORMS):
        yield from _expand("log10_{profiled}_by_layer/{end}", {**fields, "profiled": [probe]})


def _applies(pattern: str, run: PreparedRun) -> bool:
    """Return whether runs of this config can log a series."""
    if pattern.startswith("interval_") and run.config.replicates == 1:
        return False
    if "decades" in pattern and len(run.sizes) - 2 < 2:
        return False
    return "delta_rms" in run.config.probes or not pattern.startswith(("verdict_", "theory_"))


def _expand(pattern: str, fields: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield a pattern with every combination of its fields."""
    names = re.findall(r"{(\w+)}", pattern)
    for values in product(*(fields[name] for name in names)):
        yield pattern.format(**dict(zip(names, values, strict=True)))


def _record_names(name: str, probe: Probe) -> list[str]:
    """Return the names of a probe's records without bins."""
    if isinstance(probe, LayerJacobianSpectrum | InputOutputJacobianSpectrum):
        return [f"{name}_{part}" for part in ("mean", "max", "min", "condition")]
    return [name]


def _fields(run: PreparedRun) -> dict[str, list[str]]:
    """Return the values of the fields in the patterns of ``SERIES``.

    A probe of a layer has layers. A probe of a step may have layers, or be a value of the whole network.
    """
    probes = run.config.probes
    measured = [record for name, probe in probes.items() for record in _record_names(name, probe)]
    of_step = {name for name, probe in probes.items() if traits_of(probe).of_step}
    whole = [name for name in measured if _owner(name, tuple(probes)) in of_step]
    quantities = ["cost", "r2" if run.data.classes is None else "accuracy"]
    return {
        "quantity": quantities,
        "part": ["train", "test"],
        "end": ["start", "end"],
        "bound": ["low", "high"],
        "layer": [f"layer_{number:02d}" for number in range(1, len(run.sizes))],
        "norm": [name for name in NORMS if name in probes],
        "profiled": [name for name in PROFILED if name in probes],
        "probe": [name for name in measured if name not in NORMS],
        "measured": measured,
        "measurement": list(probes),
        "whole": whole,
        "record": [*(f"{quantity}/{part}" for quantity in quantities for part in ("train", "test")), *measured],
        "activity": list(ACTIVITIES),
    }
