"""The explanation of a verdict: what is wrong, how strongly, whether theory expects it, why, and what to change."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from engine.optimizers import Adam, Optimizer
from pipeline.analysis.classes import (
    AT_START,
    BLOCKED,
    CLIPPING,
    DEATH,
    DECAY,
    DIVERGED,
    EQUAL_INPUTS,
    EQUAL_TARGETS,
    EXPLODING,
    FINITE_WIDTH,
    HEALTHY,
    IDENTICAL,
    IN_TRAINING,
    LARGE_INPUTS,
    LARGE_WEIGHTS,
    MOMENTUM,
    SATURATION,
    SINGLE,
    TOO_HIGH,
    TOO_LOW,
    UNSURE,
    VANISHING,
    ZERO_RATE,
)
from pipeline.analysis.estimates import Estimate, last_place, rounded, with_interval
from pipeline.analysis.expectation import Expectation
from pipeline.analysis.numbers import momentum_of
from pipeline.analysis.remedies import Remedy, chi_of
from pipeline.analysis.verdict import NOTHING, Verdict
from pipeline.config.schema import Config
from pipeline.wording import counted

MENTIONED = 0.1  # decades lost to finite width that the explanation mentions


def explain(verdict: Verdict, config: Config | None, expectation: Expectation | None, hidden: int) -> str:
    """Explain a verdict in a few sentences.

    Args:
        verdict: The verdict.
        config: Config of the run; None without one.
        expectation: Mean-field prediction, if there is one.
        hidden: Number of hidden layers.
    """
    optimizer = None if config is None else config.optimizer
    sentences = [_class(name, verdict, hidden, optimizer) for name in verdict.classes]
    sentences += [_cause(name, verdict, config) for name in verdict.causes]
    sentences += [
        "" if config is None else _expected(verdict, config, expectation, hidden),
        _range(verdict, config, hidden),
        _without_error(verdict),
        _averaging(verdict),
        _changes(verdict),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _class(name: str, verdict: Verdict, hidden: int, optimizer: Optimizer | None) -> str:
    d = verdict.decades
    steps = max(hidden - 1, 1)
    factor = 10 ** (abs(float(d.mean)) / steps) if np.isfinite(d.mean) else math.nan
    between = f"from the last of {hidden} hidden layers to the first"
    sentences = {
        VANISHING: (
            f"Gradients vanish: {between}, δ shrinks by {with_interval(d)} decades, a factor of "
            f"{factor:.2g} a layer. {_consequence(VANISHING, optimizer)}"
        ),
        EXPLODING: (
            f"Gradients explode: {between}, δ grows by {with_interval(d, -1)} decades, a factor of "
            f"{factor:.2g} a layer. {_consequence(EXPLODING, optimizer)}"
        ),
        HEALTHY: (f"The gradient flow is healthy: {between}, δ {_change(d)}. {_consequence(HEALTHY, optimizer)}"),
        UNSURE: _unsure(d, between),
        SINGLE: "With one hidden layer, there is no flow between hidden layers to judge.",
        DIVERGED: "Training diverged: some numbers are not finite.",
        BLOCKED: (
            f"No gradient passes: δ is exactly 0 in hidden layer {verdict.blocked_layer}, because the "
            "weights above it are all 0."
        ),
        IDENTICAL: (
            "The units of each hidden layer are identical: they start with equal weights and biases, "
            "get equal gradients and stay equal."
        ),
        EQUAL_INPUTS: "All rows of the data have the same inputs, so the outputs cannot depend on them.",
        EQUAL_TARGETS: "All rows of the data have the same targets, so the inputs have nothing to explain.",
        DECAY: (
            f"Weight decay is too strong: at the start it exceeds the gradient of every layer "
            f"{_number(verdict, 'decay', '.2g')} times, and alone it takes {_share(verdict, 'decayed')} of the weights."
        ),
        DEATH: _death(verdict),
        SATURATION: (
            f"Units are saturated: in the worst layer {_share(verdict, 'saturated')} of the (unit, "
            "example) pairs have a slope below a twentieth of the steepest."
        ),
        TOO_HIGH: "The learning rate is too high: the training cost rises again, or never falls.",
        TOO_LOW: _too_low(verdict),
    }
    return sentences[name]


def _consequence(flow: str, optimizer: Optimizer | None) -> str:
    """Return what the gradient flow means for the speeds at which layers learn."""
    if isinstance(optimizer, Adam):
        return (
            "Adam divides each step by the size of its gradient: layers learn at similar speeds while gradients are "
            f"well above ε = {optimizer.epsilon:g}."
        )
    consequence = {
        VANISHING: "The first layers hardly learn.",
        EXPLODING: "A step that suits the last layers is far too long for the first.",
        HEALTHY: "With one decade, one end would learn ten times as fast as the other.",
    }[flow]
    return consequence if optimizer else f"With plain gradient descent, {consequence[0].lower()}{consequence[1:]}"


def _cause(name: str, verdict: Verdict, config: Config | None) -> str:
    """Return the sentence of a cause."""
    momentum = 0.0 if config is None else momentum_of(config.optimizer)
    sentences = {
        f"{DIVERGED} {AT_START}": "The numbers leave their range before the first step.",
        f"{DIVERGED} {IN_TRAINING}": "The steps of the training made them so.",
        f"{DEATH} {AT_START}": "The units are dead from the start.",
        f"{DEATH} {IN_TRAINING}": "The units died in training.",
        f"{SATURATION} {AT_START}": "The units are saturated from the start.",
        f"{SATURATION} {IN_TRAINING}": "The units saturate in training.",
        LARGE_INPUTS: (
            f"The inputs are large: their root mean square is {_number(verdict, 'input rms', '.3g')}, "
            "and standardised inputs have 1."
        ),
        LARGE_WEIGHTS: "The initial weights or biases are too large.",
        FINITE_WIDTH: "The layers are narrow: finite width alone explains at least half of the loss.",
        MOMENTUM: f"Momentum {momentum:g} adds up about {1 / (1 - momentum):.0f} steps.",
        CLIPPING: f"Clipping shortens the first gradient to {_number(verdict, 'clipped', '.1g')} of its norm.",
        ZERO_RATE: "The rate is 0.",
    }
    return sentences[name]


def _number(verdict: Verdict, name: str, digits: str) -> str:
    e = verdict.numbers.get(name)
    return "many" if e is None or not np.isfinite(e.mean) else f"{float(e.mean):{digits}}"


def _change(d: Estimate) -> str:
    """Return 'shrinks by 0.3 [0.2, 0.4] decades' or 'grows by ...'."""
    return f"grows by {with_interval(d, -1)} decades" if float(d.mean) < 0 else f"shrinks by {with_interval(d)} decades"


def _unsure(d: Estimate, between: str) -> str:
    if not np.isfinite(d.mean):
        return "There is not enough evidence: δ has no finite value in all hidden layers of any replicate."
    if not np.isfinite(d.low):
        return f"There is not enough evidence: {between}, δ {_change(d)} in one replicate. Run several replicates."
    advice = "The interval extends beyond one decade. Run more replicates."
    return f"There is not enough evidence: {between}, δ {_change(d)}. {advice}"


def _death(verdict: Verdict) -> str:
    cut_off = verdict.numbers.get("cut off")
    share = float(cut_off.mean) if cut_off is not None else 0.0
    when = "dead at end" if f"{DEATH} {IN_TRAINING}" in verdict.causes else "dead"
    dead = f"in the worst layer, σ' is 0 on all examples for {_share(verdict, when)} of the units"
    if share == 0:
        return f"Units are dead: {dead}, so no gradient passes through them."
    others = " Decades are those of the others." if np.isfinite(verdict.decades.mean) and share < 1 else ""
    return f"In {share:.0%} of the replicates, no error reaches the first layer. Units are dead: {dead}.{others}"


def _too_low(verdict: Verdict) -> str:
    step = verdict.numbers.get("largest step")
    if step is not None and float(step.mean) < NOTHING:
        if float(step.mean) == 0:
            return "The learning rate is too low: a step changes no weight."
        share = f"{float(step.mean):.1g} of their norm"
        return f"The learning rate is too low: a step changes no layer's weights by more than {share}."
    return "The learning rate is too low: the training cost falls steadily but very slowly, or not at all."


def _share(verdict: Verdict, name: str) -> str:
    e = verdict.numbers.get(name)
    return "most" if e is None or not np.isfinite(e.mean) else f"{float(e.mean):.0%}"


def _expected(verdict: Verdict, config: Config, expectation: Expectation | None, hidden: int) -> str:
    """Compare theory with the measurement, both as means of logarithms over initialisations."""
    chi = chi_of(expectation)
    measured = float(verdict.start_decades.mean)
    if expectation is None or hidden < 2 or not math.isfinite(chi) or not math.isfinite(measured):
        return ""
    least, most, std = expectation.decades(hidden)
    if not math.isfinite(least) or not math.isfinite(most) or not math.isfinite(std):
        return ""
    low, high = least - 1.96 * std, most + 1.96 * std
    place = last_place(most, low, high)
    grows = least + most < 0

    def show(decades: float) -> str:
        return rounded(-decades if grows else decades, place)

    def between(lower: float, upper: float) -> str:
        return f"{show(upper)} to {show(lower)}" if grows else f"{show(lower)} to {show(upper)}"

    expected = show(most) if most - least < MENTIONED else between(least, most)
    how = "as measured" if low - 0.1 <= measured <= high + 0.1 else f"but {show(measured)} were measured"
    variances = expectation.weight_variances
    finite = f" Finite width costs up to {most - least:.2g} decades." if most - least >= MENTIONED else ""
    return (
        f"At the start, mean-field theory expects δ to {'grow' if grows else 'shrink'} by {expected} decades "
        f"(single networks: {between(low, high)}), {how}. "
        f"With {type(config.activation).__name__} and σ_w² = {variances[len(variances) // 2]:.3g}, "
        f"the mean square of δ is multiplied by χ = {chi:.3g} a layer.{finite}"
    )


def _range(verdict: Verdict, config: Config | None, hidden: int) -> str:
    if not verdict.below_range:
        return ""
    of_type = "its type" if config is None else config.dtype
    return (
        f"In {verdict.below_range} of {hidden} hidden layers, δ is below the range of {of_type} at the start. "
        "The decades are those of a line through the layers above, continued to the first."
    )


def _without_error(verdict: Verdict) -> str:
    if not verdict.without_error:
        return ""
    return (
        f"In {counted(verdict.without_error, 'network')}, δ is 0 already in the output layer at the start, so no error "
        "is sent back."
    )


def advice(proposed: Sequence[Remedy]) -> str:
    """Return the proposed changes as sentences; "" without one."""
    starts = ["What to change:", *["Or:"] * (len(proposed) - 1)]
    sentences = [f"{start} {r.name}, `{r.overrides}` ({r.reason})." for start, r in zip(starts, proposed, strict=False)]
    return " ".join(sentences)


def learning_sentence(accuracy: float, baseline: float, examples: int) -> str:
    """Return a sentence if a network does no better than a guess; "" if it does.

    Args:
        accuracy: Share of the test examples that are right.
        baseline: The share that always guessing the largest class gets right.
        examples: Number of test examples; two standard errors of the share are allowed for chance.
    """
    chance = 2 * math.sqrt(baseline * (1 - baseline) / max(examples, 1))
    if not accuracy <= baseline + chance:
        return ""
    return (
        f"The network has not learned: its test accuracy is {accuracy:.1%}, and always guessing the largest class "
        f"gets {baseline:.1%}."
    )


def _averaging(verdict: Verdict) -> str:
    if verdict.averaging is None:
        return ""
    return (
        f"The norm of the mean δ falls by {verdict.averaging:.2g} decades more than δ towards the input: there the "
        "examples of a batch disagree and their mean is small. That is averaging, not vanishing."
    )


def _changes(verdict: Verdict) -> str:
    if not verdict.changes:
        return ""
    changes = ", then ".join(f"{state} from step {step}" for step, state in verdict.changes[:4])
    return f"During training: {verdict.start}, then {changes}."
