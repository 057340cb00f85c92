"""The gradient flow over the hidden layers: decades, their class at each measurement, and what only looks like a loss.

Decades are log10 of δ in the last hidden layer over δ in the first, from a line through log10 delta_rms of all hidden
layers. They are positive if the gradient shrinks on its way to the input (vanishing), and negative if it grows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.arrays import Array
from pipeline.analysis.classes import EXPLODING, HEALTHY, UNSURE, VANISHING
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.analysis.expectation import Expectation
from pipeline.analysis.summary import RunningSummary
from pipeline.training.records import Record

DECADES = 1.0  # one end of the network then learns ten times as fast as the other
RELEASE = 0.7  # decades below which a state ends: hysteresis against repeated changes
AVERAGED = 0.1  # decades lost to averaging that the explanation mentions


def decades(record: Record, hidden: int, cut_off: Array | None = None) -> Array:
    """Return the decades over the hidden layers of each replicate, [R], from the line through log10 of the values.

    Args:
        record: Norms by layer.
        hidden: Number of hidden layers.
        cut_off: [R], whether a 0 means that no gradient passes; the result is then NaN. In other replicates a 0 is an
            underflow, and the line goes through the other layers. None if all are cut off.
    """
    values = record.values[:hidden]
    used = np.isfinite(values) & (values > 0)
    with np.errstate(all="ignore"):
        logs = np.where(used, np.log10(values), 0.0)
        count = used.sum(axis=0)
        layers = np.arange(hidden)[:, None]
        centred = np.where(used, layers - (layers * used).sum(axis=0) / count, 0.0)
        slope = (centred * logs).sum(axis=0) / np.square(centred).sum(axis=0)
    tiny = False if cut_off is None else (used | (values == 0)).all(axis=0) & (count > 1) & ~cut_off
    return np.asarray(np.where(used.all(axis=0) | tiny, slope * (hidden - 1), np.nan))


def cut_off_replicates(record: Record, dead: Record | None, hidden: int) -> Array:
    """Return in which replicates no error reaches the first layer because all units of a layer are dead, [R].

    Without a dead layer a δ of 0 is an underflow. If dead units were not measured, any 0 counts as cut off.
    """
    zero = (record.values[:hidden] == 0).any(axis=0)
    if dead is None or len(dead.values) < hidden:
        return zero
    return np.asarray(zero & (dead.values[:hidden] == 1).any(axis=0))


def without_error(record: Record, hidden: int) -> Array:
    """Return in which replicates δ is 0 already in the output layer, [R], as where outputs equal the targets."""
    return np.asarray((record.values[hidden:] == 0).all(axis=0) & (len(record.values) > hidden))


def count_below_range(first: Record, excluded: Array, hidden: int) -> int:
    """Return in how many hidden layers δ is 0 in a replicate that is neither cut off nor without an error."""
    zero = first.values[:hidden] == 0
    return int(zero[:, ~excluded].any(axis=1).sum())


def flow_class(e: Estimate) -> str:
    """Classify decades: the whole interval must lie in one class, else there is not enough evidence."""
    low, high = float(e.low), float(e.high)
    if low > DECADES:
        return VANISHING
    if high < -DECADES:
        return EXPLODING
    return HEALTHY if low >= -DECADES and high <= DECADES else UNSURE


def flow_states(estimates: Sequence[Estimate]) -> list[str]:
    """Return the class at each measurement, with hysteresis: a state ends when the mean is within ``RELEASE``.

    Without enough evidence for a state that continues or another, the class says so.
    """
    states: list[str] = []
    for e in estimates:
        state, before = flow_class(e), states[-1] if states else None
        if before == VANISHING and state != EXPLODING and float(e.mean) > RELEASE:
            state = VANISHING
        if before == EXPLODING and state != VANISHING and float(e.mean) < -RELEASE:
            state = EXPLODING
        states.append(state)
    return states


def median_over_steps(lines: Sequence[Array]) -> Array:
    """Return the median of each replicate's decades over the measurements; NaN for one without any."""
    with np.errstate(all="ignore"):
        stacked = np.array(lines)
        alive = np.isfinite(stacked).any(axis=0)
        return np.where(alive, np.nanmedian(np.where(alive, stacked, 0.0), axis=0), np.nan)


def theory_spread(expectation: Expectation | None, hidden: int) -> float:
    """Return the standard deviation of one network's decades over initialisations; NaN without a prediction.

    The changes from layer to layer are independent. The line weighs them, most in the middle.
    """
    if expectation is None:
        return np.nan
    layers = np.arange(hidden) - (hidden - 1) / 2
    weights = -np.cumsum(layers)[:-1] * (hidden - 1) / np.square(layers).sum()
    variance = (np.square(weights) * expectation.profile.log_variance[: hidden - 1]).sum()
    return float(np.sqrt(variance) / (2 * np.log(10)))


def with_spread(e: Estimate, spread: float) -> Estimate:
    """Return the estimate, with theory's interval if the replicates give none."""
    if np.isfinite(e.low) or not np.isfinite(spread):
        return e
    return Estimate(e.mean, e.mean - 1.96 * spread, e.mean + 1.96 * spread, e.lost)


def averaging(summary: RunningSummary, whole: Estimate) -> float | None:
    """Return the decades by which the norm of the mean δ falls more than δ towards the input at the start.

    The weight gradient would not do: it falls with the activations, too.

    Returns:
        None if δ is not known to keep its size, or if the mean does not fall more.
    """
    deltas, means = summary.at("delta_rms", 0), summary.at("bias_gradient_norm", 0)
    if flow_class(whole) != HEALTHY or deltas is None or means is None:
        return None
    e = estimate(decades(means, summary.hidden_layers) - decades(deltas, summary.hidden_layers))
    is_sure = float(e.low if np.isfinite(e.low) else e.mean) > 0
    return float(e.mean) if is_sure and float(e.mean) > AVERAGED else None
