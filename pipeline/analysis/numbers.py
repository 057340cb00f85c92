"""The numbers of a run that its verdict rests on and its explanation quotes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from engine.arrays import Array
from engine.optimizers import SGD, Optimizer
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.analysis.summary import RunningSummary
from pipeline.config.schema import Config

SCHEDULE_SAMPLES = 1000  # steps at which the learning-rate schedule is evaluated

FIRST, LAST, ALL = slice(1), slice(-1, None), slice(None)  # measurements

Numbers = dict[str, Estimate]


def measure_numbers(
    summary: RunningSummary, config: Config | None, sizes: Sequence[int], cut_off: Sequence[Array], last_step: int
) -> Numbers:
    """Return the numbers that could be measured, by name.

    - "saturated", "dead": share of the hidden layer with the largest one, a median over measurements
    - "saturated at start", "dead at start": the same at the first measurement; "dead at end": at the last one
    - "saturated first layer": saturated share of the first hidden layer at the first measurement
    - "cut off", "cut off at start": share of the replicates in which no error reaches the first layer
    - "largest step": ‖ΔW‖/‖W‖ of a step in the layer where it is largest, a median over measurements
    - "relative gradient": ‖∂C/∂W‖/‖W‖ at the start in the layer where it is largest
    - "clipped": max_norm/‖∇C‖ at the start, if SGD clips
    - "decay": λ‖W‖/‖∂C/∂W‖ at the start in the layer where it is smallest, for SGD with weight decay
    - "decayed": 1 − exp(−Σ ηλ/(1 − μ)), the share of the weights that weight decay alone would take in the training

    The last three compare terms of SGD's step. Adam divides the gradient by its size, so they are not measured for it.

    Args:
        summary: The records of the run.
        config: Its config; None without one.
        sizes: n_0 ... n_L.
        cut_off: Which replicates are cut off [R], at each measurement of δ.
        last_step: Number of steps of the whole training.
    """
    numbers = {
        "cut off": estimate(cut_off[-1].astype(np.float64)),
        "cut off at start": estimate(cut_off[0].astype(np.float64)),
        "largest step": _largest_step(summary),
        "dead": _worst_layer(summary, "dead_fraction"),
        "dead at start": _worst_layer(summary, "dead_fraction", FIRST),
        "dead at end": _worst_layer(summary, "dead_fraction", LAST),
    }
    if config is None or np.isfinite([config.activation.low, config.activation.high]).all():  # a rectifier is flat
        numbers |= {
            "saturated": _worst_layer(summary, "saturated_fraction"),
            "saturated at start": _worst_layer(summary, "saturated_fraction", FIRST),
            "saturated first layer": _first_layer(summary, "saturated_fraction"),
        }
    if config is not None:
        numbers |= _of_config(summary, config, sizes, last_step)
    return {name: number for name, number in numbers.items() if number is not None}


def _of_config(
    summary: RunningSummary, config: Config, sizes: Sequence[int], last_step: int
) -> dict[str, Estimate | None]:
    """Return the numbers that only a config shows."""
    relative = _relative_gradient(summary, config, sizes)
    numbers = {"relative gradient": relative, "clipped": _clipped(summary, config)}
    decay = config.optimizer.weight_decay
    is_judged = isinstance(config.optimizer, SGD) and np.ndim(decay) == 0 and decay > 0
    if is_judged and relative is not None and float(relative.mean) > 0:
        numbers["decay"] = exact(float(decay) / float(relative.mean))
        numbers["decayed"] = exact(_decayed(config, float(decay), last_step))
    return numbers


def exact(value: float) -> Estimate:
    """Return a number without an interval."""
    none = np.array(np.nan)
    return Estimate(np.array(value), none, none, np.array(0.0))


def sure_above(e: Estimate | None, limit: float) -> bool:
    """Return whether the interval, or a mean without one, lies above a limit; False for a number that is missing."""
    return e is not None and float(e.low if np.isfinite(e.low) else e.mean) > limit


def _worst_layer(summary: RunningSummary, probe: str, measurements: slice = ALL) -> Estimate | None:
    """Return the share of the hidden layer with the largest one: mean over replicates, median over measurements."""
    shares = [r.values[: summary.hidden_layers] for r in summary.series(probe)[measurements]]
    if not shares or len(shares[0]) < summary.hidden_layers:
        return None
    middle = np.median(np.array(shares), axis=0)
    return estimate(middle[int(np.argmax(np.nan_to_num(middle).mean(axis=1)))])


def _first_layer(summary: RunningSummary, probe: str) -> Estimate | None:
    records = summary.series(probe)
    return estimate(records[0].values[0]) if records and len(records[0].values) else None


def _relative_gradient(summary: RunningSummary, config: Config, sizes: Sequence[int]) -> Estimate | None:
    """Return ‖∂C/∂W‖/‖W‖, with ‖W‖ as its initialiser draws it on average."""
    record = summary.at("gradient_norm", 0)
    fans = list(pairwise(sizes))
    norms = np.array([np.sqrt(m * n * config.init.weights.variance(m, n)) for m, n in fans])
    if record is None or len(record.values) != len(norms) or not (norms > 0).all():
        return None
    return estimate((record.values / norms[:, None]).max(axis=0))


def _largest_step(summary: RunningSummary) -> Estimate | None:
    shares = [r.values for r in summary.series("update_to_weight") if np.isfinite(r.values).all()]
    return estimate(np.median(np.array(shares), axis=0).max(axis=0)) if shares else None


def _clipped(summary: RunningSummary, config: Config) -> Estimate | None:
    """Return the factor by which clipping shortens the first gradient; more than 1 if it does not."""
    clipping = config.optimizer.clipping
    norms = [summary.at(probe, 0) for probe in ("gradient_norm", "bias_gradient_norm")]
    found = [record.values for record in norms if record is not None]
    if not isinstance(config.optimizer, SGD) or clipping is None or np.ndim(clipping.max_norm) or not found:
        return None
    with np.errstate(all="ignore"):
        length = np.sqrt(np.square(np.concatenate(found)).sum(axis=0))
        return estimate(np.asarray(clipping.max_norm / length))


def _decayed(config: Config, decay: float, last_step: int) -> float:
    optimizer = config.optimizer
    steps = np.unique(np.linspace(0, max(last_step - 1, 0), min(max(last_step, 1), SCHEDULE_SAMPLES)).astype(int))
    schedule = optimizer.learning_rate_schedule
    factors = [float(schedule.factor(int(step), last_step)) for step in steps] if last_step else [0.0]
    total = float(optimizer.learning_rate) * decay * last_step * float(np.mean(factors)) / (1 - momentum_of(optimizer))
    return float(-np.expm1(-total))


def momentum_of(optimizer: Optimizer) -> float:
    """Return μ of SGD, by which a step is 1/(1 − μ) times as long; 0 for another optimizer."""
    return float(np.max(optimizer.momentum)) if isinstance(optimizer, SGD) else 0.0
