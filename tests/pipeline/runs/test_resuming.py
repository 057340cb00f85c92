"""Training resumed from a saved state equals uninterrupted training bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from support.configs import RESUMED, config

from pipeline.training.divergence import Divergence
from pipeline.training.loop import Callbacks, train
from pipeline.training.prepare import prepare_run
from pipeline.training.records import tidy
from pipeline.training.trainer import TrainingState


class KeepAll:
    """Keeps every state."""

    def __init__(self) -> None:
        self.states: list[TrainingState] = []

    def due(self, step: int) -> bool:
        return True

    def save(self, state: TrainingState) -> None:
        self.states.append(state)


@pytest.mark.parametrize("overrides", RESUMED.values(), ids=RESUMED.keys())
def test_training_resumed_at_any_step_equals_uninterrupted_training(overrides: list[str]) -> None:
    base = ["replicates=2", "epochs=2", "data=iris", "batching.size=10", *overrides]
    run = prepare_run(config(*base))
    checkpointer, divergences = KeepAll(), list[Divergence]()
    whole = list(train(run, Callbacks(on_divergence=divergences.append, checkpointer=checkpointer)))
    assert bool(divergences) == any("1e80" in o for o in overrides)
    assert len(checkpointer.states) > 5 or divergences
    for state in checkpointer.states[:: max(1, len(checkpointer.states) // 7)]:
        later: list[Divergence] = []
        rest = list(train(run, Callbacks(on_divergence=later.append), start=state))
        expected = [r for r in whole if r.step >= state.now.step]
        a, b = tidy(rest), tidy(expected)
        assert a.drop(columns="value").equals(b.drop(columns="value"))
        assert np.array_equal(a["value"].to_numpy().view(np.int64), b["value"].to_numpy().view(np.int64))
        assert [d.finding for d in later] == [d.finding for d in divergences if d.finding.replicate in state.active]
