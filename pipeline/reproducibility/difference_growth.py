"""How the difference between two runs grows once they have parted."""

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

SATURATED = 0.1  # two norms so far apart, relatively, are of unlike networks: nothing grows any more
RESOLVED = 4 * float(np.finfo(np.float64).eps)  # below, a difference of norms is their rounding
LEAST = 4  # points for a rate with an interval
Pairs = Sequence[tuple[int, int]]
SHOWN = {"W": "θ: ‖W‖", "dW": "∇C: ‖∂C/∂W‖", "delta_rms": "δ: delta_rms"}


class DifferenceSeries(NamedTuple):
    """Relative differences of norms, root mean square over layers and replicates.

    Attributes:
        steps: at which both runs have the norm, ascending.
        values: one a step; 0 where the norms agree to the last bit.
    """

    name: str
    steps: tuple[int, ...]
    values: Array


@dataclass(frozen=True)
class Rate:
    """The slope of ln(difference) against the step, with its 95% interval over n points.

    Attributes:
        mean, low, high: e-folds a step.
        steps: the first and the last it was fitted to.
    """

    mean: float
    low: float
    high: float
    n: int
    steps: tuple[int, int]

    def __str__(self) -> str:
        fitted = f"from {self.n} points, steps {self.steps[0]} to {self.steps[1]}"
        interval = f"{self.mean:.3g} e-folds a step [{self.low:.3g}, {self.high:.3g}]"
        if self.low > 0:
            return f"grows by {interval}, tenfold every {math.log(10) / self.mean:.3g} steps; {fitted}"
        return f"{'shrinks' if self.high < 0 else 'no growth'}: {interval}; {fitted}"


def relative_difference(a: Array, b: Array) -> Array:
    """|a − b| / max(|a|, |b|); 0 where they are equal, NaN where one is not finite."""
    with np.errstate(all="ignore"):
        ratio = np.abs(a - b) / np.maximum(np.abs(a), np.abs(b))
    return np.where(np.isfinite(a) & np.isfinite(b), np.where(a == b, 0.0, ratio), np.nan)


def of_trails(a: LoggedChain, b: LoggedChain, pairs: Pairs, quantity: str) -> DifferenceSeries:
    """Of the norms in two chains of networks of one depth."""
    places = [q for q, (_, name) in enumerate(a.names) if name == quantity]
    steps = common_steps(a, b)
    ka, kb = ([pair[i] for pair in pairs] for i in range(2))
    values = [
        _rms(relative_difference(a.norms[a.steps.index(s)][ka][:, places], b.norms[b.steps.index(s)][kb][:, places]))
        for s in steps
    ]
    return DifferenceSeries(SHOWN[quantity], tuple(steps), np.array(values))


def of_records(both: pd.DataFrame, probe: str) -> DifferenceSeries | None:
    """Of a probe's values in two tables that were joined, columns ``value_a`` and ``value_b``; None without any."""
    rows = both[both["probe"] == probe]
    if rows.empty:
        return None
    ratio = pd.Series(relative_difference(rows["value_a"].to_numpy(), rows["value_b"].to_numpy()), index=rows.index)
    found = ratio.groupby(rows["step"]).agg(lambda x: _rms(x.to_numpy()))
    return DifferenceSeries(SHOWN[probe], tuple(int(s) for s in found.index), found.to_numpy(np.float64))


def _rms(x: Array) -> float:
    finite = x[np.isfinite(x)]
    return float(np.sqrt(np.mean(np.square(finite)))) if finite.size else math.nan


def rate(series: DifferenceSeries) -> Rate | None:
    """How fast it grows before the two are unlike; None with too few points to tell."""
    steps, values = np.array(series.steps, dtype=np.float64), series.values
    unlike = np.flatnonzero(values > SATURATED)
    end = int(unlike[0]) if unlike.size else len(values)
    kept = np.flatnonzero(values[:end] > RESOLVED)
    if len(kept) < LEAST:
        return None
    t, y = steps[kept], np.log(values[kept])
    spread = float(np.sum((t - t.mean()) ** 2))
    slope = float(np.sum((t - t.mean()) * (y - y.mean()))) / spread
    rest = y - y.mean() - slope * (t - t.mean())
    error = math.sqrt(float(np.sum(rest**2)) / (len(t) - 2) / spread)
    half = float(student_t(len(t) - 2)) * error
    return Rate(slope, slope - half, slope + half, len(t), (int(t[0]), int(t[-1])))


def picture(found: Sequence[DifferenceSeries], title: str, rates: Mapping[str, Rate | None]) -> Figure:
    """Relative difference against the step, on logarithmic axes."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4.5))
        axes = figure.subplots()
        for series, colour, marker in zip(found, (BLUE, ORANGE, GREEN), "os^", strict=False):
            steps, kept = np.array(series.steps), series.values > 0
            fit = rates.get(series.name)
            grown = f", {fit.mean:.2g} e-folds a step" if fit is not None and fit.low > 0 else ""
            axes.plot(steps[kept], series.values[kept], marker, color=colour, ms=4, ls="-", label=series.name + grown)
        axes.set(yscale="log", xlabel="step (updates made)", ylabel="relative difference of the norms", title=title)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=0)
        if found:
            axes.legend(frameon=False)
    return figure
