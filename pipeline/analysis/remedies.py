"""Remedies: concrete config changes for each verdict, each with its reason in numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from engine.activations import Activation, Elementwise, Relu, Tanh
from engine.optimizers import SGD
from engine.theory import MeanField, critical_weight_variance
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
    IDENTICAL,
    IN_TRAINING,
    LARGE_INPUTS,
    MOMENTUM,
    SATURATION,
    TOO_HIGH,
    TOO_LOW,
    VANISHING,
)
from pipeline.analysis.expectation import Expectation
from pipeline.analysis.verdict import Verdict
from pipeline.config.architecture import Deep
from pipeline.config.schema import Config

USUAL_MOMENTUM = 0.9
USUAL_STEP, LONG_STEP = 1e-3, 1e-2  # ‖ΔW‖/‖W‖ of a step in trainings that go well, and the longest in most of them
WIDER = 4  # times the width
_FIRST_STEP = "the first step then changes the weights of the fastest layer by {:g} of their norm"


@dataclass(frozen=True)
class Remedy:
    """A change of a resolved config.

    Attributes:
        name: Short name.
        overrides: The change as command-line overrides, for the explanation.
        patch: Maps dotted keys to new values (a subtree or a number).
        reason: The reason in numbers.
    """

    name: str
    overrides: str
    patch: Mapping[str, Any]
    reason: str

    def applied(self, raw_config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of a resolved config with the change applied."""
        changed = copy.deepcopy(dict(raw_config))
        for key, value in self.patch.items():
            *groups, last = key.split(".")
            subtree = changed
            for group in groups:
                subtree = subtree[group]
            subtree[last] = copy.deepcopy(value)
        return changed


def remedies(verdict: Verdict, config: Config, expectation: Expectation | None) -> list[Remedy]:
    """Return the remedies to try, the most promising first; empty for a healthy run."""
    classes, causes = set(verdict.classes), set(verdict.causes)
    if classes & {EQUAL_INPUTS, EQUAL_TARGETS}:
        return []  # no config makes up for such data
    if classes & {BLOCKED, IDENTICAL}:
        return [_random_weights(config)]
    proposed: list[Remedy] = []
    if LARGE_INPUTS in causes:
        proposed.append(_standardised())
    if FINITE_WIDTH in causes:
        proposed += _wider(config, expectation)
    if DECAY in classes:
        proposed.append(_less_decay(config, float(verdict.numbers["decay"].mean)))
    if MOMENTUM in causes:
        proposed.append(_less_momentum())
    if CLIPPING in causes:
        proposed.append(_no_clipping())
    overflows = f"{DIVERGED} {AT_START}" in causes
    diverges, died = f"{DIVERGED} {IN_TRAINING}" in causes, f"{DEATH} {IN_TRAINING}" in causes
    if diverges or died or TOO_HIGH in classes:
        proposed.append(_slower(verdict, config))
    if classes & {VANISHING, EXPLODING, SATURATION} or overflows:
        proposed += _critical(config, expectation)
        proposed += _rectifier(config, expectation)
        if type(config.activation).__name__ == "Sigmoid":
            proposed += _tanh(expectation)
    if DEATH in classes:
        proposed += _rectifier(config, expectation)
        proposed.append(_leaky())
    if (diverges or (EXPLODING in classes and config.length(1).last_step)) and isinstance(config.optimizer, SGD):
        proposed.append(_clip())  # Adam's steps do not grow with the gradient
    if TOO_LOW in classes and CLIPPING not in causes:
        proposed += _faster(verdict, config)
    return list({remedy.name: remedy for remedy in proposed}.values())


