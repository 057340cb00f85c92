"""The causes of a verdict's classes, as far as config, data and measurements show them."""

from __future__ import annotations

import numpy as np

from pipeline.analysis.classes import (
    AT_START,
    CLIPPING,
    DEATH,
    DIVERGED,
    FINITE_WIDTH,
    IN_TRAINING,
    LARGE_INPUTS,
    LARGE_WEIGHTS,
    MOMENTUM,
    SATURATION,
    TOO_HIGH,
    TOO_LOW,
    VANISHING,
    ZERO_RATE,
)
from pipeline.analysis.expectation import Expectation
from pipeline.analysis.numbers import Numbers, momentum_of
from pipeline.config.schema import Config
from pipeline.data.prepared import DataFacts

LARGE_RMS = 10.0  # √⟨x²⟩ of the inputs; standardised inputs have 1
LONG_MEMORY = 50  # steps that momentum adds up, 1/(1 − μ); usual values are 10 to 20
SHORTENED = 0.01  # factor by which clipping shortens a gradient


def find_causes(
    classes: list[str],
    config: Config | None,
    numbers: Numbers,
    starts_finite: bool,
    by_width: bool,
    facts: DataFacts | None,
) -> tuple[str, ...]:
    """Return the causes of a run's classes.

    Args:
        classes: The classes.
        config: The run's config; None without one. Causes that only a config shows are then left out.
        numbers: What was measured (:mod:`pipeline.analysis.numbers`).
        starts_finite: Whether all numbers of the first measurement are finite.
        by_width: Whether finite width alone causes at least half of the decades (:func:`is_by_width`).
        facts: The facts about its data, if known.
    """
    is_early = {
        DIVERGED: not starts_finite,
        DEATH: _share(numbers, "cut off at start") >= 0.5 or _share(numbers, "dead at start") > 0.5,
        SATURATION: _share(numbers, "saturated at start") > 0.5,
    }
    causes = [f"{name} {AT_START if early else IN_TRAINING}" for name, early in is_early.items() if name in classes]
    steps_are_too_long = TOO_HIGH in classes or any(n in classes and not is_early[n] for n in (DIVERGED, DEATH))
    is_first_flat = SATURATION in classes and _share(numbers, "saturated first layer") > 0.5
    if facts is not None and facts.input_rms > LARGE_RMS and (is_first_flat or steps_are_too_long):
        causes.append(LARGE_INPUTS)
    elif config is not None and any(name in classes and is_early[name] for name in (DIVERGED, SATURATION)):
        causes.append(LARGE_WEIGHTS)
    if VANISHING in classes and by_width:
        causes.append(FINITE_WIDTH)
    if config is None:
        return tuple(causes)
    if steps_are_too_long and 1 / (1 - momentum_of(config.optimizer)) >= LONG_MEMORY:
        causes.append(MOMENTUM)
    if TOO_LOW in classes:
        if not np.any(config.optimizer.learning_rate):
            causes.append(ZERO_RATE)
        elif _share(numbers, "clipped", missing=1.0) < SHORTENED:
            causes.append(CLIPPING)
    return tuple(causes)


def is_by_width(expectation: Expectation | None, start_decades: float, hidden: int) -> bool:
    """Return whether finite width alone causes at least half of the decades at the start."""
    if expectation is None or hidden < 2:
        return False
    least, most, _ = expectation.decades(hidden)
    return most - least > 0.5 * abs(start_decades)


def _share(numbers: Numbers, name: str, missing: float = 0.0) -> float:
    e = numbers.get(name)
    return missing if e is None or not np.isfinite(e.mean) else float(e.mean)
