"""Run parts of experiments with smaller networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from experiments.experiment import load
from experiments.runner import ExperimentResult, run_experiment


def outcome(name: str, store: str, sweeps: Sequence[str], *overrides: str) -> ExperimentResult:
    """Run some sweeps of an experiment and check that no cell fails.

    Args:
        name: The experiment.
        store: The override of the store's address.
        sweeps: The sweeps to run.
        *overrides: More overrides.
    """
    whole = load(name)
    part = replace(whole, description=whole.description.model_copy(update={"sweeps": tuple(sweeps)}))
    done = run_experiment(part, [store, *overrides], False, True)
    assert done.failed == 0
    assert done.figure.axes
    return done


def answered(done: ExperimentResult) -> dict[str, float]:
    """Return the measured means by the claims' keys."""
    return {a.claim.key: float(a.measured.mean) for a in done.answers if a.measured is not None}
