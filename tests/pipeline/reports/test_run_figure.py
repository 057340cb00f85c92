"""The figure of a run: nothing in it is cut off, and no layout solver slows it down."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from pipeline.analysis.summary import Summary
from pipeline.reports.figures.profiles import RunProfile, overlay_plot, run_plot
from pipeline.tracking.artifact_parsers import Theory
from pipeline.tracking.run_logger import RunLogger
from pipeline.training.records import Record

LONG = "weights.sigma_w2=1.7610, optimizer.learning_rate=0.001, activation=$leaky_relu$, architecture.width=256"
MOST_LOOPS = 10  # 6 to 8 were measured on a loaded machine of two cores


class CopyingClient:
    """A store that reads each file and forgets it."""

    def log_artifact(self, _: str, path: str) -> None:
        assert Path(path).read_bytes().startswith(b"\x89PNG")


def norms(depth: int, scale: float = 1.0, last_step: int = 1000, replicates: int = 3) -> Summary:
    """Return a run's norms, which fall by a tenth of a decade in each layer."""
    summary = Summary(depth)
    layers = tuple(range(1, depth + 2))
    falls = scale * 10.0 ** (0.1 * np.array(layers))[:, None] * np.linspace(1.0, 1.2, replicates)
    for step in dict.fromkeys((0, last_step)):
        for probe, factor in (("delta_rms", 1.0), ("gradient_norm", 0.3)):
            summary.add(Record(step, probe, layers, factor * falls, geometric=True))
    return summary


def theory(depth: int, scale: float) -> Theory:
    layers = np.arange(1.0, depth + 2)
    delta = scale * 10.0 ** (0.1 * layers)
    return Theory(layers, delta, delta / 3, delta * 3, np.ones_like(layers))


@pytest.mark.parametrize(
    ("depth", "scale", "has_theory"),
    [(1, 3e-300, True), (1, 1.0, False), (3, 1e250, True), (20, 1.0, True), (20, 1e-30, False), (60, 1.0, True)],
)
def test_no_text_of_the_figure_is_cut_off(depth: int, scale: float, has_theory: bool) -> None:
    for last_step, title in ((0, "short"), (12_345_678, LONG)):
        predicted = theory(depth, scale) if has_theory else None
        figure = run_plot(norms(depth, scale, last_step), predicted, title)
        assert figure is not None
        boxes = drawn_texts(figure)
        assert any(title[:20] in text for text in boxes)
        width, height = FigureCanvasAgg(figure).get_width_height()
        for text, (left, bottom, right, top) in boxes.items():
            assert 0 <= left < right <= width, text
            assert 0 <= bottom < top <= height, text
        ticks = [axis.get_window_extent() for axis in figure.axes[0].get_yticklabels()]
        label = figure.axes[0].yaxis.label.get_window_extent()
        assert label.x1 <= min(box.x0 for box in ticks), "the label is left of the numbers"


def drawn_texts(figure: Figure) -> dict[str, tuple[float, float, float, float]]:
    """Return the edges of all texts of a drawn figure, in pixels from the lower left."""
    FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]
    texts = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_text() and t.get_visible()]
    return {t.get_text(): t.get_window_extent().extents for t in texts}


def seconds_of(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def test_figure_takes_at_most_ten_times_as_long_as_a_plain_loop() -> None:
    """A bound against regressions, not a time: other processes slow the loop down, too."""
    summary, predicted = norms(20), theory(20, 1.0)

    def drawn() -> None:
        figure = run_plot(summary, predicted, LONG)
        assert figure is not None
        assert figure.get_layout_engine() is None
        RunLogger(CopyingClient(), "run").figure(figure, "figure.png")

    drawn()
    ratios = []
    for _ in range(60):
        before, seconds, after = seconds_of(loop), seconds_of(drawn), seconds_of(loop)
        ratios.append(2 * seconds / (before + after))
        if ratios[-1] <= MOST_LOOPS:
            return
    pytest.fail(f"{min(ratios):.1f} times as long as the loop")


def loop() -> None:
    sum(range(1_000_000))


def test_run_without_norms_has_no_figure() -> None:
    assert run_plot(Summary(3), None, "x") is None


def test_theory_is_in_the_legend_of_an_overlay_and_above_the_measurements() -> None:
    summary = norms(3)
    start, end = summary.at("delta_rms", 0), summary.at("delta_rms", -1)
    for predicted in (None, theory(3, 1.0)):
        figure = overlay_plot([RunProfile("tanh d3", {"activation": "tanh"}, start, end, predicted)])
        assert figure is not None
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert names == ["tanh d3", *(["theory, at the start"] if predicted else [])]
        measured, *theoretical = figure.axes[0].get_lines()
        assert len(theoretical) == (predicted is not None)
        assert all(line.get_linestyle() == "--" for line in theoretical)
        assert all(line.get_zorder() > measured.get_zorder() for line in theoretical)
