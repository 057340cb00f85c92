"""Sharpness: the largest eigenvalue of the batch cost's Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engine.arrays import Array, norm
from engine.costs import Cost
from engine.network import Network
from engine.probes.base import Measurement, Step, Traits

_STREAM = 2  # differs from the streams of other probes


@dataclass(frozen=True)
class Sharpness:
    """λ_max of H = ∂²C/∂θ² on the batch; gradient descent with rate η is stable along it while η < 2/λ_max.

    Power iteration with Hv = (∇C(θ + εv) − ∇C(θ − εv))/(2ε), in float64, converges to the eigenvalue λ of largest
    magnitude. If λ < 0, it is repeated on H − λI, whose largest eigenvalue is λ_max − λ.
    Source: Cohen et al., "Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability", 2021.

    Args:
        iterations: Largest number of products Hv in each of the two rounds; a product takes two backward passes.
        tolerance: Relative change of the estimate below which the iteration stops.
        parameters: Largest number of parameters of a network that is measured.
    """

    iterations: int
    tolerance: float
    parameters: int
    traits: ClassVar[Traits] = Traits(of_step=True, costly=True)

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations={self.iterations}: must be >= 1")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance={self.tolerance}: must be in (0, 1)")
        if self.parameters < 1:
            raise ValueError(f"parameters={self.parameters}: must be >= 1")

    def __call__(self, step: Step) -> list[Measurement]:
        """Return one value for the whole network, or none if it has too many parameters or the step lacks targets."""
        network = step.network
        count = network.theta.shape[-1]
        if step.cost is None or step.y is None or count > self.parameters:
            return []
        hessian = Hessian(network, network.x, step.y, step.cost)
        start = step.normal(_STREAM, (count,)).astype(np.float64)
        zero = np.zeros(network.ensemble)
        extreme = self._power(hessian, start, zero)
        shift = np.where(extreme < 0, extreme, 0.0)
        if (shift < 0).any():
            second = self._power(hessian, start, shift) + shift
            extreme = np.where(shift < 0, second, extreme)
        return [Measurement((), extreme[None])]

    def _power(self, hessian: Hessian, start: Array, shift: Array) -> Array:
        """Return the eigenvalue of largest magnitude of H − shift·I [E...]; converged members do not change."""
        v = start / norm(start, axes=1)[..., None]
        eigenvalue = np.full(shift.shape, np.nan)
        done = np.zeros(shift.shape, bool)
        with np.errstate(all="ignore"):
            for _ in range(self.iterations):
                w = hessian.times(v) - shift[..., None] * v
                estimate, length = np.vecdot(v, w), norm(w, axes=1)
                converged = np.abs(estimate - eigenvalue) <= self.tolerance * np.abs(estimate)
                eigenvalue = np.where(done, eigenvalue, estimate)
                done |= converged | (length == 0) | ~np.isfinite(length)
                if done.all():
                    break
                v = np.where(done[..., None], v, w / np.where(length > 0, length, 1.0)[..., None])
        return eigenvalue


class Hessian:
    """Hessian ∂²C/∂θ² of each member's batch cost, as float64 products with vectors [E..., P]."""

    def __init__(self, network: Network, x: Array, y: Array, cost: Cost) -> None:
        self.theta = network.theta.astype(np.float64)
        self.x, self.y, self.cost = x.astype(np.float64), y.astype(np.float64), cost
        self.net = network.like(self.theta.copy())

    def times(self, v: Array) -> Array:
        """Compute Hv by central differences; ε balances the errors of order ε² and rounding/ε."""
        scale = np.maximum(np.abs(self.theta).max(axis=-1), 1.0)[..., None]
        step = 1e-5 * scale / np.maximum(np.abs(v).max(axis=-1), 1e-300)[..., None]
        return np.asarray((self._gradient(step * v) - self._gradient(-step * v)) / (2 * step))

    def _gradient(self, shift: Array) -> Array:
        np.add(self.theta, shift, out=self.net.theta)
        self.net.forward(self.x)
        return self.net.backward(self.y, self.cost).copy()
