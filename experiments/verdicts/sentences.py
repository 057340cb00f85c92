"""Check the sentences of an explanation: each number is computed again from the table of records, by other code.

The records are those of ``records.parquet``. Numbers that no record has (of theory, data and config) are computed again
from their definition. A sentence that no rule knows, or that has more than ``MOST_WORDS`` words, is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import polygamma, psi

from engine.arrays import Array
from engine.optimizers import SGD, Adam
from engine.theory import Profile
from pipeline.analysis.expectation import Expectation
from pipeline.training.prepare import PreparedRun

MOST_WORDS = 30
NUMBER = r"-?(?:\d+\.?\d*(?:e[+-]?\d+)?|inf|nan)"
Pairs = Iterator[tuple[str, float]]  # a number as it is stated, and as it is computed again


def split(text: str) -> list[str]:
    """Return the sentences of a text."""
    return [part for part in re.split(r"(?<=[.!?])\s+(?=[A-Z`])", text.strip()) if part]


def errors(evidence: Evidence) -> list[str]:
    """Return what is wrong with the sentences of an explanation, a line each."""
    found = []
    for sentence in split(evidence.text):
        if len(sentence.split()) > MOST_WORDS:
            found.append(f"{len(sentence.split())} words: {sentence}")
        if re.search(r"\b(nan|inf)\b", sentence):
            found.append(f"not finite: {sentence}")
        matches = ((rule, re.fullmatch(pattern, sentence)) for pattern, rule in RULES)
        rule, match = next(((r, m) for r, m in matches if m), (None, None))
        if rule is None or match is None:
            found.append(f"no rule: {sentence}")
            continue
        for stated, value in rule(match, evidence):
            if not agrees(stated, value):
                found.append(f"{stated} is {value:.6g}: {sentence}")
    return found


def agrees(stated: str, value: float) -> bool:
    """Return whether a number is the value, rounded to the digits with which it is stated."""
    text = stated.rstrip("%")
    number = float(text) / (100 if stated.endswith("%") else 1)
    mantissa, _, exponent = text.lstrip("-").partition("e")
    digits = len(mantissa.partition(".")[2])
    unit = 10.0 ** (int(exponent or 0) - digits) / (100 if stated.endswith("%") else 1)
    if "." not in mantissa and not exponent and abs(number) >= 100:
        unit = max(unit, 10.0 ** (math.floor(math.log10(abs(number))) - 2))  # three digits
    return abs(number - value) <= 0.5001 * unit


@dataclass(frozen=True)
class Evidence:
    """What the numbers of an explanation are computed from.

    Attributes:
        frame: The records, as in ``records.parquet``.
        run: The run.
        expectation: Theory.
        text: The whole explanation.
    """

    frame: pd.DataFrame
    run: PreparedRun
    expectation: Expectation | None
    text: str

    @cached_property
    def hidden(self) -> int:
        """The number of hidden layers."""
        return int(self.frame.loc[self.frame["probe"] == "delta_rms", "layer"].max()) - 1

    def table(self, probe: str, step: int) -> Array:
        """Return a probe's values at a step [layers, R]."""
        rows = self.frame[(self.frame["probe"] == probe) & (self.frame["step"] == step)]
        return rows.pivot_table(values="value", index="layer", columns="replicate", dropna=False).to_numpy()

    def steps(self, probe: str) -> list[int]:
        """Return the steps at which a probe was measured."""
        return sorted(self.frame.loc[self.frame["probe"] == probe, "step"].unique())

    def decades(self, probe: str, step: int) -> Array:
        """Return the slope of log10 over the hidden layers, times their number less one, of each replicate."""
        values = self.table(probe, step)[: self.hidden]
        dead = self.table("dead_fraction", step)[: self.hidden]
        layers, result = np.arange(self.hidden), []
        for k in range(values.shape[1]):
            v = values[:, k]
            is_cut_off = (v == 0).any() and (not len(dead) or (dead[:, k] == 1).any())
            used = v > 0
            if not np.isfinite(v).all() or is_cut_off or used.sum() < 2:
                result.append(math.nan)
            else:
                result.append(float(np.polyfit(layers[used], np.log10(v[used]), 1)[0]) * (self.hidden - 1))
        return np.array(result)

    @cached_property
    def by_step(self) -> Array:
        """The decades of δ [steps, R]."""
        return np.array([self.decades("delta_rms", step) for step in self.steps("delta_rms")])

    @cached_property
    def whole(self) -> tuple[float, float, float]:
        """The decades of the whole run: mean and interval over replicates of the median over measurements."""
        medians = [
            np.median(column[np.isfinite(column)]) if np.isfinite(column).any() else math.nan
            for column in self.by_step.T
        ]
        return interval(np.array(medians))

    def worst(self, probe: str, steps: Sequence[int] | None = None) -> float:
        """Return the largest share of a hidden layer: median over measurements, mean over replicates."""
        tables = np.array([self.table(probe, step)[: self.hidden] for step in steps or self.steps(probe)])
        return float(np.median(tables, axis=0).mean(axis=1).max())

    @cached_property
    def relative_gradient(self) -> float:
        """‖∂C/∂W‖ at the start over the usual ‖W‖, in the layer where it is largest."""
        sizes = self.run.sizes
        usual = [math.sqrt(m * n * self.run.config.init.weights.variance(m, n)) for m, n in pairwise(sizes)]
        return float((self.table("gradient_norm", 0) / np.array(usual)[:, None]).max(axis=0).mean())

    @cached_property
    def largest_step(self) -> float:
        """‖ΔW‖/‖W‖ in the layer where it is largest: median over measurements, mean over replicates."""
        tables = [self.table("update_to_weight", step) for step in self.steps("update_to_weight")]
        finite = np.array([table for table in tables if np.isfinite(table).all()])
        return float(np.median(finite, axis=0).max(axis=0).mean())

    @property
    def profile(self) -> Profile:
        """The profile of theory.

        Raises:
            LookupError: Theory expects nothing of the run.
        """
        if self.expectation is None:
            raise LookupError("the run has no theory")
        return self.expectation.profile

    @cached_property
    def theory(self) -> tuple[float, float, float]:
        """The least and the most decades that theory expects, and their standard deviation."""
        profile, steps = self.profile, self.hidden - 1
        least = -sum(math.log10(chi) for chi in profile.chi[:steps]) / 2
        k = [1 / variance for variance in profile.log_variance[:steps]]
        loss = sum(math.log(shape) - float(psi(shape)) for shape in k) / (2 * math.log(10))
        return least, least + loss, math.sqrt(sum(float(polygamma(1, shape)) for shape in k)) / (2 * math.log(10))


