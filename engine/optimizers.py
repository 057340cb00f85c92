"""Mini-batch SGD, W_new = W − η ∇C, with the common additions, each optional and each in one line.

Order of the additions: clip the gradient, add weight decay, add momentum, scale by the learning rate.
Arrays broadcast along the ensemble axes, so members never mix.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np

from engine.arrays import Array, aligned, norm
from engine.learning_rates import LearningRateSchedule
from engine.network import Network, Parameters
from engine.once import once


class Clipping(ABC):
    """A bound on the gradient's norm."""

    @abstractmethod
    def clip(self, gradient: Array, parameters: Parameters) -> None:
        """Scale the flat gradient [E..., P] in place."""


def _shrink(norms: Array, max_norm: float) -> Array:
    """min(1, max_norm/‖g‖); a non-finite norm is left alone, for it is a finding."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isfinite(norms) & (norms > max_norm), max_norm / norms, 1.0)


def _require_positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}={value}: must be > 0 and finite")


@dataclass(frozen=True)
class ClipGlobalNorm(Clipping):
    """g ← g·min(1, c/‖g‖) over all parameters of a network. Source: Pascanu, Mikolov & Bengio, 2013."""

    max_norm: float

    def __post_init__(self) -> None:
        _require_positive("max_norm", self.max_norm)

    def clip(self, gradient: Array, parameters: Parameters) -> None:
        factor = _shrink(norm(gradient, axes=1), self.max_norm)
        gradient *= factor[..., None].astype(gradient.dtype)


@dataclass(frozen=True)
class ClipPerLayer(Clipping):
    """g_l ← g_l·min(1, c/‖g_l‖) for each layer's weights and biases together."""

    max_norm: float

    def __post_init__(self) -> None:
        _require_positive("max_norm", self.max_norm)

    def clip(self, gradient: Array, parameters: Parameters) -> None:
        for weights, biases in parameters.views(gradient):
            factor = _shrink(np.hypot(norm(weights), norm(biases)), self.max_norm)[..., None, None]
            weights *= factor.astype(gradient.dtype)
            biases *= factor.astype(gradient.dtype)


@dataclass
class OptimizerState:
    """What an optimizer keeps between steps: the last update Δθ and the velocity v, both [E..., P]."""

    update: Array
    velocity: Array


class Proposal:
    """The update an optimizer would make for the network's current gradient, made when it is first looked at.

    To be read under ``np.errstate(all="ignore")``.

    Attributes:
        rate: c, where Δθ = c ∇C and nothing else, before it is rounded to their type; else None.
    """

    __slots__ = "_made", "_network", "_optimizer", "_state", "_when", "rate"

    def __init__(self, optimizer: SGD, network: Network, state: OptimizerState, step: int, total_steps: int) -> None:
        self._optimizer, self._network, self._state = optimizer, network, state
        self._when = step, total_steps
        self._made: Array | None = None
        self.rate = optimizer.rate(step, total_steps) if optimizer.plain else None

    @property
    def factor(self) -> float | None:
        """``rate`` in the type of the gradient: so the size of Δθ is known before it is made."""
        return None if self.rate is None else float(self._network.grad.dtype.type(self.rate))

    def is_for(self, network: Network) -> bool:
        """Whether it is made of this network's gradient (and not of the one a shadow follows)."""
        return network is self._network

    def apart(self) -> Array:
        """Δθ [E..., P], apart from the gradient."""
        if self._made is None:
            self._made = self._fill(self._state.update)
        return self._made

    def apply(self) -> None:
        """θ ← θ + Δθ; nobody may look at the gradient any more.

        If Δθ has not been made, it is written over the gradient: so it takes no room of its own in the caches.
        """
        network, update, rate = self._network, self._made, self.rate
        if update is None and rate is not None:
            for theta, grad in network.pieces:
                np.multiply(grad, rate, grad)
                np.add(theta, grad, theta)
            return
        if update is None:
            update = self._fill(network.grad)
        np.add(network.theta, update, network.theta)

    def _fill(self, out: Array) -> Array:
        """Δθ [E..., P], into ``out``."""
        if self.rate is not None:
            return np.multiply(self._network.grad, self.rate, out)
        return self._optimizer.fill(self._network, self._state, *self._when, out)


def factor_of(update: Array | Proposal, network: Network) -> float | None:
    """c, where this update is c ∇C of the network and nothing else; None where that is not known."""
    return update.factor if isinstance(update, Proposal) and update.is_for(network) else None


def made(update: Array | Proposal) -> Array:
    """Δθ [E..., P], proposed or there."""
    return update.apart() if isinstance(update, Proposal) else update


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent: Δθ = −η f(t) v, v ← μ v + g, g = clip(∇C) + λW.

    Args:
        learning_rate: η ≥ 0.
        momentum: μ in [0, 1). With 0, v = g: the derivation's rule.
        nesterov: Δθ = −η f(t) (g + μ v) (Sutskever et al., 2013, in the form PyTorch uses).
        weight_decay: λ ≥ 0, the gradient of the cost's extra term ½λ‖W‖²; weights only, not biases.
        clipping: bound on ‖∇C‖, or None.
        learning_rate_schedule: f(t).

    Raises:
        ValueError: a value outside its range; nesterov without momentum.
    """

    learning_rate: float
    momentum: float
    nesterov: bool
    weight_decay: float
    clipping: Clipping | None
    learning_rate_schedule: LearningRateSchedule

    def __post_init__(self) -> None:
        if not (self.learning_rate >= 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate={self.learning_rate}: must be >= 0 and finite")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum}: must be in [0, 1)")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise ValueError(f"weight_decay={self.weight_decay}: must be >= 0 and finite")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True: needs momentum > 0, got momentum=0")

    def start(self, network: Network) -> OptimizerState:
        """Zero update and zero velocity."""
        shape, dtype = network.theta.shape, network.theta.dtype
        return OptimizerState(aligned(shape, dtype), velocity=aligned(shape if self.momentum else (0,), dtype))

    @once
    def plain(self) -> bool:
        """Whether Δθ = −η f(t) ∇C, the derivation's rule, for certain."""
        own = type(self).fill is SGD.fill and type(self).rate is SGD.rate
        return own and self.clipping is None and not self.weight_decay and not self.momentum

    def rate(self, step: int, total_steps: int) -> float:
        """−η f(t)."""
        return -self.learning_rate * self.learning_rate_schedule.factor(step, total_steps)

    def propose(self, network: Network, state: OptimizerState, step: int, total_steps: int) -> Proposal:
        """The update for the network's current grad, made when it is first looked at."""
        return Proposal(self, network, state, step, total_steps)

    @final
    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def update(self, network: Network, state: OptimizerState, step: int, total_steps: int) -> Array:
        """Δθ [E..., P], in ``state.update``, for the network's current grad; θ itself is not touched."""
        return self.fill(network, state, step, total_steps, state.update)

    def fill(self, network: Network, state: OptimizerState, step: int, total_steps: int, out: Array) -> Array:
        """The same, written into ``out``, which may be ``network.grad``; overflows are the caller's to silence.

        Another rule overrides this one.
        """
        if out is not network.grad:
            out[...] = network.grad
        if self.clipping is not None:
            self.clipping.clip(out, network.parameters)
        if self.weight_decay:
            weights = slice(0, network.parameters.n_weights)
            out[..., weights] += self.weight_decay * network.theta[..., weights]
        if self.momentum:
            state.velocity *= self.momentum
            state.velocity += out
            out[...] = out + self.momentum * state.velocity if self.nesterov else state.velocity
        out *= self.rate(step, total_steps)
        return out
