"""Timing on a machine that others use as well: short turns, taken alternately, and ratios within a round.

Time is the processor time of this process, so being interrupted costs nothing; with one thread and an idle machine it
is the time on the clock. What is left of foreign load (caches, clock rate, memory) hits neighbouring turns alike, so
the ratio of two contenders in the same round is steady where their times are not. Reported are medians over rounds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Step = Callable[[], object]
Times = dict[str, NDArray[np.float64]]  # seconds per step of each contender in each round
TURN = 2e-3  # seconds a turn aims at: far above the clock's resolution


def interleaved(contenders: Mapping[str, Step], seconds: float, least_rounds: int) -> Times:
    """Seconds per step of each contender in each round, for about so many seconds in all.

    Each turn begins with one untimed step, which brings the contender's arrays back into the caches. Who begins a
    round changes from round to round.

    Args:
        contenders: what each does in a step, by name; the first is the one that the others are compared with.
        seconds: in all, about.
        least_rounds: rounds, even if that takes longer.
    """
    once = {name: _once(step) for name, step in contenders.items()}
    names = list(contenders)
    repeats = {name: max(1, round(TURN / lasts)) for name, lasts in once.items()}
    times: dict[str, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + seconds
    gc.collect()
    gc.disable()
    try:
        while len(times[names[0]]) < least_rounds or time.perf_counter() < end:
            names.append(names.pop(0))
            for name in names:
                times[name].append(_turn(contenders[name], repeats[name]))
    finally:
        gc.enable()
    return {name: np.array(values) for name, values in times.items()}


def _turn(step: Step, repeats: int) -> float:
    step()
    start = time.process_time()
    for _ in range(repeats):
        step()
    return (time.process_time() - start) / repeats


def _once(step: Step) -> float:
    """A first idea of the seconds a step takes."""
    return min(_turn(step, 1) for _ in range(3))


def median_with_interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """The median and the 95 % interval for it that order statistics give, whatever the distribution."""
    ordered = np.sort(values)
    half = 0.98 * len(ordered) ** 0.5
    low, high = max(0, int(len(ordered) / 2 - half)), min(len(ordered) - 1, int(np.ceil(len(ordered) / 2 + half)))
    return float(np.median(ordered)), float(ordered[low]), float(ordered[high])