def chi_of(expectation: Expectation | None) -> float:
    """Return χ in the middle of the network; NaN without a prediction."""
    if expectation is None:
        return math.nan
    chi = expectation.profile.chi[:-2]
    return float(chi[len(chi) // 2]) if len(chi) else math.nan


def _critical_variance(sigma: Elementwise, bias_variance: float) -> float:
    try:
        return _cached_variance(sigma, bias_variance)  # every cell of a sweep needs it
    except TypeError:  # an activation of the user's that is not hashable
        return critical_weight_variance(sigma, bias_variance)


_cached_variance = lru_cache(maxsize=64)(critical_weight_variance)


def _reason(expectation: Expectation | None, after: float) -> str:
    before = chi_of(expectation)
    return f"χ from {before:.2g} to {after:.2g}" if math.isfinite(before) else f"χ becomes {after:.2g}"


def _mean_field_init(weight_variance: float, bias_variance: float) -> dict[str, Any]:
    return {
        "weights": {"_target_": "engine.initializers.MeanFieldWeights", "sigma_w2": weight_variance},
        "biases": {"_target_": "engine.initializers.MeanFieldBiases", "sigma_b2": bias_variance},
    }


def _critical(config: Config, expectation: Expectation | None) -> list[Remedy]:
    """Return the same activation at its critical weight variance, if that is in a useful range."""
    sigma = config.activation
    if not isinstance(sigma, Elementwise) or math.isclose(chi_of(expectation), 1, rel_tol=0.02):
        return []
    for bias_variance in (0.0,) if sigma.pieces else (0.05, 0.0):
        variance = _critical_variance(sigma, bias_variance)
        if not 0 < variance < 20:  # the sigmoid's is 103, which saturates all units
            continue
        after = MeanField(sigma, variance, bias_variance).chi_star()
        if not math.isclose(after, 1, rel_tol=0.02):  # χ jumps over 1 where q has several fixed points
            continue
        shown = f"init=mean_field init.weights.sigma_w2={variance:.4g} init.biases.sigma_b2={bias_variance:g}"
        patch = {"init": _mean_field_init(float(f"{variance:.6g}"), bias_variance)}
        reason = f"{_reason(expectation, after)} at σ_w² = {variance:.4g}"
        return [Remedy("critical initialisation", shown, patch, reason)]
    return []


def _rectifier(config: Config, expectation: Expectation | None) -> list[Remedy]:
    if isinstance(config.activation, Relu) and math.isclose(chi_of(expectation), 1, rel_tol=0.02):
        return []
    init = {
        "weights": {"_target_": "engine.initializers.HeNormal"},
        "biases": {"_target_": "engine.initializers.Constant", "value": 0.0},
    }
    patch = {"activation": {"_target_": "engine.activations.Relu"}, "layer_activations": {}, "init": init}
    return [Remedy("ReLU, He", "activation=relu init=he_normal", patch, _reason(expectation, 1.0))]


def _tanh(expectation: Expectation | None) -> list[Remedy]:
    variance = _critical_variance(Tanh(), 0.05)
    patch = {
        "activation": {"_target_": "engine.activations.Tanh"},
        "layer_activations": {},
        "init": _mean_field_init(float(f"{variance:.6g}"), 0.05),
    }
    return [Remedy("tanh, critical", "activation=tanh init=mean_field", patch, _reason(expectation, 1.0))]


def _random_weights(config: Config) -> Remedy:
    name, target = ("glorot_normal", "GlorotNormal") if _is_bounded(config.activation) else ("he_normal", "HeNormal")
    init = {
        "weights": {"_target_": f"engine.initializers.{target}"},
        "biases": {"_target_": "engine.initializers.Constant", "value": 0.0},
    }
    return Remedy("random weights", f"init={name}", {"init": init}, "random weights differ from unit to unit")


def _is_bounded(sigma: Activation) -> bool:
    return math.isfinite(sigma.low) and math.isfinite(sigma.high)


def _standardised() -> Remedy:
    return Remedy(
        "standardised inputs",
        "data.standardise=true",
        {"data.standardise": True},
        "inputs then have mean 0, variance 1",
    )


def _wider(config: Config, expectation: Expectation | None) -> list[Remedy]:
    if expectation is None or not isinstance(config.architecture, Deep):
        return []
    least, most, _ = expectation.decades(config.architecture.depth)
    width = WIDER * config.architecture.width
    reason = f"finite width alone costs {most - least:.2g} decades, {WIDER} times the width a {WIDER}th of them"
    return [Remedy("more width", f"architecture.width={width}", {"architecture.width": width}, reason)]


def _less_decay(config: Config, ratio: float) -> Remedy:
    """Return a weight decay that is a tenth of the gradient at the start."""
    decay = float(f"{0.1 * float(config.optimizer.weight_decay) / ratio:.2g}")
    reason = "decay is then a tenth of the gradient at the start"
    return Remedy("less weight decay", f"optimizer.weight_decay={decay:g}", {"optimizer.weight_decay": decay}, reason)


def _less_momentum() -> Remedy:
    shown, patch = f"optimizer.momentum={USUAL_MOMENTUM:g}", {"optimizer.momentum": USUAL_MOMENTUM}
    return Remedy("less momentum", shown, patch, "momentum then adds up ten steps")


def _no_clipping() -> Remedy:
    patch = {"optimizer.clipping": None}
    return Remedy("no clipping", "optimizer.clipping=null", patch, "the gradient then keeps its norm")


def _faster(verdict: Verdict, config: Config) -> list[Remedy]:
    """Return a rate at which the first step changes the weights of one layer by a thousandth of their norm.

    Steps are proportional to the rate. That they are proportional to the gradient, too, holds for SGD only.
    """
    relative, step = verdict.numbers.get("relative gradient"), verdict.numbers.get("largest step")
    if step is not None and float(step.mean) > 0:
        rate = config.optimizer.learning_rate * USUAL_STEP / float(step.mean)
    elif relative is not None and float(relative.mean) > 0 and isinstance(config.optimizer, SGD):
        rate = USUAL_STEP / float(relative.mean)
    else:
        return []
    rate = float(f"{rate:.2g}")
    shown = f"optimizer.learning_rate={rate:g}"
    return [Remedy("higher learning rate", shown, {"optimizer.learning_rate": rate}, _FIRST_STEP.format(USUAL_STEP))]


def _leaky() -> Remedy:
    patch = {"activation": {"_target_": "engine.activations.LeakyRelu", "alpha": 0.1}, "layer_activations": {}}
    return Remedy(
        "leaky ReLU",
        "activation=leaky_relu activation.alpha=0.1",
        patch,
        "σ' is 0.1 instead of 0 below zero, so no unit is cut off",
    )


def _slower(verdict: Verdict, config: Config) -> Remedy:
    """Return a tenth of the rate, or a rate at which the first step is no longer than ``LONG_STEP``."""
    rate, reason = 0.1 * float(config.optimizer.learning_rate), "steps overshoot: make them ten times smaller"
    relative = verdict.numbers.get("relative gradient") if isinstance(config.optimizer, SGD) else None
    if relative is not None and math.isfinite(relative.mean) and float(relative.mean) * rate > LONG_STEP:
        rate, reason = LONG_STEP / float(relative.mean), _FIRST_STEP.format(LONG_STEP)
    rate = float(f"{rate:.2g}")
    return Remedy("lower learning rate", f"optimizer.learning_rate={rate:g}", {"optimizer.learning_rate": rate}, reason)


def _clip() -> Remedy:
    clipping = {"_target_": "engine.optimizers.ClipGlobalNorm", "max_norm": 1.0}
    shown = "clipping@optimizer.clipping=global_norm optimizer.clipping.max_norm=1"
    reason = "steps are at most η long, whatever the size of the gradient"
    return Remedy("clipping", shown, {"optimizer.clipping": clipping}, reason)
