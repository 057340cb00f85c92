"""The numbers of docs/tutorial.md, measured again."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
from support.excerpts import PROJECT

from engine.activations import Sigmoid
from engine.theory import MeanField
from pipeline import Run, run

TEXT = (PROJECT / "docs" / "tutorial.md").read_text(encoding="utf-8")
NUMBER = r"(-?[\d.]+)±([\d.]+)"
ROWS = re.findall(rf"^(sigmoid|tanh|relu) +(\d+) +{NUMBER} +{NUMBER} +{NUMBER} +\w+ +\w{{8}}$", TEXT, re.MULTILINE)
QUICK = (("sigmoid", "20"), ("relu", "5"))


@cache
def measured(activation: str, depth: str, epochs: int) -> Run:
    words = ("experiment=depth", f"activation={activation}", f"architecture.depth={depth}", f"epochs={epochs}")
    return run(*words, track=False)


def value(of: Run, name: str) -> float:
    return float(np.asarray(of.estimates[name].mean).squeeze())


def test_table_has_the_twelve_cells() -> None:
    assert len(ROWS) == 12


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[] if row[:2] in QUICK else pytest.mark.thorough, id="-".join(row[:2])) for row in ROWS],
)
def test_decades_of_the_table_are_those_of_a_run(row: tuple[str, ...]) -> None:
    """Another machine may round differently, so the last digit may differ by one."""
    activation, depth, lost, _, per_layer, *_ = row
    of = measured(activation, depth, 0)
    for text, name in ((lost, "decades_lost_delta_rms_start"), (per_layer, "decades_lost_per_layer_delta_rms_start")):
        unit = 10.0 ** -len(text.partition(".")[2])
        assert value(of, name) == pytest.approx(float(text), abs=unit)


@pytest.mark.thorough
def test_accuracy_of_the_table_is_that_of_a_run() -> None:
    row = next(row for row in ROWS if row[:2] == ("sigmoid", "2"))
    assert value(measured("sigmoid", "2", 10), "final_accuracy_test") == pytest.approx(float(row[6]), abs=0.02)


def test_chi_of_the_page_is_the_one_of_theory_and_explains_the_table() -> None:
    chi = float(re.findall(r"χ = (0\.\d+)", TEXT)[0])
    assert MeanField(Sigmoid(), 1.0, 0.0).chi_star() == pytest.approx(chi, abs=5e-4)
    decades = float(re.findall(r"−½ log₁₀ 0\.0557 = (0\.\d+)", TEXT)[0])
    assert -0.5 * np.log10(chi) == pytest.approx(decades, abs=5e-4)
