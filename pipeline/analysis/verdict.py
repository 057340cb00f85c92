"""The verdict on a run: whether its gradient is healthy, and if not, what is wrong and how certain that is.

It depends on slopes and shares only: rescaling the cost or the batch size does not change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from engine.initializers import Constant, Initializer
from pipeline.analysis.causes import find_causes, is_by_width
from pipeline.analysis.classes import (
    BLOCKED,
    DEATH,
    DECAY,
    DIVERGED,
    EQUAL_INPUTS,
    EQUAL_TARGETS,
    EXPLODING,
    HEALTHY,
    IDENTICAL,
    SATURATION,
    SINGLE,
    TOO_HIGH,
    TOO_LOW,
    UNSURE,
    VANISHING,
)
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.analysis.expectation import Expectation
from pipeline.analysis.flow import (
    averaging,
    count_below_range,
    cut_off_replicates,
    decades,
    flow_class,
    flow_states,
    median_over_steps,
    theory_spread,
    with_spread,
    without_error,
)
from pipeline.analysis.numbers import Numbers, exact, measure_numbers, sure_above
from pipeline.analysis.summary import RunningSummary
from pipeline.config.schema import Config
from pipeline.data.prepared import DataFacts
from pipeline.training.records import Record

SATURATED = 0.5  # share of (unit, example) pairs of a layer
DEAD = 0.9  # share of a layer's units; deep rectifier networks normally have up to a half
SLOWER, BOUNCE = 0.9, 1.5  # final cost over first cost; late costs over the lowest before them
STEADY, TINY = 0.9, 2e-4  # fall of the cost in the second half over the first; ‖ΔW‖/‖W‖ of a step
NOTHING = 1e-6  # ‖ΔW‖/‖W‖ of a step that changes nothing in any training of usual length
STRONG, LOST = 2.0, 0.5  # weight decay over the gradient; share of the weights that it takes


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
        causes: Why the run has its classes, as far as that is known (:mod:`pipeline.analysis.causes`).
        numbers: The numbers that the explanation quotes, by name (:mod:`pipeline.analysis.numbers`).
        blocked_layer: The highest hidden layer that no gradient reaches at the start, for the weights are 0; or None.
        below_range: Number of hidden layers whose δ is 0 at the start for it is below the type's range.
        without_error: Number of replicates whose δ is 0 already in the output layer at the start.
    """

    classes: tuple[str, ...]
    start: str
    end: str
    decades: Estimate
    start_decades: Estimate
    changes: tuple[tuple[int, str], ...] = ()
    averaging: float | None = None
    causes: tuple[str, ...] = ()
    numbers: Numbers = field(default_factory=dict)
    blocked_layer: int | None = None
    below_range: int = 0
    without_error: int = 0

    @property
    def words(self) -> str:
        """All classes in one line."""
        return " + ".join(self.classes)


