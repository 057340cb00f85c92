"""Training that goes on from a kept state is, bit for bit, training that was never interrupted."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import config

from pipeline.divergence import Divergence
from pipeline.records import tidy
from pipeline.training import State, ready, train


class KeepAll:
    """Keeps every state."""

    def __init__(self) -> None:
        self.states: list[State] = []

    def due(self, step: int) -> bool:
        return True

    def keep(self, state: State) -> None:
        self.states.append(state)


CASES = {
    "plain": [],
    "momentum and comparing probes": ["optimizer=momentum", "probes=full", "schedule=every", "data.subset=100"],
    "with replacement, float32": ["batching=with_replacement", "dtype=float32", "optimizer=nesterov"],
    "diverges": ["init=gaussian", "init.weights.std=1e60", "activation=relu", "optimizer.learning_rate=1e80"],
    "trains on after diverging": [
        "init=gaussian", "init.weights.std=1e60", "activation=relu", "optimizer.learning_rate=1e80",
        "divergence.stop=false",
    ],
}  # fmt: skip


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES.keys())
def test_going_on_from_any_step_is_never_having_stopped(overrides: list[str]) -> None:
    base = ["replicates=2", "epochs=2", "data=iris", "batching.size=10", *overrides]
    run = ready(config(*base))
    keeper, told = KeepAll(), list[Divergence]()
    whole = list(train(run, on_divergence=told.append, keeper=keeper))
    assert bool(told) == any("1e80" in o for o in overrides)
    assert len(keeper.states) > 5 or told
    for state in keeper.states[:: max(1, len(keeper.states) // 7)]:
        later: list[Divergence] = []
        rest = list(train(run, on_divergence=later.append, start=state))
        expected = [r for r in whole if r.step >= state.now.step]
        a, b = tidy(rest), tidy(expected)
        assert a.drop(columns="value").equals(b.drop(columns="value"))
        assert np.array_equal(a["value"].to_numpy().view(np.int64), b["value"].to_numpy().view(np.int64))
        assert [d.finding for d in later] == [d.finding for d in told if d.finding.replicate in state.living]
