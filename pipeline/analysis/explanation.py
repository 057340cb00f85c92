"""The explanation of a verdict: what is wrong, how strongly, whether theory expects it, why, and what to change."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.analysis.estimates import Estimate
from pipeline.analysis.expectation import Expectation
from pipeline.analysis.remedies import Remedy, chi_of
from pipeline.analysis.verdict import (
    DEATH,
    DIVERGED,
    EXPLODING,
    HEALTHY,
    SATURATION,
    TOO_HIGH,
    TOO_LOW,
    UNSURE,
    VANISHING,
    Verdict,
)
from pipeline.config.schema import Config


def explain(
    verdict: Verdict, config: Config, expectation: Expectation | None, proposed: Sequence[Remedy], hidden: int
) -> str:
    """Explain a verdict in a few sentences.

    Args:
        verdict: The verdict.
        config: Config of the run.
        expectation: Mean-field prediction, if there is one.
        proposed: The remedies to list.
        hidden: Number of hidden layers.
    """
    sentences = [_class(name, verdict, hidden) for name in verdict.classes]
    sentences += [_expected(verdict, config, expectation, hidden), _averaging(verdict), _changes(verdict)]
    sentences.append(_advice(proposed))
    return " ".join(sentence for sentence in sentences if sentence)


def _interval(e: Estimate, sign: int = 1) -> str:
    """Format a mean with its interval; sign −1 negates both."""
    text = f"{sign * float(e.mean):.3g}"
    ends = sorted((sign * float(e.low), sign * float(e.high)))
    return f"{text} [{ends[0]:.3g}, {ends[1]:.3g}]" if np.isfinite(e.low) else text


def _class(name: str, verdict: Verdict, hidden: int) -> str:
    d = verdict.decades
    steps = max(hidden - 1, 1)
    factor = 10 ** (abs(float(d.mean)) / steps) if np.isfinite(d.mean) else math.nan
    between = f"from the last of {hidden} hidden layers to the first"
    within = f"log₁₀ δ falls by {_interval(d)} {between} (a negative number would be a rise)"
    sentences = {
        VANISHING: f"Gradients vanish: {between}, δ shrinks by {_interval(d)} decades, a factor of {factor:.2g} a "
        "layer, so the first layers hardly learn.",
        EXPLODING: f"Gradients explode: {between}, δ grows by {_interval(d, -1)} decades, a factor of {factor:.2g} a "
        "layer, so a step that suits the last layers is far too long for the first.",
        HEALTHY: f"The gradient is healthy: {within}, less than the one decade that would let one end learn ten "
        "times as fast as the other.",
        UNSURE: f"There is not enough evidence: {within}, and the interval extends beyond one decade. Run more "
        "replicates.",
        DIVERGED: "Training diverged: some numbers are not finite.",
        DEATH: f"Units are dead: in the worst layer σ' is 0 on all examples for {_share(verdict, 'dead')} of the "
        "units, so no gradient passes through them.",
        SATURATION: f"Units are saturated: in the worst layer {_share(verdict, 'saturated')} of the (unit, example) "
        "pairs have a slope below a twentieth of the steepest.",
        TOO_HIGH: "The learning rate is too high: the training cost rises again, or never falls.",
        TOO_LOW: "The learning rate is too low: the training cost falls steadily, but very slowly.",
    }
    return sentences[name]


def _share(verdict: Verdict, name: str) -> str:
    e = verdict.numbers.get(name)
    return "most" if e is None or not np.isfinite(e.mean) else f"{float(e.mean):.0%}"


def _expected(verdict: Verdict, config: Config, expectation: Expectation | None, hidden: int) -> str:
    chi = chi_of(expectation)
    if expectation is None or not math.isfinite(chi):
        return ""
    expected = -float(np.log10(expectation.profile.chi[: hidden - 1]).sum()) / 2
    measured = float(verdict.start_decades.mean)
    variances = expectation.weight_variances
    same = abs(expected - measured) <= max(0.1 * abs(measured), 0.3)
    how = "as measured" if same else f"but {measured:.2g} were measured"
    return (
        f"Mean-field theory expects {expected + 0.0:.2g} decades at the start, {how}: with "
        f"{type(config.activation).__name__} and σ_w² = {variances[len(variances) // 2]:.3g} the mean square of δ is "
        f"multiplied by χ = {chi:.3g} a layer."
    )


def _averaging(verdict: Verdict) -> str:
    if verdict.averaging is None:
        return ""
    return (
        f"Batch-averaged norms fall by {verdict.averaging:.2g} decades more than δ towards the input: there the "
        "examples of a batch disagree and their mean is small. That is averaging, not vanishing."
    )


def _changes(verdict: Verdict) -> str:
    if not verdict.changes:
        return ""
    changes = ", then ".join(f"{state} from step {step}" for step, state in verdict.changes[:4])
    return f"During training: {verdict.start}, then {changes}."


def _advice(proposed: Sequence[Remedy]) -> str:
    if not proposed:
        return ""
    listed = "; ".join(f"{r.name} (`{r.overrides}`: {r.reason})" for r in proposed)
    return f"What to change: {listed}. `make prescribe RUN=...` tries them."
