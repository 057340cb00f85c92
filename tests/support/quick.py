"""Figures without drawing. Drawing takes most of the time of a small run."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from pipeline.tracking.store import RunLogger

Draw = Callable[[RunLogger, Figure, str], None]


def blank(draw: Draw) -> Draw:
    """Return a function that logs an empty figure."""
    return lambda log, figure, name: draw(log, Figure(figsize=(1, 1)), name)


def once_of_each_kind(draw: Draw) -> Draw:
    """Return a function that draws the first figure of each name, with a simple layout, and logs the others empty."""
    drawn, log_empty = set[str](), blank(draw)

    def simply(log: RunLogger, figure: Figure, name: str) -> None:
        if name in drawn:
            log_empty(log, figure, name)
            return
        drawn.add(name)
        figure.set_layout_engine("none")
        draw(log, figure, name)

    return simply
