"""Mini-batch SGD, θ ← θ − η ∇C, with optional clipping, weight decay and momentum, applied in this order.

A hyperparameter is one number, or an array [E...] with one number per member of the stack.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from engine.arrays import Array, PerMember, norm, per_member
from engine.learning_rates import LearningRateSchedule
from engine.network import Network


def _require(name: str, value: PerMember, holds: Any, allowed: str) -> None:
    if not np.all(holds):
        raise ValueError(f"{name}={value}: must be {allowed}")


@dataclass(frozen=True)
class Clipping(ABC):
    """Bound c = ``max_norm`` on gradient norms.

    Raises:
        ValueError: If the bound is not positive and finite.
    """

    max_norm: PerMember

    def __post_init__(self) -> None:
        _require("max_norm", self.max_norm, (self.max_norm > 0) & np.isfinite(self.max_norm), "> 0 and finite")

    @abstractmethod
    def clip(self, gradient: Array, network: Network) -> None:
        """Scale the flat gradient [E..., P] of this network in place."""

    def _factor(self, norms: Array) -> Array:
        """Return min(1, c/‖g‖) [E...]; 1 for a norm that is not finite, so that clipping does not hide it."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.isfinite(norms) & (norms > self.max_norm), self.max_norm / norms, 1.0)


@dataclass(frozen=True)
class ClipGlobalNorm(Clipping):
    """g ← g·min(1, c/‖g‖) over all parameters of a network. Source: Pascanu, Mikolov & Bengio, 2013."""

    def clip(self, gradient: Array, network: Network) -> None:
        gradient *= self._factor(norm(gradient, axes=1))[..., None].astype(gradient.dtype)


@dataclass(frozen=True)
class ClipPerLayer(Clipping):
    """g_l ← g_l·min(1, c/‖g_l‖) over all parameters of each layer (or other block)."""

    def clip(self, gradient: Array, network: Network) -> None:
        for block in network.modules:
            parts = [gradient[..., parameter.place] for parameter in block.parameters]
            if parts:
                norms = np.stack([norm(part, axes=1) for part in parts], axis=-1)
                factor = self._factor(norm(norms, axes=1))[..., None].astype(gradient.dtype)
                for part in parts:
                    part *= factor


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent: Δθ = −η f(t) v, v ← μ v + g, g = clip(∇C) + λW.

    A term is on for all members of a stack or for none: adding 0·v to g would change −0.0, and 0·∞ is NaN.

    Args:
        learning_rate: η ≥ 0.
        momentum: μ in [0, 1); 0 gives v = g, the rule of the derivation.
        nesterov: Whether Δθ = −η f(t) (g + μ v) (Sutskever et al., 2013, in the form that PyTorch uses).
        weight_decay: λ ≥ 0, from the term ½λ‖W‖² of the cost; it applies to weights, not to biases.
        clipping: Bound on ‖∇C‖, or None.
        learning_rate_schedule: f(t).

    Raises:
        ValueError: If a value is outside its range, nesterov lacks momentum, or a term is on for some members only.
    """

    learning_rate: PerMember
    momentum: PerMember
    nesterov: bool
    weight_decay: PerMember
    clipping: Clipping | None
    learning_rate_schedule: LearningRateSchedule

    def __post_init__(self) -> None:
        rate, momentum, decay = self.learning_rate, self.momentum, self.weight_decay
        _require("learning_rate", rate, np.greater_equal(rate, 0) & np.isfinite(rate), ">= 0 and finite")
        _require("momentum", momentum, np.greater_equal(momentum, 0) & np.less(momentum, 1), "in [0, 1)")
        _require("weight_decay", decay, np.greater_equal(decay, 0) & np.isfinite(decay), ">= 0 and finite")
        for name, value in (("momentum", momentum), ("weight_decay", decay)):
            _require(name, value, np.all(value) or not np.any(value), "0 for all members or for none")
        if self.nesterov and not np.any(momentum):
            raise ValueError("nesterov=True: needs momentum > 0, got momentum=0")

    @cached_property
    def _is_plain(self) -> bool:
        """Return whether Δθ = −η f(t) ∇C."""
        return self.clipping is None and not np.any(self.weight_decay) and not np.any(self.momentum)

    def start(self, network: Network) -> Array:
        """Return the velocity before the first step, v = 0 [E..., P], or an empty array without momentum."""
        return np.zeros(network.theta.shape if np.any(self.momentum) else (0,), network.dtype)

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def propose(self, network: Network, velocity: Array, step: int, total_steps: int) -> Array:
        """Overwrite ``network.update`` with Δθ [E..., P] for the current ``grad``, and return it.

        The velocity is updated in place; θ and ∇C do not change.
        """
        g = network.update
        rate = -self.learning_rate * float(self.learning_rate_schedule.factor(step, total_steps))
        rate = per_member(rate, g.dtype)
        if self._is_plain:
            return np.multiply(network.grad, rate, out=g)
        g[...] = network.grad
        if self.clipping is not None:
            self.clipping.clip(g, network)
        if np.any(self.weight_decay):
            weights = slice(0, network.n_weights)
            g[..., weights] += per_member(self.weight_decay, g.dtype) * network.theta[..., weights]
        if velocity.size:
            momentum = per_member(self.momentum, g.dtype)
            velocity *= momentum
            velocity += g
            g[...] = g + momentum * velocity if self.nesterov else velocity
        g *= rate
        return g
