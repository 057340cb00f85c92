"""Remedies: concrete config changes for each verdict, each with its reason in numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from engine.activations import Elementwise, Relu, Tanh
from engine.theory import MeanField, critical_weight_variance
from pipeline.analysis.expectation import Expectation
from pipeline.analysis.verdict import DEATH, DIVERGED, EXPLODING, SATURATION, TOO_HIGH, TOO_LOW, VANISHING, Verdict
from pipeline.config.schema import Config


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
    proposed: list[Remedy] = []
    classes = set(verdict.classes)
    if classes & {VANISHING, EXPLODING, SATURATION} or (DIVERGED in classes and verdict.start == EXPLODING):
        proposed += _critical(config, expectation)
        proposed += _rectifier(config, expectation)
        if type(config.activation).__name__ == "Sigmoid":
            proposed += _tanh(expectation)
    if DEATH in classes:
        proposed += _rectifier(config, expectation)
        proposed.append(_leaky())
    if classes & {DIVERGED, TOO_HIGH, DEATH}:
        proposed.append(_rate(config, 0.1, "steps overshoot: make them ten times smaller"))
    if classes & {DIVERGED, EXPLODING}:
        proposed.append(_clip())
    if TOO_LOW in classes:
        proposed.append(_rate(config, 10.0, "the cost falls steadily but very slowly: make steps ten times larger"))
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
    if not isinstance(sigma, Elementwise):
        return []
    bias_variance = 0.0 if sigma.pieces else 0.05
    variance = _critical_variance(sigma, bias_variance)
    if not 0 < variance < 20:  # the sigmoid's is 103, which saturates all units
        return []
    shown = f"init=mean_field init.weights.sigma_w2={variance:.4g} init.biases.sigma_b2={bias_variance:g}"
    return [
        Remedy(
            "critical initialisation",
            shown,
            {"init": _mean_field_init(float(f"{variance:.6g}"), bias_variance)},
            f"{_reason(expectation, MeanField(sigma, variance, bias_variance).chi_star())} at σ_w² = {variance:.4g}",
        )
    ]


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


def _leaky() -> Remedy:
    patch = {"activation": {"_target_": "engine.activations.LeakyRelu", "alpha": 0.1}, "layer_activations": {}}
    return Remedy(
        "leaky ReLU",
        "activation=leaky_relu activation.alpha=0.1",
        patch,
        "σ' is 0.1 instead of 0 below zero, so no unit is cut off",
    )


def _rate(config: Config, factor: float, reason: str) -> Remedy:
    rate = float(f"{config.optimizer.learning_rate * factor:.6g}")
    shown = f"optimizer.learning_rate={rate:g}"
    return Remedy(f"learning rate × {factor:g}", shown, {"optimizer.learning_rate": rate}, reason)


def _clip() -> Remedy:
    clipping = {"_target_": "engine.optimizers.ClipGlobalNorm", "max_norm": 1.0}
    shown = "clipping@optimizer.clipping=global_norm optimizer.clipping.max_norm=1"
    reason = "steps are at most η long, whatever the size of the gradient"
    return Remedy("clipping", shown, {"optimizer.clipping": clipping}, reason)
