"""Which metrics a run of a config logs, as far as that shows without training."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from pipeline.analysis.summary import PROFILED
from pipeline.errors import ConfigError
from pipeline.training.prepare import PreparedRun

ALWAYS = ("non_finite_values", "diverged_fraction", "diverged_at_step", "overhead/all_probes")
THEORY = ("theory_residual", "theory_log10_delta_rms", "theory_log10_z_mean_square")
STRETCHES = ("evaluation", "watch", "tracking", "files", "chain", "checkpoints")


def check_metric(metric: str, run: PreparedRun, key: str) -> None:
    """Refuse a metric that no run like this one logs.

    Raises:
        ConfigError: naming what is logged.
    """
    single, series = list(_single(run)), list(_series(run))
    if metric in single or metric in series:
        return
    close = difflib.get_close_matches(metric, [*single, *series], n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]}?" if close else ""
    probes = ", ".join(run.config.probes) or "none"
    raise ConfigError(
        f"{key}={metric}: no run of this config logs it{hint} (allowed: {', '.join(single)}, or a probe's series such "
        f"as gradient_norm/layer_01; probes: {probes})"
    )


def _single(run: PreparedRun) -> Iterator[str]:
    """Metrics of the whole run, and the series of the whole network."""
    probes, hidden = run.config.probes, len(run.sizes) - 2
    score = "r2" if run.data.classes is None else "accuracy"
    for quantity in ("cost", score):
        for part in ("train", "test"):
            yield f"final_{quantity}_{part}"
            yield f"{quantity}/{part}"
    if hidden >= 2:
        for probe in ("delta_rms", "gradient_norm"):
            for when in ("start", "end") if probe in probes else ():
                yield f"decades_lost_{probe}_{when}"
                yield f"decades_lost_per_layer_{probe}_{when}"
        if "delta_rms" in probes:
            yield from (f"verdict_decades{end}" for end in ("", "_low", "_high"))
    yield from ALWAYS


def _series(run: PreparedRun) -> Iterator[str]:
    """Metrics by probe and layer, with what stands beside them."""
    layers = [f"/layer_{number:02d}" for number in range(1, len(run.sizes))]
    intervals = ("interval_low/", "interval_high/") if run.config.replicates > 1 else ()
    for name in ("cost/train", "cost/test", "accuracy/train", "accuracy/test", "r2/train", "r2/test"):
        yield from (f"{prefix}{name}" for prefix in intervals)
    for name in run.config.probes:
        yield from (f"{prefix}{name}{layer}" for layer in ("", *layers) for prefix in ("", "log10_", *intervals))
    for name in run.config.probes:
        yield from (f"non_finite/{name}", f"overhead/{name}")
    yield from (f"overhead/{name}" for name in STRETCHES)
    yield from (f"log10_{p}_by_layer/{when}" for p in PROFILED if p in run.config.probes for when in ("start", "end"))
    yield from (f"{name}{layer}" for name in THEORY for layer in layers)
