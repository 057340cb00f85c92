"""Random networks and mean-field theory: two small cells, and the analysis by hand."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.experiment import load
from experiments.theory_grid.analysis import figure, markdown, measured, pages
from experiments.theory_grid.grid import CELLS, Cell, Deviation, Row, chunks, jackknife, measure_grid

pytestmark = pytest.mark.xdist_group("theory_grid")

TANH, RELU = Cell("tanh", 1.5, 6), Cell("relu", 2.0, 12)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return measure_grid((60, 120), seeds=20, cells=(TANH, RELU), depths=(6, 12))


def test_small_cells_follow_theory(rows: list[Row]) -> None:
    """A factor deviates by the order of 1/n and by chance: four standard errors."""
    assert [(row.width, row.cell) for row in rows] == [(60, TANH), (60, RELU), (120, TANH), (120, RELU)]
    for row in rows:
        assert row.seeds == 20
        for deviation in (row.delta, row.q):
            assert abs(deviation.relative) < 2 / row.width + 4 * deviation.error, row
        assert 0 < row.delta.error < 0.02
    assert rows[1].delta.theory == pytest.approx(1.0)


def test_page_has_a_line_for_each_cell_and_width(rows: list[Row]) -> None:
    (name,) = pages(rows, "a command")
    assert name == "docs/theory.md"
    page = markdown(rows, "a command")
    assert "Written by `a command`." in page
    assert "20 networks" in page
    assert "n = 60: " in page
    assert "n = 120: " in page
    for row in rows[2:]:
        assert f"| {row.cell.name} | {row.cell.weight_variance:g} | {row.cell.depth} | {row.delta.theory:.4f} |" in page
    assert all(row.delta.percent() in page for row in rows)
    assert len(figure(rows).axes) == 1


def row(width: int, delta: float, q: float) -> Row:
    return Row(width, 40, TANH, Deviation(1 + delta, 1.0, 0.0), Deviation(0.5 * (1 + q), 0.5, 0.0))


def test_medians_and_share_within_by_hand() -> None:
    rows = [row(150, 0.01, 0.0), row(150, -0.03, 0.01), row(150, 0.0, 0.021), row(150, 0.019, -0.019)]
    numbers = measured([*rows, *(row(600, 0.001, 0.0) for _ in range(3))])
    claims = load("theory_grid").claims(slow=True)
    assert set(numbers) == {claim.key for claim in claims}
    assert float(numbers["delta_median_150"].mean) == pytest.approx(0.0145)
    assert float(numbers["q_median_150"].mean) == pytest.approx(0.0145)
    assert float(numbers["within_150"].mean) == 0.5
    assert float(numbers["within_600"].mean) == 1.0


def test_chunks_have_all_seeds() -> None:
    assert list(chunks(10, 2, 7)) == [(0, 7)]
    parts = list(chunks(2000, 24, 7))
    assert sum(members for _, members in parts) == 7
    assert [number for number, _ in parts] == list(range(len(parts)))
    assert len(parts) > 1


def test_jackknife_of_equal_networks_has_no_error() -> None:
    value, error = jackknife(np.full(5, 8.0), np.full(5, 1.0), 3)
    assert value == pytest.approx(2)
    assert error == pytest.approx(0)


def test_jackknife_error_of_a_mean_is_the_standard_error() -> None:
    above = np.array([1.0, 2.0, 4.0, 7.0])
    value, error = jackknife(above, np.ones(4), 1)
    assert value == pytest.approx(above.mean())
    assert error * value == pytest.approx(above.std(ddof=1) / 2)


def test_grid_has_216_cells() -> None:
    assert len(CELLS) == len(set(CELLS)) == 216
