"""Planted faults: a few networks through the experiment, and the rates by hand."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from experiments.experiment import load
from experiments.verdicts.analysis import (
    FAULTS,
    Judged,
    counts,
    figure,
    judge_planted,
    markdown,
    measured,
    pages,
)
from experiments.verdicts.planted import CYCLE, Planted
from pipeline.analysis.classes import DIVERGED, EXPLODING, HEALTHY, TOO_HIGH, TOO_LOW, UNSURE, VANISHING
from pipeline.analysis.comparisons import wilson
from pipeline.analysis.estimates import Estimate
from pipeline.analysis.verdict import Verdict


def judged(kind: str, *classes: str) -> Judged:
    decades = Estimate(np.array(1.0), np.array(0.5), np.array(1.5), np.array(0.0))
    return Judged(Planted(1, kind, ("some=override",), "theory"), Verdict(classes, HEALTHY, HEALTHY, decades, decades))


def test_rates_by_hand() -> None:
    results = [judged(HEALTHY, HEALTHY) for _ in range(8)]
    results += [judged(HEALTHY, UNSURE), judged(HEALTHY, TOO_LOW)]
    results += [judged(VANISHING, VANISHING), judged(EXPLODING, EXPLODING, VANISHING), judged(EXPLODING, VANISHING)]
    results += [judged(DIVERGED, DIVERGED), judged(TOO_HIGH, DIVERGED), judged(TOO_HIGH, HEALTHY)]
    numbers = measured(results)
    assert set(numbers) == {c.key for c in load("verdicts").claims(slow=True)}
    assert float(numbers["false_alarms"].mean) == 0.1
    assert float(numbers["found"].mean) == 0.75
    assert (float(numbers["found"].low), float(numbers["found"].high)) == pytest.approx(wilson(3, 4))
    assert sum(counts(results, HEALTHY)) == 10
    assert sum(counts(results, EXPLODING)) == 3
    assert len(figure(results).axes) == 2
    page = markdown(results, "a command", "2000-01-02")
    assert "Written by `a command` on 2000-01-02." in page
    assert "| false alarms on healthy nets | 10.0%" in page
    assert "1 of 10 | at most 2% | **missed** |" in page
    assert "## The 4 that were not found" in page
    assert page.count("`some=override`") == 4
    assert list(pages(results, "a command")) == ["docs/verdicts.md"]


def test_networks_are_judged_in_the_order_of_the_seed() -> None:
    with threadpool_limits(1):
        results = list(judge_planted(2, seed=5))
    assert [r.planted.number for r in results] == [0, 1]
    assert all(r.planted.kind in CYCLE for r in results)
    assert all(r.classes for r in results)
    assert set(FAULTS) < set(CYCLE)