def judge(
    summary: RunningSummary,
    config: Config | None,
    diverged: int,
    expectation: Expectation | None,
    sizes: Sequence[int],
    facts: DataFacts | None = None,
) -> Verdict | None:
    """Judge a run.

    Args:
        summary: The records of the run.
        config: Its config; None for measurements of a network that was trained elsewhere. Then nothing is judged that
            only a config shows, and the decades of a single replicate are those of this network, without an interval.
        diverged: Number of replicates that diverged.
        expectation: Gives the spread over initialisations of a run with a single replicate.
        sizes: n_0 ... n_L.
        facts: The facts about its data; without them, the data are not judged.

    Returns:
        None without delta_rms or without a hidden layer.
    """
    records, hidden = summary.series("delta_rms"), summary.hidden_layers
    if not records or hidden < 1:
        return None
    is_alone = config is None and records[0].values.shape[1] == 1  # decades of one network, which has no interval
    spread = 0.0 if is_alone else np.nan  # of one network over initialisations, for a run of one replicate
    if config is not None and config.replicates == 1:
        drawn = config.init.weights.random or config.init.biases.random
        spread = theory_spread(expectation, hidden) if drawn else 0.0
    shares = {r.step: r for r in summary.series("dead_fraction")}
    cut = [cut_off_replicates(r, shares.get(r.step), hidden) for r in records]
    lines = [decades(r, hidden, c) for r, c in zip(records, cut, strict=True)]
    estimates = [with_spread(estimate(values), spread) for values in lines]
    whole = with_spread(estimate(median_over_steps(lines)), spread)
    is_single = hidden == 1
    flow = SINGLE if is_single else flow_class(whole)
    states = [SINGLE] * len(records) if is_single else flow_states(estimates)
    known = [(r.step, s) for r, s in zip(records, states, strict=True) if s != UNSURE]
    blocked = None if config is None else _blocked_layer(records[0], hidden, config)
    numbers = measure_numbers(summary, config, sizes, cut, summary.last_step)
    if facts is not None:
        numbers["input rms"] = exact(facts.input_rms)
    dead = [] if blocked else _dead_classes(numbers)
    faults = [DIVERGED] * bool(diverged) + _data_classes(facts) + [BLOCKED] * bool(blocked) + dead
    faults += [flow] * (flow in (VANISHING, EXPLODING) and not blocked)
    faults += [IDENTICAL] * (config is not None and _is_symmetric(config, sizes))
    faults += [SATURATION] * sure_above(numbers.get("saturated"), SATURATED) + _decay_classes(numbers)
    if not diverged:
        is_healthy = flow == HEALTHY and not faults
        faults += _rate_classes(summary, numbers, is_healthy, passes=not blocked and not dead)
    starts_finite = bool(np.isfinite(records[0].values).all())
    no_error = without_error(records[0], hidden)
    by_width = states[0] == VANISHING and is_by_width(expectation, float(estimates[0].mean), hidden)
    return Verdict(
        tuple(faults or [flow]),
        states[0],
        states[-1],
        exact(float(whole.mean)) if is_alone else whole,
        estimates[0],
        tuple((step, s) for (_, before), (step, s) in pairwise(known) if s != before),
        None if is_single else averaging(summary, whole),
        find_causes(faults, config, numbers, starts_finite, by_width, facts),
        numbers,
        blocked,
        count_below_range(records[0], cut[0] | no_error, hidden) if not blocked else 0,
        int(no_error.sum()),
    )


def _data_classes(facts: DataFacts | None) -> list[str]:
    if facts is None:
        return []
    return [EQUAL_INPUTS] * facts.has_equal_inputs + [EQUAL_TARGETS] * facts.has_equal_targets


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


def _dead_classes(numbers: Numbers) -> list[str]:
    is_dead = float(numbers["cut off"].mean) >= 0.5 or sure_above(numbers.get("dead"), DEAD)
    return [DEATH] if is_dead else []


def _decay_classes(numbers: Numbers) -> list[str]:
    """Judge weight decay: too strong if it exceeds the gradient of every layer and takes most of the weights."""
    is_strong = sure_above(numbers.get("decay"), STRONG) and sure_above(numbers.get("decayed"), LOST)
    return [DECAY] if is_strong else []


def _rate_classes(summary: RunningSummary, numbers: Numbers, is_healthy: bool, passes: bool) -> list[str]:
    """Judge the learning rate by the training cost: too high if it climbs, too low if it falls slowly and steadily.

    It is also too low if training changed nothing, although a gradient passes.
    """
    step = numbers.get("largest step")
    costs = [r.values[0] for r in summary.series("cost/train")]
    if passes and summary.last_step > 0 and len(costs) > 1:
        ends = costs[0], costs[-1]
        is_same = np.isfinite(ends).all() and np.allclose(*ends, rtol=NOTHING, atol=0)
        if is_same or (step is not None and float(step.mean) < NOTHING):
            return [TOO_LOW]
    if len(costs) < 4 or not np.isfinite(costs).all() or np.min(costs) <= 0:
        return []
    logs = np.log(np.array(costs))
    half = len(logs) // 2
    climb, total = estimate((logs - np.minimum.accumulate(logs))[-half:].mean(axis=0)), estimate(logs[-1] - logs[0])
    if sure_above(climb, np.log(BOUNCE)) or sure_above(total, 0.0):
        return [TOO_HIGH]
    falling = (np.diff(logs, axis=0) < 0).all()
    steady = (logs[half] - logs[-1]).mean() > STEADY * (logs[0] - logs[-1 - half]).mean()
    is_slow = falling and steady and sure_above(total, np.log(SLOWER)) and _is_tiny(step)
    return [TOO_LOW] if is_healthy and is_slow else []


def _is_tiny(step: Estimate | None) -> bool:
    """Return whether every layer's weights change by less than ``TINY`` in a step; False if not measured."""
    return step is not None and float(step.high if np.isfinite(step.high) else step.mean) < TINY
