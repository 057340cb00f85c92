"""Optimizers: each proposes Δθ from ∇C, and the training loop adds it. SGD with momentum, and Adam.

A learning rate, a momentum, a weight decay and a clipping bound are one number each, or an array [E...] with one number
per member of the stack.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

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


class Optimizer(ABC):
    """A rule that proposes the update of a step.

    Attributes:
        per_member_names: Names of the hyperparameters, besides the clipping bound, that may be one number per member.
    """

    per_member_names: ClassVar[tuple[str, ...]] = ()
    learning_rate: PerMember
    weight_decay: PerMember
    clipping: Clipping | None
    learning_rate_schedule: LearningRateSchedule

    @abstractmethod
    def start(self, network: Network) -> Array:
        """Return the optimizer's state before the first step [E..., ...]; an empty array if it has none."""

    @abstractmethod
    def propose(self, network: Network, state: Array, step: int, total_steps: int) -> Array:
        """Overwrite ``network.update`` with Δθ [E..., P] for the current ``grad``, and return it.

        The state is updated in place; θ and ∇C do not change.

        Args:
            network: The network or stack, after its backward pass.
            state: What ``start`` returned, as the earlier steps left it.
            step: Number of updates made before this one.
            total_steps: Number of updates in all, for the learning-rate schedule.
        """

    def _require_common(self) -> None:
        """Check learning rate and weight decay."""
        rate, decay = self.learning_rate, self.weight_decay
        _require("learning_rate", rate, np.greater_equal(rate, 0) & np.isfinite(rate), ">= 0 and finite")
        _require("weight_decay", decay, np.greater_equal(decay, 0) & np.isfinite(decay), ">= 0 and finite")
        _require_all_or_none("weight_decay", decay)

    def _rate(self, network: Network, step: int, total_steps: int) -> PerMember:
        """Return −η f(t)."""
        rate = -self.learning_rate * float(self.learning_rate_schedule.factor(step, total_steps))
        return per_member(rate, network.dtype)

    def _add_weight_decay(self, direction: Array, network: Network) -> None:
        """Add λW to the weights of a flat vector."""
        if np.any(self.weight_decay):
            weights = slice(0, network.n_weights)
            direction[..., weights] += per_member(self.weight_decay, network.dtype) * network.theta[..., weights]


def _require_all_or_none(name: str, value: PerMember) -> None:
    """Check that a term is on for all members of a stack or for none: 0·v + g changes −0.0, and 0·∞ is NaN."""
    _require(name, value, np.all(value) or not np.any(value), "0 for all members or for none")


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent: Δθ = −η f(t) v, v ← μ v + g, g = clip(∇C) + λW.

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

    per_member_names: ClassVar[tuple[str, ...]] = ("learning_rate", "momentum", "weight_decay")
    learning_rate: PerMember
    momentum: PerMember
    nesterov: bool
    weight_decay: PerMember
    clipping: Clipping | None
    learning_rate_schedule: LearningRateSchedule

    def __post_init__(self) -> None:
        self._require_common()
        momentum = self.momentum
        _require("momentum", momentum, np.greater_equal(momentum, 0) & np.less(momentum, 1), "in [0, 1)")
        _require_all_or_none("momentum", momentum)
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
    def propose(self, network: Network, state: Array, step: int, total_steps: int) -> Array:
        """Overwrite ``network.update`` with Δθ [E..., P] and return it. The state is the velocity v."""
        g, velocity, rate = network.update, state, self._rate(network, step, total_steps)
        if self._is_plain:
            return np.multiply(network.grad, rate, out=g)
        g[...] = network.grad
        if self.clipping is not None:
            self.clipping.clip(g, network)
        self._add_weight_decay(g, network)
        if velocity.size:
            momentum = per_member(self.momentum, g.dtype)
            velocity *= momentum
            velocity += g
            g[...] = g + momentum * velocity if self.nesterov else velocity
        g *= rate
        return g


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam: steps along the mean gradient, measured in units of the gradient's root mean square.

        g = clip(∇C)
        m ← β₁ m + (1 − β₁) g          running mean of g
        v ← β₂ v + (1 − β₂) g²         running mean of g²
        m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ)
        Δθ = −η f (m̂/(√v̂ + ε) + λW)

    m and v start at 0. After t steps, m = (1 − β₁) Σᵢ β₁ᵗ⁻ⁱ gᵢ, and these weights sum to 1 − β₁ᵗ. Division by this sum
    makes m̂ a weighted mean of the gradients so far, and v̂ one of their squares; at t = 1, m̂ = g and v̂ = g².

    m̂/√v̂ does not change if all gradients of a parameter are multiplied by a number. A parameter therefore moves by
    about η a step, also in a layer whose gradient vanishes or explodes, as long as |g| is well above ε and g² is in the
    range of the type (|g| below 1e154 in float64, 1e19 in float32). With |g| far below ε, steps are proportional to m̂.

    The weight decay is decoupled (AdamW): it is not part of g, so √v̂ does not divide it.

    Source: Kingma & Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 1; for the weight decay,
    Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019.

    Args:
        learning_rate: η ≥ 0.
        beta1: β₁ in [0, 1), one number for all members.
        beta2: β₂ in [0, 1), one number for all members.
        epsilon: ε ≥ 1e-30, so that it is not 0 in float32; one number for all members.
        weight_decay: λ ≥ 0; it applies to weights, not to biases.
        clipping: Bound on ‖∇C‖, or None.
        learning_rate_schedule: f, which multiplies the decay, too.

    Raises:
        ValueError: If a value is outside its range, or weight decay is on for some members only.
    """

    per_member_names: ClassVar[tuple[str, ...]] = ("learning_rate", "weight_decay")
    learning_rate: PerMember
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: PerMember
    clipping: Clipping | None
    learning_rate_schedule: LearningRateSchedule

    def __post_init__(self) -> None:
        self._require_common()
        for name, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            _require(name, beta, 0 <= beta < 1, "in [0, 1)")
        _require("epsilon", self.epsilon, 1e-30 <= self.epsilon < np.inf, ">= 1e-30 and finite")

    def start(self, network: Network) -> Array:
        """Return m = 0 and v = 0 before the first step [E..., 2, P]."""
        return np.zeros((*network.ensemble, 2, network.theta.shape[-1]), network.dtype)

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def propose(self, network: Network, state: Array, step: int, total_steps: int) -> Array:
        """Overwrite ``network.update`` with Δθ [E..., P] and return it. The state is m and v."""
        g, m, v = network.update, state[..., 0, :], state[..., 1, :]
        g[...] = network.grad
        if self.clipping is not None:
            self.clipping.clip(g, network)
        m *= self.beta1
        m += (1 - self.beta1) * g
        v *= self.beta2
        v += (1 - self.beta2) * np.square(g)
        t = step + 1
        m_hat, v_hat = m / (1 - self.beta1**t), v / (1 - self.beta2**t)
        np.divide(m_hat, np.sqrt(v_hat) + self.epsilon, out=g)
        self._add_weight_decay(g, network)
        g *= self._rate(network, step, total_steps)
        return g
