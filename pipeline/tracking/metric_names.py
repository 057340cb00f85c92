"""The names of all metrics: one table, and the checks of names that a user asks for.

``tracking.metrics`` chooses the series. The default, ``summary``, has the two main norms of every layer, and of every
other probe its mean over the layers and its worst layer. ``records.parquet`` always has every value.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

from engine.probes import InputOutputJacobianSpectrum, LayerJacobianSpectrum, Probe, traits_of
from pipeline.analysis.summary import NOISE, PROFILED
from pipeline.errors import ConfigError, did_you_mean
from pipeline.tracking.uri import ALL, SUMMARY, MetricChoice, TrackingConfig
from pipeline.training.prepare import PreparedRun

LOG10, LOW, HIGH, NON_FINITE, OVERHEAD = "log10_", "interval_low/", "interval_high/", "non_finite/", "overhead/"
NORMS = ("gradient_norm", "delta_rms")  # logged for every layer
DIVERGED = "diverged_fraction"
RESIDUAL, THEORY_DELTA, THEORY_Z = "theory_residual", "theory_log10_delta_rms", "theory_log10_z_mean_square"
ACTIVITIES = ("evaluation", "watch", "tracking", "files", "chain", "checkpoints")  # what a run does besides its steps
LOG10_NAMES = {"gradient_norm": "Gradient norm log10"}  # MLflow sorts sections: this one is the first of a run's page
BY_LAYER_NAMES = {"gradient_norm": "Gradient norm by layer log10"}
LISTED = "listed"  # logged for the probes that ``tracking.metrics`` lists, and with ``all``

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
    "gradient_signal": "smallest",
    "gradient_signal_to_noise": "smallest",
    "gradient_variance": "largest",
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
    Series("gradient_noise_scale", SUMMARY, "estimate of the population's tr(Σ)/|G|², by the probes of `noise`"),
    Series("interval_{bound}/gradient_noise_scale", SUMMARY, "95% interval over replicates, by the jackknife"),
    Series("{quantity}/{part}", SUMMARY, "cost, and accuracy or R², at every evaluation"),
    Series("{norm}/{layer}", SUMMARY, "geometric mean over replicates"),
    Series("Gradient norm log10/{layer}", SUMMARY, "log₁₀ of `gradient_norm`"),
    Series("Gradient norm by layer log10/{end}", SUMMARY, "the same against layer: *the step is the layer number*"),
    Series("log10_delta_rms/{layer}", SUMMARY, "log₁₀ of `delta_rms`"),
    Series("log10_delta_rms_by_layer/{end}", SUMMARY, "the same against layer: *the step is the layer number*"),
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


def log10_name(probe: str) -> str:
    """Return the name of the series of log₁₀ of a probe."""
    return LOG10_NAMES.get(probe, f"{LOG10}{probe}")


def by_layer_name(probe: str) -> str:
    """Return the name of the series of log₁₀ of a norm against layer."""
    return BY_LAYER_NAMES.get(probe, f"{LOG10}{probe}_by_layer")


def owner(name: str, probes: Sequence[str]) -> str:
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
    if re.search(r"(cost|accuracy|r2)[/_]validation$", metric) and not run.config.data.validation_fraction:
        raise ConfigError(
            f"{key}={metric}: this config has no validation set; set data.validation_fraction, such as 0.2"
        )
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
            probes = [name for name in fields["probe"] if owner(name, tuple(run.config.probes)) in listed]
            yield from _expand(series.pattern, {**fields, "probe": probes})
    for probe in set(PROFILED) & set(listed) - set(NORMS):
        yield from _expand("log10_{profiled}_by_layer/{end}", {**fields, "profiled": [probe]})


def _applies(pattern: str, run: PreparedRun) -> bool:
    """Return whether runs of this config can log a series."""
    if pattern.startswith("interval_") and run.config.replicates == 1:
        return False
    if "noise_scale" in pattern and not set(NOISE) <= set(run.config.probes):
        return False
    if "decades" in pattern and len(run.sizes) - 2 < 2:
        return False
    needed = {"verdict_": "delta_rms", "theory_": "delta_rms", "log10_delta": "delta_rms", "Gradient": "gradient_norm"}
    return all(probe in run.config.probes for start, probe in needed.items() if pattern.startswith(start))


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
    whole = [name for name in measured if owner(name, tuple(probes)) in of_step]
    quantities = ["cost", "r2" if run.data.classes is None else "accuracy"]
    parts = ["train", *["validation"] * bool(run.config.data.validation_fraction), "test"]
    return {
        "quantity": quantities,
        "part": parts,
        "end": ["start", "end"],
        "bound": ["low", "high"],
        "layer": [f"layer_{number:02d}" for number in range(1, len(run.sizes))],
        "norm": [name for name in NORMS if name in probes],
        "profiled": [name for name in PROFILED if name in probes and name not in NORMS],
        "probe": [name for name in measured if name not in NORMS],
        "measured": measured,
        "measurement": list(probes),
        "whole": whole,
        "record": [*(f"{quantity}/{part}" for quantity in quantities for part in parts), *measured],
        "activity": list(ACTIVITIES),
    }
