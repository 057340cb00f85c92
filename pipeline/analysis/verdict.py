"""The verdict on a run: whether its gradient is healthy, and if not, what is wrong and how certain that is.

It depends on slopes and shares only. Rescaling the inputs, the cost or the batch size does not change it. Decades are
log10 of δ in the last hidden layer over δ in the first, from a line through log10 delta_rms of all hidden layers. They
are positive if the gradient shrinks on its way to the input (vanishing), and negative if it grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from engine.arrays import Array
from engine.initializers import Constant, Initializer
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.analysis.expectation import Expectation
from pipeline.analysis.summary import RunningSummary
from pipeline.config.schema import Config
from pipeline.training.records import Record

DECADES = 1.0  # one end of the network then learns ten times as fast as the other
RELEASE = 0.7  # decades below which a state ends: hysteresis against repeated changes
SATURATED = 0.5  # share of (unit, example) pairs of a layer
AVERAGED = 0.1  # decades lost to averaging that the explanation mentions
DEAD = 0.9  # share of a layer's units; deep rectifier networks normally have up to a half
SLOWER, BOUNCE = 0.9, 1.5  # final cost over first cost; late costs over the lowest before them
STEADY, TINY = 0.9, 2e-4  # fall of the cost in the second half over the first; ‖ΔW‖/‖W‖ of a step
NOTHING = 1e-6  # ‖ΔW‖/‖W‖ of a step that changes nothing in any training of usual length

HEALTHY, VANISHING, EXPLODING, UNSURE = "healthy", "vanishing", "exploding", "not enough evidence"
SATURATION, DEATH, DIVERGED = "saturated", "dead", "diverged"
BLOCKED, IDENTICAL, SINGLE = "no gradient", "identical units", "one hidden layer"
TOO_HIGH, TOO_LOW = "learning rate too high", "learning rate too low"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a run.

    Attributes:
        classes: The most serious first; healthy, not enough evidence and one hidden layer stand alone.
        start: Class of the gradient flow at the first measurement.
        end: Class of the gradient flow at the last measurement.
        decades: Decades over the hidden layers for the whole run, with their interval.
        start_decades: Decades at the first measurement.
        changes: (step, state) of each change during training.
        averaging: Decades by which batch-averaged norms fall towards the input while δ does not; None if they do not.
        numbers: Saturated and dead shares, if measured; the share of replicates in which no error reaches the first
            layer, at the end ("cut off") and "cut off at start"; the largest ‖ΔW‖/‖W‖ of a step ("largest step"), and
            the largest ‖∂C/∂W‖/‖W‖ of a layer at the start ("relative gradient").
        blocked_layer: The highest hidden layer that no gradient reaches at the start, for the weights are 0; or None.
        below_range: Number of hidden layers whose δ is 0 at the start for it is below the type's range.
    """

    classes: tuple[str, ...]
    start: str
    end: str
    decades: Estimate
    start_decades: Estimate
    changes: tuple[tuple[int, str], ...] = ()
    averaging: float | None = None
    numbers: dict[str, Estimate] = field(default_factory=dict)
    blocked_layer: int | None = None
    below_range: int = 0

    @property
    def words(self) -> str:
        """All classes in one line."""
        return " + ".join(self.classes)


def judge(
    summary: RunningSummary, config: Config, diverged: int, expectation: Expectation | None, sizes: Sequence[int]
) -> Verdict | None:
    """Judge a run.

    Args:
        summary: The records of the run.
        config: Its config.
        diverged: Number of replicates that diverged.
        expectation: Gives the spread over initialisations if there is a single replicate.
        sizes: n_0 ... n_L.

    Returns:
        None without delta_rms or without a hidden layer.
    """
    records = summary.series("delta_rms")
    if not records or summary.hidden_layers < 1:
        return None
    drawn = config.init.weights.random or config.init.biases.random
    spread = _theory_spread(expectation, summary.hidden_layers) if drawn else 0.0
    shares = {r.step: r for r in summary.series("dead_fraction")}
    cut = [_cut_off(r, shares.get(r.step), summary.hidden_layers) for r in records]
    lines = [decades(r, summary.hidden_layers, c) for r, c in zip(records, cut, strict=True)]
    estimates = [_with_spread(estimate(values), spread) for values in lines]
    whole = _with_spread(estimate(_median(lines)), spread)
    is_single = summary.hidden_layers == 1
    states = [SINGLE] * len(records) if is_single else list(_states(estimates))
    blocked = _blocked_layer(records[0], summary.hidden_layers, config)
    dead = [] if blocked else _dead_classes(summary, cut[-1])
    classes = [DIVERGED] * bool(diverged) + [BLOCKED] * bool(blocked) + dead
    classes += [IDENTICAL] * _is_symmetric(config, sizes) + _saturated_classes(summary, config)
    flow = SINGLE if is_single else flow_class(whole)
    if flow in (VANISHING, EXPLODING) and not blocked:
        classes.insert(len([c for c in classes if c in (DIVERGED, BLOCKED, DEATH)]), flow)
    elif not classes:
        classes = [flow]
    if DIVERGED not in classes:
        rate = _rate_classes(summary, flow if classes == [flow] else "", passes=not blocked and not dead)
        classes = [c for c in classes if not rate or c not in (HEALTHY, UNSURE, SINGLE)] + rate
    known = [(r.step, s) for r, s in zip(records, states, strict=True) if s != UNSURE]
    changes = [(step, s) for (_, before), (step, s) in pairwise(known) if s != before]
    numbers = {
        "saturated": _saturated(summary, config),
        "dead": _dead(summary),
        "cut off": estimate(cut[-1].astype(np.float64)),
        "cut off at start": estimate(cut[0].astype(np.float64)),
        "largest step": _largest_step(summary),
        "relative gradient": _relative_gradient(summary, config, sizes),
    }
    return Verdict(
        tuple(classes),
        states[0],
        states[-1],
        whole,
        estimates[0],
        tuple(changes),
        None if is_single else _averaging(summary, whole),
        {name: number for name, number in numbers.items() if number is not None},
        blocked,
        _below_range(records[0], cut[0], summary.hidden_layers) if not blocked else 0,
    )