def interval(values: Array) -> tuple[float, float, float]:
    """Return mean and Student's 95% interval of the finite values."""
    finite = values[np.isfinite(values)]
    if len(finite) < 2:
        return float(finite.mean()) if len(finite) else math.nan, math.nan, math.nan
    mean, error = float(finite.mean()), float(stats.sem(finite))
    if error == 0:  # SciPy's interval is then NaN
        return mean, mean, mean
    low, high = stats.t.interval(0.95, len(finite) - 1, mean, error)
    return mean, float(low), float(high)


def _flow(match: re.Match[str], evidence: Evidence) -> Pairs:
    yield match["hidden"], evidence.hidden
    mean, low, high = evidence.whole
    sign = -1 if match["verb"] == "grows" else 1
    yield match["mean"], sign * mean
    if match["low"]:
        yield match["low"], min(sign * low, sign * high)
        yield match["high"], max(sign * low, sign * high)
    if match.groupdict().get("factor"):
        yield match["factor"], 10 ** (abs(mean) / (evidence.hidden - 1))


def _expected(match: re.Match[str], evidence: Evidence) -> Pairs:
    sign = -1 if match["direction"] == "grow" else 1
    least, most, std = evidence.theory
    ends = sorted((sign * (least - 1.96 * std), sign * (most + 1.96 * std)))
    if match["most"]:
        yield from zip((match["least"], match["most"]), sorted((sign * least, sign * most)), strict=True)
    else:
        yield match["least"], sign * most
    yield from zip((match["low"], match["high"]), ends, strict=True)
    yield "1", float((sign < 0) == (least + most < 0))
    measured = sign * interval(evidence.by_step[0])[0]
    yield "1", float((ends[0] - 0.1 <= measured <= ends[1] + 0.1) == (match["measured"] is None))
    if match["measured"]:
        yield match["measured"], measured


