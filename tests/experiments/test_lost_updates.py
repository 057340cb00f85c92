"""Lost updates: the claims from fewer networks, and the analysis by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.published import answered, outcome

from engine.arrays import Array
from experiments.experiment import load
from experiments.runner import Result
from pipeline.analysis.summary import Summary
from pipeline.training.records import Record

analysis = SimpleNamespace(**load("lost_updates").measured.__globals__)


@pytest.mark.thorough
def test_claims_hold_for_two_networks_and_one_epoch(tmp_path: Path) -> None:
    store = f"tracking.uri=sqlite:///{tmp_path / 'x.db'}"
    done = outcome("lost_updates", store, ["lost_updates"], "replicates=2", "epochs=1")
    numbers = answered(done)
    assert set(numbers) == {c.key for c in load("lost_updates").claims(slow=True)}
    assert 0.5 <= numbers["float32_first"] <= 1.0
    assert 0.0 <= numbers["float64_first"] <= 1e-3
    assert numbers["float32_last"] < 1e-3
    assert numbers["float64_last"] < 1e-3
    pages = analysis.pages(done.results, "command")
    assert list(pages) == ["experiments/lost_updates/figure.png"]


def synthetic(dtype: str, *steps: Array) -> Result:
    summary = Summary(1)
    for step, values in enumerate(steps):
        summary.add(Record(step, "lost_updates", (1, 2), values, True))
        summary.add(Record(step, "delta_rms", (1, 2), np.full_like(values, 9.0), True))
    return Result("lost_updates", {"dtype": dtype}, {}, summary)


def test_shares_are_averaged_over_steps() -> None:
    single = synthetic("float32", np.array([[0.8, 0.6], [0.2, 0.0]]), np.array([[0.4, 0.2], [0.0, 0.0]]))
    double = synthetic("float64", np.zeros((2, 2)))
    np.testing.assert_allclose(analysis.shares([single, double], "float32"), [[0.6, 0.4], [0.1, 0.0]])
    numbers = analysis.measured([single, double])
    assert float(numbers["float32_first"].mean) == pytest.approx(0.5)
    assert float(numbers["float32_last"].mean) == pytest.approx(0.05)
    assert float(numbers["float64_first"].mean) == 0.0
