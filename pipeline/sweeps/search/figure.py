"""The picture of a search: the metric by trial, and over the keys that matter most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial

from engine.arrays import Array
from pipeline.reports.figures.style import BLUE, ORANGE, RED, STYLE
from pipeline.sweeps.search.space import ParameterRange, SearchConfig
from pipeline.sweeps.search.study import position_of
from pipeline.tracking.run_names import short_key

Points = tuple[Array, Array]


def picture(trials: Sequence[FrozenTrial], config: SearchConfig, importances: Mapping[str, float]) -> Figure | None:
    """Left: the metric by trial with the best so far. Right: over the two keys that matter most, or the only one.

    None if no trial has a value.
    """
    if not any(t.value is not None for t in trials):
        return None
    keys = [key for key in importances if any(key in t.params for t in trials)][:2]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.4))
        left, right = figure.subplots(1, 2)
        _by_trial(left, trials, config)
        if len(keys) == 2:
            _over_two(figure, right, trials, config, keys)
        else:
            _over_one(right, trials, config, keys[0])
    return figure


def _by_trial(axes: Axes, trials: Sequence[FrozenTrial], config: SearchConfig) -> None:
    with_value = [t for t in trials if t.value is not None]
    at = np.array([position_of(t) for t in with_value])
    values = np.array([t.value for t in with_value], dtype=np.float64)
    best = (np.maximum if config.direction == "maximise" else np.minimum).accumulate(values)
    axes.plot(at, values, "o", ms=4, color=BLUE, label="trial")
    axes.step(at, best, where="post", color=ORANGE, label="best so far")
    _at_the_edge(axes, [t for t in trials if t.value is None])
    axes.set(xlabel="trial", ylabel=config.label, title=f"{config.aim}, {config.sampler}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=4)


def _at_the_edge(axes: Axes, trials: Sequence[FrozenTrial]) -> None:
    """Trials without a value, on the axis."""
    for state, marker, label in (("PRUNED", "x", "pruned"), ("FAIL", "v", "failed")):
        at = [position_of(t) for t in trials if t.state.name == state]
        if at:
            edge: Any = axes.get_xaxis_transform()
            axes.plot(at, [0.015] * len(at), marker, ms=5, color=RED, label=label, transform=edge, clip_on=False)


def _over_one(axes: Axes, trials: Sequence[FrozenTrial], config: SearchConfig, key: str) -> None:
    shown = [t for t in trials if t.value is not None and key in t.params]
    places = _places(axes.xaxis, config.space[key], [t.params[key] for t in shown])
    axes.plot(places, np.array([t.value for t in shown], dtype=np.float64), "o", ms=4, color=BLUE)
    axes.set(xlabel=key, ylabel=config.label, title=f"{config.label} over {short_key(key)}")


def _over_two(
    figure: Figure, axes: Axes, trials: Sequence[FrozenTrial], config: SearchConfig, keys: Sequence[str]
) -> None:
    known = [t for t in trials if all(key in t.params for key in keys)]
    x, y = (
        _places(axis, config.space[key], [t.params[key] for t in known])
        for axis, key in zip((axes.xaxis, axes.yaxis), keys, strict=True)
    )
    values = np.array([np.nan if t.value is None else t.value for t in known], dtype=np.float64)
    there = np.isfinite(values)
    axes.plot(x[~there], y[~there], "x", ms=5, color=RED, label="pruned or failed")
    dots = axes.scatter(x[there], y[there], c=values[there], cmap="viridis", s=30, zorder=3)
    best = np.nanargmax(values) if config.direction == "maximise" else np.nanargmin(values)
    axes.plot(x[best], y[best], "o", ms=12, mfc="none", mec=ORANGE, mew=2, label="best", zorder=4)
    axes.set(xlabel=keys[0], ylabel=keys[1], title="the keys that matter most")
    axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=2)
    figure.colorbar(dots, label=config.label)


def _places(axis: Any, over: ParameterRange, values: Sequence[Any]) -> Array:
    """Where values stand on an axis, which is made to suit them."""
    if over.choices is not None:
        names = over.bounds()
        axis.set_ticks(range(len(names)), labels=names)
        return np.array([names.index(str(v)) for v in values], dtype=np.float64)
    if over.log:
        axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    return np.array(values, dtype=np.float64)