def _middle(match: re.Match[str], evidence: Evidence) -> Pairs:
    config, sizes = evidence.run.config, evidence.run.sizes
    layer = (len(sizes) - 1) // 2
    yield match["variance"], sizes[layer] * config.init.weights.variance(sizes[layer], sizes[layer + 1])
    chi = evidence.profile.chi[: evidence.hidden - 1]
    yield match["chi"], float(chi[len(chi) // 2])


def _width(match: re.Match[str], evidence: Evidence) -> Pairs:
    yield match["cost"], evidence.theory[1] - evidence.theory[0]


def _more_width(match: re.Match[str], evidence: Evidence) -> Pairs:
    yield match["width"], 4 * evidence.run.sizes[1]
    yield from _width(match, evidence)


def _cut_off(match: re.Match[str], evidence: Evidence) -> Pairs:
    step = evidence.steps("delta_rms")[-1]
    zero = (evidence.table("delta_rms", step)[: evidence.hidden] == 0).any(axis=0)
    dead = (evidence.table("dead_fraction", step)[: evidence.hidden] == 1).any(axis=0)
    yield match["share"], float((zero & dead).mean())


def _dead(match: re.Match[str], evidence: Evidence) -> Pairs:
    last = evidence.steps("dead_fraction")[-1:]
    yield match["share"], evidence.worst("dead_fraction", last if "died in training" in evidence.text else None)


def _saturated(match: re.Match[str], evidence: Evidence) -> Pairs:
    yield match["share"], evidence.worst("saturated_fraction")


def _blocked(match: re.Match[str], evidence: Evidence) -> Pairs:
    zero = (evidence.table("delta_rms", 0)[: evidence.hidden] == 0).all(axis=1)
    yield match["layer"], float(np.flatnonzero(zero).max() + 1)


def _below_range(match: re.Match[str], evidence: Evidence) -> Pairs:
    delta = evidence.table("delta_rms", 0)
    zero = (delta[: evidence.hidden, delta[-1] != 0] == 0).any(axis=1)
    yield match["layers"], float(zero.sum())
    yield match["hidden"], evidence.hidden


def _without_error(match: re.Match[str], evidence: Evidence) -> Pairs:
    yield match["networks"], float((evidence.table("delta_rms", 0)[-1] == 0).sum())


def _sgd(evidence: Evidence) -> SGD:
    optimizer = evidence.run.config.optimizer
    if not isinstance(optimizer, SGD):
        raise LookupError("the sentence is about SGD")
    return optimizer


def _adam(match: re.Match[str], evidence: Evidence) -> Pairs:
    optimizer = evidence.run.config.optimizer
    if not isinstance(optimizer, Adam):
        raise LookupError("the sentence is about Adam")
    yield match["epsilon"], optimizer.epsilon


def _decay(match: re.Match[str], evidence: Evidence) -> Pairs:
    sgd, steps = _sgd(evidence), max(evidence.frame["step"])
    yield match["times"], float(sgd.weight_decay) / evidence.relative_gradient
    rate = float(sgd.learning_rate) / (1 - float(sgd.momentum))
    yield match["share"], 1 - math.exp(-rate * float(sgd.weight_decay) * steps)


def _less_decay(match: re.Match[str], evidence: Evidence) -> Pairs:
    yield match["decay"], 0.1 * evidence.relative_gradient


def _small_step(match: re.Match[str], evidence: Evidence) -> Pairs:
    yield match["share"], evidence.largest_step


def _no_step(match: re.Match[str], evidence: Evidence) -> Pairs:
    del match
    yield "0", evidence.largest_step


def _large_inputs(match: re.Match[str], evidence: Evidence) -> Pairs:
    yield match["rms"], math.sqrt(float(np.square(evidence.run.data.x, dtype=np.float64).mean()))


def _momentum(match: re.Match[str], evidence: Evidence) -> Pairs:
    momentum = float(_sgd(evidence).momentum)
    yield match["momentum"], momentum
    yield match["steps"], 1 / (1 - momentum)


def _clipping(match: re.Match[str], evidence: Evidence) -> Pairs:
    clipping = evidence.run.config.optimizer.clipping
    if clipping is None:
        raise LookupError("the run has no clipping")
    squares = sum(np.square(evidence.table(p, 0)).sum(axis=0) for p in ("gradient_norm", "bias_gradient_norm"))
    yield match["factor"], float(np.mean(float(clipping.max_norm) / np.sqrt(squares)))


def _averaging(match: re.Match[str], evidence: Evidence) -> Pairs:
    mean, low, _ = interval(evidence.decades("bias_gradient_norm", 0) - evidence.decades("delta_rms", 0))
    yield match["decades"], mean if low > 0 and mean > 0.1 else math.nan


def _changes(match: re.Match[str], evidence: Evidence) -> Pairs:
    state, before, changes = "", None, []
    for step, values in zip(evidence.steps("delta_rms"), evidence.by_step, strict=True):
        mean, low, high = interval(values)
        inside = "healthy" if low >= -1 and high <= 1 else "not enough evidence"
        state = "vanishing" if low > 1 else "exploding" if high < -1 else inside
        if before == "vanishing" and state != "exploding" and mean > 0.7:
            state = "vanishing"
        if before == "exploding" and state != "vanishing" and mean < -0.7:
            state = "exploding"
        before = state
        if state != "not enough evidence":
            changes.append((step, state))
    jumps = [(step, new) for (_, old), (step, new) in pairwise(changes) if new != old]
    stated = re.findall(r"then ([a-z ]+?) from step (\d+)", match[0])
    yield str(len(stated)), len(jumps[:4])
    for (name, step), (other_step, other) in zip(stated, jumps, strict=False):
        yield step, other_step
        yield "1", float(name == other)


def _slower(match: re.Match[str], evidence: Evidence) -> Pairs:
    tenth = 0.1 * float(evidence.run.config.optimizer.learning_rate)
    longest = 1e-2 / evidence.relative_gradient
    yield match["rate"], longest if longest < tenth else tenth


def _faster(match: re.Match[str], evidence: Evidence) -> Pairs:
    rate, step = float(evidence.run.config.optimizer.learning_rate), evidence.largest_step
    yield match["rate"], rate * 1e-3 / step if step > 0 else 1e-3 / evidence.relative_gradient


def _chi(match: re.Match[str], evidence: Evidence) -> Pairs:
    if match["before"]:
        chi = evidence.profile.chi[: evidence.hidden - 1]
        yield match["before"], float(chi[len(chi) // 2])
    if match.groupdict().get("variance"):
        yield match["variance"], float(match["override"])
    yield match["after"], 1.0  # the critical variance is the one with χ = 1


def _none(match: re.Match[str], evidence: Evidence) -> Pairs:
    del match, evidence
    yield from ()


Rule = Callable[[re.Match[str], Evidence], Pairs]
_N = NUMBER
_FLOW = (
    rf"from the last of (?P<hidden>\d+) hidden layers to the first, δ (?P<verb>shrinks|grows) by (?P<mean>{_N})"
    rf"(?: \[(?P<low>{_N}), (?P<high>{_N})\])? decades"
)
_START = r"(?:What to change:|Or:) "
_CHI = rf"χ (?:from (?P<before>{_N}) to|becomes) (?P<after>{_N})"
RULES: tuple[tuple[str, Rule], ...] = (
    (rf"Gradients (?:vanish|explode): {_FLOW}, a factor of (?P<factor>{_N}) a layer\.", _flow),
    (rf"(?:The gradient flow is healthy|There is not enough evidence): {_FLOW}(?: in one replicate)?\.", _flow),
    (r"There is not enough evidence: δ has no finite value in all hidden layers of any replicate\.", _none),
    (r"The interval extends beyond one decade\.", _none),
    (r"Run (?:several|more) replicates\.", _none),
    (r"The first layers hardly learn\.", _none),
    (r"A step that suits the last layers is far too long for the first\.", _none),
    (r"With one decade, one end would learn ten times as fast as the other\.", _none),
    (
        r"Adam divides each step by the size of its gradient: layers learn at similar speeds while gradients are well "
        rf"above ε = (?P<epsilon>{_N})\.",
        _adam,
    ),
    (r"With one hidden layer, there is no flow between hidden layers to judge\.", _none),
    (r"Training diverged: some numbers are not finite\.", _none),
    (r"The numbers leave their range before the first step\.", _none),
    (r"The steps of the training made them so\.", _none),
    (
        r"No gradient passes: δ is exactly 0 in hidden layer (?P<layer>\d+), because the weights above it are all 0\.",
        _blocked,
    ),
    (r"The units of each hidden layer are identical: [a-z ,]+\.", _none),
    (r"All rows of the data have the same (?:inputs|targets), so [a-z ]+\.", _none),
    (r"In (?P<share>\d+%) of the replicates, no error reaches the first layer\.", _cut_off),
    (
        r"Units are dead: in the worst layer, σ' is 0 on all examples for (?P<share>\d+%) of the units"
        r"(?:, so no gradient passes through them)?\.",
        _dead,
    ),
    (r"Decades are those of the others\.", _none),
    (r"The units (?:are dead from the start|died in training)\.", _none),
    (
        r"Units are saturated: in the worst layer (?P<share>\d+%) of the \(unit, example\) pairs have a slope below a "
        r"twentieth of the steepest\.",
        _saturated,
    ),
    (r"The units (?:are saturated from the start|saturate in training)\.", _none),
    (r"The initial weights or biases are too large\.", _none),
    (
        rf"The inputs are large: their root mean square is (?P<rms>{_N}), and standardised inputs have 1\.",
        _large_inputs,
    ),
    (r"The learning rate is too high: the training cost rises again, or never falls\.", _none),
    (r"The learning rate is too low: a step changes no weight\.", _no_step),
    (
        r"The learning rate is too low: a step changes no layer's weights by more than "
        rf"(?P<share>{_N}) of their norm\.",
        _small_step,
    ),
    (r"The learning rate is too low: the training cost falls steadily but very slowly, or not at all\.", _none),
    (r"The rate is 0\.", _none),
    (rf"Momentum (?P<momentum>{_N}) adds up about (?P<steps>{_N}) steps\.", _momentum),
    (rf"Clipping shortens the first gradient to (?P<factor>{_N}) of its norm\.", _clipping),
    (
        rf"Weight decay is too strong: at the start it exceeds the gradient of every layer (?P<times>{_N}) times, and "
        r"alone it takes (?P<share>\d+%) of the weights\.",
        _decay,
    ),
    (r"The layers are narrow: finite width alone explains at least half of the loss\.", _none),
    (
        r"At the start, mean-field theory expects δ to (?P<direction>grow|shrink) by "
        rf"(?P<least>{_N})(?: to (?P<most>{_N}))? decades \(single networks: (?P<low>{_N}) "
        rf"to (?P<high>{_N})\), (?:as measured|but (?P<measured>{_N}) were measured)\.",
        _expected,
    ),
    (
        rf"With \w+ and σ_w² = (?P<variance>{_N}), the mean square of δ is multiplied by χ = (?P<chi>{_N}) a layer\.",
        _middle,
    ),
    (rf"Finite width costs up to (?P<cost>{_N}) decades\.", _width),
    (
        r"In (?P<layers>\d+) of (?P<hidden>\d+) hidden layers, δ is below the range of float(?:32|64) at the start\.",
        _below_range,
    ),
    (
        r"In (?P<networks>\d+) networks?, δ is 0 already in the output layer at the start, so no error is sent back\.",
        _without_error,
    ),
    (r"The decades are those of a line through the layers above, continued to the first\.", _none),
    (
        rf"The norm of the mean δ falls by (?P<decades>{_N}) decades more than δ towards the input: there the examples "
        r"of a batch disagree and their mean is small\.",
        _averaging,
    ),
    (r"That is averaging, not vanishing\.", _none),
    (r"During training: [a-z ]+(?:, then [a-z ]+ from step \d+)+\.", _changes),
    (_START + rf"lower learning rate, `optimizer\.learning_rate=(?P<rate>{_N})` \([^)]+\)\.", _slower),
    (_START + rf"higher learning rate, `optimizer\.learning_rate=(?P<rate>{_N})` \([^)]+\)\.", _faster),
    (
        _START + rf"critical initialisation, `init=mean_field init\.weights\.sigma_w2=(?P<override>{_N}) "
        rf"init\.biases\.sigma_b2={_N}` \({_CHI} at σ_w² = (?P<variance>{_N})\)\.",
        _chi,
    ),
    (_START + rf"(?:ReLU, He|tanh, critical), `[^`]+` \({_CHI}\)\.", _chi),
    (
        _START + rf"more width, `architecture\.width=(?P<width>\d+)` \(finite width alone costs (?P<cost>{_N}) "
        r"decades, 4 times the width a 4th of them\)\.",
        _more_width,
    ),
    (_START + rf"less weight decay, `optimizer\.weight_decay=(?P<decay>{_N})` \([^)]+\)\.", _less_decay),
    (
        _START + r"(?:random weights|clipping|no clipping|leaky ReLU|standardised inputs|less momentum), `[^`]+` "
        r"\([^)]+\)\.",
        _none,
    ),
)
