"""Pictures in less time than matplotlib takes: they are much of what a small run takes."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from pipeline.tracking.store import RunLogger

Draw = Callable[[RunLogger, Figure, str], None]


def blank(draw: Draw) -> Draw:
    """Draws nothing, and logs that."""
    return lambda log, figure, name: draw(log, Figure(figsize=(1, 1)), name)


def once_of_each_kind(draw: Draw) -> Draw:
    """Draws the first picture of each name, its parts placed simply, and then no more of them."""
    drawn, nothing = set[str](), blank(draw)

    def simply(log: RunLogger, figure: Figure, name: str) -> None:
        if name in drawn:
            nothing(log, figure, name)
            return
        drawn.add(name)
        figure.set_layout_engine("none")
        draw(log, figure, name)

    return simply
