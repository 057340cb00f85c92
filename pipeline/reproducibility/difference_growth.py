"""The growth of the difference between two runs after their first difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from engine.arrays import Array
from pipeline.analysis.estimates import student_t
from pipeline.reports.figures.style import BLUE, GREEN, ORANGE, STYLE
from pipeline.reproducibility.chain_reader import LoggedChain, common_steps

SATURATED = 0.1  # relative difference above which two networks are unrelated and the growth ends
RESOLVED = 4 * float(np.finfo(np.float64).eps)  # relative difference below which the norms' rounding dominates
LEAST_POINTS = 4  # for a rate with an interval
Pairs = Sequence[tuple[int, int]]
LABELS = {"W": "θ: ‖W‖", "dW": "∇C: ‖∂C/∂W‖", "delta_rms": "δ: delta_rms"}


class DifferenceSeries(NamedTuple):
    """Relative differences of norms by step, root mean square over layers and replicates.

    Attributes:
        steps: The steps at which both runs have the norm, ascending.
        values: One for each step; 0 where the norms agree to the last bit.
    """

    name: str
    steps: tuple[int, ...]
    values: Array


@dataclass(frozen=True)
class GrowthRate:
    """The slope of ln(difference) against the step, with its 95% interval.

    Attributes:
        mean, low, high: e-folds per step.
        n: Number of points of the fit.
        steps: The first and the last step of the fit.
    """

    mean: float
    low: float
    high: float
    n: int
    steps: tuple[int, int]

    def __str__(self) -> str:
        fit = f"from {self.n} points, steps {self.steps[0]} to {self.steps[1]}"
        interval = f"{self.mean:.3g} e-folds a step [{self.low:.3g}, {self.high:.3g}]"
        if self.low > 0:
            return f"grows by {interval}, tenfold every {math.log(10) / self.mean:.3g} steps; {fit}"
        return f"{'shrinks' if self.high < 0 else 'no growth'}: {interval}; {fit}"


def relative_difference(a: Array, b: Array) -> Array:
    """Return |a − b| / max(|a|, |b|); 0 where they are equal, NaN where one is not finite."""
    with np.errstate(all="ignore"):
        ratio = np.abs(a - b) / np.maximum(np.abs(a), np.abs(b))
    return np.where(np.isfinite(a) & np.isfinite(b), np.where(a == b, 0.0, ratio), np.nan)


def chain_series(a: LoggedChain, b: LoggedChain, pairs: Pairs, quantity: str) -> DifferenceSeries:
    """Compare the norms of a quantity in two chains of networks of equal depth.

    Args:
        a: The first chain.
        b: The second chain.
        pairs: Replicate of the first chain, replicate of the second.
        quantity: "W" or "dW".
    """
    columns = [q for q, (_, name) in enumerate(a.names) if name == quantity]
    steps = common_steps(a, b)
    replicates_a, replicates_b = ([pair[i] for pair in pairs] for i in range(2))
    values = []
    for step in steps:
        norms_a = a.norms[a.steps.index(step)][replicates_a][:, columns]
        norms_b = b.norms[b.steps.index(step)][replicates_b][:, columns]
        values.append(_root_mean_square(relative_difference(norms_a, norms_b)))
    return DifferenceSeries(LABELS[quantity], tuple(steps), np.array(values))


def record_series(a: pd.DataFrame, b: pd.DataFrame, probe: str) -> DifferenceSeries | None:
    """Compare a probe's values in the records that two runs have in common.

    Args:
        a: Records of run A, from :func:`pipeline.reproducibility.record_diff.common_records`.
        b: Records of run B, row for row those of A.
        probe: The probe's name.

    Returns:
        None if there is no record of the probe.
    """
    a, b = (table[table["probe"] == probe] for table in (a, b))
    if a.empty:
        return None
    ratio = pd.Series(relative_difference(a["value"].to_numpy(), b["value"].to_numpy()), index=a.index)
    by_step = ratio.groupby(a["step"]).agg(lambda x: _root_mean_square(x.to_numpy()))
    return DifferenceSeries(LABELS[probe], tuple(int(s) for s in by_step.index), by_step.to_numpy(np.float64))


def _root_mean_square(x: Array) -> float:
    finite = x[np.isfinite(x)]
    return float(np.sqrt(np.mean(np.square(finite)))) if finite.size else math.nan


def growth_rate(series: DifferenceSeries) -> GrowthRate | None:
    """Fit the growth between the rounding of the norms and saturation; None with fewer than LEAST_POINTS points."""
    steps, values = np.array(series.steps, dtype=np.float64), series.values
    saturated = np.flatnonzero(values > SATURATED)
    end = int(saturated[0]) if saturated.size else len(values)
    kept = np.flatnonzero(values[:end] > RESOLVED)
    if len(kept) < LEAST_POINTS:
        return None
    t, y = steps[kept], np.log(values[kept])
    spread = float(np.sum((t - t.mean()) ** 2))
    slope = float(np.sum((t - t.mean()) * (y - y.mean()))) / spread
    residuals = y - y.mean() - slope * (t - t.mean())
    error = math.sqrt(float(np.sum(residuals**2)) / (len(t) - 2) / spread)
    half_width = float(student_t(len(t) - 2)) * error
    return GrowthRate(slope, slope - half_width, slope + half_width, len(t), (int(t[0]), int(t[-1])))


def growth_figure(growth: Sequence[DifferenceSeries], title: str, rates: Mapping[str, GrowthRate | None]) -> Figure:
    """Draw relative difference against step, on logarithmic axes.

    Args:
        growth: The series to draw.
        title: The figure's title.
        rates: Growth rates by the series' name.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4.5))
        axes = figure.subplots()
        for series, colour, marker in zip(growth, (BLUE, ORANGE, GREEN), "os^", strict=False):
            steps, kept = np.array(series.steps), series.values > 0
            rate = rates.get(series.name)
            suffix = f", {rate.mean:.2g} e-folds a step" if rate is not None and rate.low > 0 else ""
            axes.plot(steps[kept], series.values[kept], marker, color=colour, ms=4, ls="-", label=series.name + suffix)
        axes.set(yscale="log", xlabel="step (updates made)", ylabel="relative difference of the norms", title=title)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=0)
        if growth:
            axes.legend(frameon=False)
    return figure
