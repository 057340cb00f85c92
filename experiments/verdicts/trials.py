"""Does the first remedy work? Train networks with planted faults without it, with it, and with a random change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from engine.arrays import Array
from experiments.verdicts.planted import Planted
from pipeline.analysis.classes import AT_START, DEATH, EXPLODING, SATURATION, VANISHING
from pipeline.analysis.comparisons import paired
from pipeline.analysis.expectation import expect
from pipeline.analysis.flow import cut_off_replicates, decades
from pipeline.analysis.remedies import remedies
from pipeline.analysis.summary import Summary
from pipeline.analysis.verdict import Verdict, judge
from pipeline.config.compose import compose_run
from pipeline.config.schema import build
from pipeline.sweeps.remedy_trials import control
from pipeline.training.divergence import Divergence
from pipeline.training.loop import Callbacks, train
from pipeline.training.prepare import PreparedRun, prepare_run

REPLICATES, STEPS = 10, 200  # at least, of trials
RATE = 0.03  # of networks without steps
FLOW, FIT = "decades of δ per layer", "decades by which the training cost falls"
FLAT = {DEATH: "dead_fraction", SATURATION: "saturated_fraction"}
SHARE = "the largest share of a layer's units that are {} at the start"


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        run: The run.
        summary: Its records.
        verdict: The verdict on it.
    """

    run: PreparedRun
    summary: Summary
    verdict: Verdict | None

    def decades(self) -> Array:
        """Return the size of the decades lost per layer at the start [R]; NaN where no gradient passes."""
        delta, hidden = self.summary.at("delta_rms", 0), self.summary.hidden_layers
        if delta is None or hidden < 2:
            return np.full(1, np.nan)
        cut_off = cut_off_replicates(delta, self.summary.at("dead_fraction", 0), hidden)
        return np.abs(decades(delta, hidden, cut_off)) / (hidden - 1)

    def share(self, probe: str) -> Array:
        """Return the largest value of a probe in any hidden layer at the start [R]."""
        record = self.summary.at(probe, 0)
        return np.full(1, np.nan) if record is None else record.values.max(axis=0)

    def fall(self) -> Array:
        """Return the decades by which the training cost falls [R]; 0 where it rises or is not finite."""
        first, last = (self.summary.at("cost/train", index) for index in (0, -1))
        if first is None or last is None:
            return np.full(1, np.nan)
        with np.errstate(all="ignore"):
            fall = np.log10(first.values[0]) - np.log10(last.values[0])
        has_ended = self.summary.last_step == self.run.length.last_step
        return np.where(np.isfinite(fall) & has_ended, np.maximum(fall, 0.0), 0.0)


@dataclass(frozen=True)
class Trial:
    """The first remedy for a planted fault.

    Attributes:
        planted: The network.
        remedy: The overrides of the remedy.
        measure: In what it should gain: ``FLOW``, ``FIT`` or a ``SHARE``.
        low: Lower end of the paired 95% interval of the gain, less that of the control.
        high: Upper end.
    """

    planted: Planted
    remedy: str
    measure: str
    low: float
    high: float

    @property
    def works(self) -> bool:
        """Whether the gain is above 0."""
        return self.low > 0


def train_config(raw_config: Mapping[str, Any]) -> Trained:
    """Train a run without a store."""
    run = prepare_run(build(raw_config))
    summary = Summary(hidden_layers=len(run.sizes) - 2)
    divergences: list[Divergence] = []
    for record in train(run, Callbacks(on_divergence=divergences.append)):
        summary.add(record)
    verdict = judge(summary, run.config, len(divergences), expect(run), run.sizes, run.facts)
    return Trained(run, summary, verdict)


def try_first_remedy(planted: Planted) -> Trial | None:
    """Compare the first remedy with the baseline and with a random change, over the same seeds.

    A fault of the flow at the start is cured if the decades per layer are closer to 0, dead or saturated units at the
    start if there are fewer of them, any other fault if the training cost falls farther. Training shows it in
    ``STEPS`` steps or more.

    Returns:
        None if no remedy is proposed.
    """
    raw_config = compose_run(planted.overrides)
    raw_config["replicates"] = max(int(raw_config["replicates"]), REPLICATES)
    baseline = train_config(raw_config)
    if baseline.verdict is None:
        return None
    proposed = remedies(baseline.verdict, baseline.run.config, expect(baseline.run))
    if not proposed:
        return None
    measure, value = _measure(baseline.verdict)
    if measure == FIT:
        steps = baseline.run.length.last_step
        raw_config |= {"epochs": None, "steps": max(steps, STEPS)}
        if not steps:
            raw_config["optimizer"] |= {"learning_rate": RATE}
    first, chance = (value(train_config(r.applied(raw_config))) for r in (proposed[0], control(raw_config)))
    gain = paired(chance, first) if measure == FIT else paired(first, chance)
    return Trial(planted, proposed[0].overrides, measure, gain.low, gain.high)


def _measure(verdict: Verdict) -> tuple[str, Callable[[Trained], Array]]:
    """Return what a remedy should change, and a function that returns it for each replicate [R]."""
    if verdict.start in (VANISHING, EXPLODING):
        return FLOW, Trained.decades
    for name, probe in FLAT.items():
        if f"{name} {AT_START}" in verdict.causes:
            return SHARE.format(name), partial(Trained.share, probe=probe)
    return FIT, Trained.fall