def _is_symmetric(config: Config, sizes: Sequence[int]) -> bool:
    """Return whether the units of a hidden layer start with equal weights and biases, and so stay equal."""
    fans = list(pairwise(sizes))[:-1]

    def is_constant(part: Initializer) -> bool:
        return isinstance(part, Constant) or all(part.variance(m, n) == 0 for m, n in fans)

    return max(sizes[1:-1]) > 1 and is_constant(config.init.weights) and is_constant(config.init.biases)


def _blocked_layer(first: Record, hidden: int, config: Config) -> int | None:
    """Return the highest hidden layer with δ = 0 in all replicates, if weights of 0 are the cause; None otherwise."""
    weights = config.init.weights
    if not (weights.value == 0 if isinstance(weights, Constant) else weights.variance(1, 1) == 0):
        return None
    layers = np.flatnonzero((first.values[:hidden] == 0).all(axis=1))
    return int(layers[-1]) + 1 if len(layers) else None


def _below_range(first: Record, cut_off: Array, hidden: int) -> int:
    """Return in how many hidden layers δ is 0 in a replicate that is not cut off."""
    zero = first.values[:hidden] == 0
    return int(zero[:, ~cut_off].any(axis=1).sum()) if not cut_off.all() else 0


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


def _cut_off(record: Record, dead: Record | None, hidden: int) -> Array:
    """Return in which replicates no error reaches the first layer because all units of a layer are dead, [R].

    Without a dead layer a δ of 0 is an underflow. If dead units were not measured, any 0 counts as cut off.
    """
    zero = (record.values[:hidden] == 0).any(axis=0)
    if dead is None or len(dead.values) < hidden:
        return zero
    return np.asarray(zero & (dead.values[:hidden] == 1).any(axis=0))


def flow_class(e: Estimate) -> str:
    """Classify decades: the whole interval must lie in one class, else there is not enough evidence."""
    low, high = float(e.low), float(e.high)
    if low > DECADES:
        return VANISHING
    if high < -DECADES:
        return EXPLODING
    return HEALTHY if low >= -DECADES and high <= DECADES else UNSURE


def _states(estimates: Sequence[Estimate]) -> list[str]:
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


def _median(lines: Sequence[Array]) -> Array:
    with np.errstate(all="ignore"):
        stacked = np.array(lines)
        alive = np.isfinite(stacked).any(axis=0)
        return np.where(alive, np.nanmedian(np.where(alive, stacked, 0.0), axis=0), np.nan)


def _theory_spread(expectation: Expectation | None, hidden: int) -> float:
    """Return the standard deviation of one network's decades over initialisations; NaN without a prediction.

    The changes from layer to layer are independent. The line weighs them, most in the middle.
    """
    if expectation is None:
        return np.nan
    layers = np.arange(hidden) - (hidden - 1) / 2
    weights = -np.cumsum(layers)[:-1] * (hidden - 1) / np.square(layers).sum()
    variance = (np.square(weights) * expectation.profile.log_variance[: hidden - 1]).sum()
    return float(np.sqrt(variance) / (2 * np.log(10)))


def _with_spread(e: Estimate, spread: float) -> Estimate:
    """Return the estimate, with theory's interval if the replicates give none."""
    if np.isfinite(e.low) or not np.isfinite(spread):
        return e
    return Estimate(e.mean, e.mean - 1.96 * spread, e.mean + 1.96 * spread, e.lost)


def _dead_classes(summary: RunningSummary, cut_off: Array) -> list[str]:
    dead = _dead(summary)
    is_dead = cut_off.mean() >= 0.5 or (dead is not None and _sure_above(dead, DEAD))
    return [DEATH] if is_dead else []


