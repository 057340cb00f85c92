"""Timing on a shared machine: contenders alternate in short turns, and ratios are within a round.

Time is the processor time of this process, so interruptions do not count. With one thread and an idle machine it is
wall-clock time. Other load on caches, clock rate and memory affects neighbouring turns equally. The ratio of two
contenders in one round is therefore steady even if their times are not. Results are medians over rounds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Step = Callable[[], object]
Times = dict[str, NDArray[np.float64]]  # seconds per step [rounds], by contender
TURN = 2e-3  # seconds of a turn, far above the clock's resolution


def interleaved(contenders: Mapping[str, Step], seconds: float, least_rounds: int) -> Times:
    """Return the seconds per step of each contender in each round.

    Each turn starts with one untimed step, which brings the contender's arrays back into the caches. The first
    contender of a round changes from round to round.

    Args:
        contenders: The steps by name. Ratios are relative to the first.
        seconds: The approximate time of all rounds.
        least_rounds: The least number of rounds, even if they need more time.
    """
    estimates = {name: _estimate(step) for name, step in contenders.items()}
    names = list(contenders)
    repeats = {name: max(1, round(TURN / lasts)) for name, lasts in estimates.items()}
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


def _estimate(step: Step) -> float:
    """Return a first estimate of the seconds of a step."""
    return min(_turn(step, 1) for _ in range(3))


def median_with_interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the median and its 95 % interval from order statistics, for any distribution."""
    ordered = np.sort(values)
    half = 0.98 * len(ordered) ** 0.5
    low, high = max(0, int(len(ordered) / 2 - half)), min(len(ordered) - 1, int(np.ceil(len(ordered) / 2 + half)))
    return float(np.median(ordered)), float(ordered[low]), float(ordered[high])