def _saturated_classes(summary: RunningSummary, config: Config) -> list[str]:
    saturated = _saturated(summary, config)
    return [SATURATION] if saturated is not None and _sure_above(saturated, SATURATED) else []


def _sure_above(e: Estimate, limit: float) -> bool:
    return float(e.low if np.isfinite(e.low) else e.mean) > limit


def _worst_layer(summary: RunningSummary, probe: str) -> Estimate | None:
    """Return the share of the hidden layer with the largest one: mean over replicates, median over measurements."""
    shares = [r.values[: summary.hidden_layers] for r in summary.series(probe)]
    if not shares or len(shares[0]) < summary.hidden_layers:
        return None
    middle = np.median(np.array(shares), axis=0)
    return estimate(middle[int(np.argmax(np.nan_to_num(middle).mean(axis=1)))])


def _dead(summary: RunningSummary) -> Estimate | None:
    return _worst_layer(summary, "dead_fraction")


def _saturated(summary: RunningSummary, config: Config) -> Estimate | None:
    """Return the saturated share for activations bounded on both sides; a rectifier is flat by design."""
    sigma = config.activation
    return _worst_layer(summary, "saturated_fraction") if np.isfinite([sigma.low, sigma.high]).all() else None


def _rate_classes(summary: RunningSummary, flow: str, passes: bool) -> list[str]:
    """Judge the learning rate by the training cost: too high if it climbs, too low if it falls slowly and steadily.

    It is also too low if training changed nothing, although a gradient passes.
    """
    step = _largest_step(summary)
    costs = [r.values[0] for r in summary.series("cost/train")]
    is_trained = summary.last_step > 0 and len(costs) > 1
    if (
        passes
        and is_trained
        and (
            (step is not None and float(step.mean) < NOTHING)
            or (np.isfinite([costs[0], costs[-1]]).all() and np.allclose(costs[0], costs[-1], rtol=NOTHING, atol=0))
        )
    ):
        return [TOO_LOW]
    if len(costs) < 4 or not np.isfinite(costs).all() or np.min(costs) <= 0:
        return []
    logs = np.log(np.array(costs))
    half = len(logs) // 2
    climb, total = estimate((logs - np.minimum.accumulate(logs))[-half:].mean(axis=0)), estimate(logs[-1] - logs[0])
    if _sure_above(climb, np.log(BOUNCE)) or _sure_above(total, 0.0):
        return [TOO_HIGH]
    falling = (np.diff(logs, axis=0) < 0).all()
    steady = (logs[half] - logs[-1]).mean() > STEADY * (logs[0] - logs[-1 - half]).mean()
    little = _sure_above(total, np.log(SLOWER))
    return [TOO_LOW] if flow == HEALTHY and falling and steady and little and _tiny_steps(summary) else []


def _tiny_steps(summary: RunningSummary) -> bool:
    """Return whether every layer's weights change by less than ``TINY`` in a step; False if not measured."""
    largest = _largest_step(summary)
    return largest is not None and float(largest.high if np.isfinite(largest.high) else largest.mean) < TINY


def _relative_gradient(summary: RunningSummary, config: Config, sizes: Sequence[int]) -> Estimate | None:
    """Return ‖∂C/∂W‖/‖W‖ at the start in the layer where it is largest; ‖W‖ as its initialiser draws it on average."""
    record = summary.at("gradient_norm", 0)
    fans = list(pairwise(sizes))
    norms = np.array([np.sqrt(m * n * config.init.weights.variance(m, n)) for m, n in fans])
    if record is None or len(record.values) != len(norms) or not (norms > 0).all():
        return None
    return estimate((record.values / norms[:, None]).max(axis=0))


def _largest_step(summary: RunningSummary) -> Estimate | None:
    """Return ‖ΔW‖/‖W‖ of a step in the layer where it is largest, a median over measurements; None if not measured."""
    shares = [r.values for r in summary.series("update_to_weight") if np.isfinite(r.values).all()]
    return estimate(np.median(np.array(shares), axis=0).max(axis=0)) if shares else None


def _averaging(summary: RunningSummary, whole: Estimate) -> float | None:
    """Return the decades by which averaged norms fall towards the input at the start, if δ does not vanish."""
    if flow_class(whole) in (VANISHING, EXPLODING):
        return None
    deltas = summary.at("delta_rms", 0)
    excess = []
    for probe in ("gradient_norm", "bias_gradient_norm"):
        record = summary.at(probe, 0)
        if record is not None and deltas is not None:
            e = estimate(decades(record, summary.hidden_layers) - decades(deltas, summary.hidden_layers))
            if _sure_above(e, 0.0) and float(e.mean) > AVERAGED:
                excess.append(float(e.mean))
    return max(excess, default=None)
