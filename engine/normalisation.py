"""Batch norm and layer norm.

    x̂ = (x − μ)/√(v + ε),   a = γ x̂ + β

μ and v are the mean and variance of k numbers: one unit's values over the batch (batch norm) or one example's values
over the units (layer norm). With g = γ ∂C/∂a and ⟨·⟩ the mean over these numbers:
    ∂x̂_i/∂x_j = (δ_ij − 1/k − x̂_i x̂_j/k)/√(v + ε),   since ∂μ/∂x_j = 1/k and ∂v/∂x_j = 2(x_j − μ)/k
    ∂C/∂x = (g − ⟨g⟩ − x̂ ⟨g x̂⟩)/√(v + ε)
    ∂C/∂γ = ∂C/∂a x̂,   ∂C/∂β = ∂C/∂a,   averaged over the batch.

Sources: Ioffe & Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
Shift", 2015; Ba, Kiros & Hinton, "Layer Normalization", 2016.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from engine.arrays import Array
from engine.blocks import Block, Parameter


class Normalisation(Block):
    """Common base of batch norm and layer norm.

    Args:
        n: Number of units.
        epsilon: ε > 0, added to the variance.
        learned: Whether γ and β [n, 1] are trained; otherwise they are fixed at 1 and 0.

    Raises:
        ValueError: If ε is not positive.
    """

    axis: ClassVar[int]  # of the mean and variance: −1 the examples, −2 the units
    gamma: Array
    beta: Array
    dgamma: Array
    dbeta: Array
    _normalised: Array
    _dC_da_in: Array
    _std: Array
    _own_statistics: bool

    def __init__(self, n: int, epsilon: float, learned: bool) -> None:
        if not epsilon > 0:
            raise ValueError(f"epsilon={epsilon}: must be > 0")
        self.n_in = self.n_out = n
        self.epsilon, self.learned = epsilon, learned
        if learned:
            self.parameters = Parameter("gamma", (n, 1), initial=1.0), Parameter("beta", (n, 1))

    @abstractmethod
    def _statistics(self, x: Array, training: bool) -> tuple[Array, Array, bool]:
        """Return μ, v and whether both depend on x."""

    def _mean(self, x: Array) -> Array:
        return np.add.reduce(x, axis=self.axis, keepdims=True) * (1 / x.shape[self.axis])

    def forward(self, a_in: Array, training: bool = True) -> Array:
        x = np.ascontiguousarray(a_in)
        mean, variance, self._own_statistics = self._statistics(x, training)
        self._std = np.sqrt(variance + self.epsilon)
        normalised = np.divide(np.subtract(x, mean, out=self._normalised), self._std, out=self._normalised)
        if not self.learned:
            np.copyto(self.a, normalised)
            return self.a
        return np.add(np.multiply(self.gamma, normalised, out=self.a), self.beta, out=self.a)  # γ x̂ + β

    def backward(self, dC_da: Array) -> None:
        normalised, g = self._normalised, dC_da
        if self.learned:
            average = dC_da * (1 / dC_da.shape[-1])
            np.add.reduce(average, axis=-1, keepdims=True, out=self.dbeta)
            np.add.reduce(average * normalised, axis=-1, keepdims=True, out=self.dgamma)
            g = self.gamma * dC_da
        if self._own_statistics:
            g = g - self._mean(g) - normalised * self._mean(g * normalised)
        np.divide(g, self._std, out=self._dC_da_in)

    def input_gradient(self) -> Array:
        return self._dC_da_in

    def buffers(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(("a", "_normalised", "_dC_da_in"), (self.n_in, batch_size))

    def jacobian(self) -> Array:
        """Return ∂a/∂a_in of every example [E..., B, n, n].

        diag γ (1 − 11ᵀ/n − x̂x̂ᵀ/n)/√(v + ε), or diag γ/√(v + ε) for fixed statistics.

        Raises:
            ValueError: For batch norm in training, which couples the examples of a batch.
        """
        if self._own_statistics and self.axis == -1:
            raise ValueError("batch norm in training couples the examples of a batch: no example has a Jacobian")
        rows = self._normalised.mT[..., None]  # [E..., B, n, 1]
        product = np.eye(self.n_in, dtype=rows.dtype) * np.ones_like(rows)
        if self._own_statistics:
            product = product - (1 + rows * rows.mT) * (1 / self.n_in)
        scale = (self.gamma if self.learned else 1) / self._std * np.ones_like(self._normalised)
        return scale.mT[..., None] * product


class BatchNorm(Normalisation):
    """Batch norm: μ and v of each unit over the examples of the batch.

    Training uses the μ and v of the batch; evaluation uses their running means, which are the block's state.

    Args:
        n: Number of units.
        epsilon: ε > 0, added to the variance.
        momentum: Weight in (0, 1] of a new batch in the running means.
        learned: Whether γ and β [n, 1] are trained.

    Raises:
        ValueError: If a value is outside its range.
    """

    axis = -1
    _batch_mean: Array
    _batch_variance: Array

    def __init__(self, n: int, epsilon: float, momentum: float, learned: bool) -> None:
        super().__init__(n, epsilon, learned)
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum={momentum}: must be in (0, 1]")
        self.momentum = momentum

    def initial_state(self, ensemble: tuple[int, ...], dtype: np.dtype[Any]) -> dict[str, Array]:
        """Return the initial running mean and variance, [E..., n, 1] each."""
        shape = *ensemble, self.n_in, 1
        return {"mean": np.zeros(shape, dtype), "variance": np.ones(shape, dtype)}

    def _statistics(self, x: Array, training: bool) -> tuple[Array, Array, bool]:
        if not training:
            return self._state["mean"], self._state["variance"], False
        self._batch_mean = self._mean(x)
        self._batch_variance = self._mean(np.square(x - self._batch_mean))
        return self._batch_mean, self._batch_variance, True

    def update_state(self) -> None:
        """Update the running mean and running (unbiased) variance from the last batch of training."""
        size = self._normalised.shape[-1]
        unbiased = self._batch_variance * (size / max(size - 1, 1))
        for name, new in (("mean", self._batch_mean), ("variance", unbiased)):
            self._state[name] += self.momentum * (new - self._state[name])

    def twin(self) -> BatchNorm:
        return BatchNorm(self.n_in, self.epsilon, self.momentum, self.learned)


class LayerNorm(Normalisation):
    """Layer norm: μ and v of each example over the units, in training and in evaluation."""

    axis = -2

    def _statistics(self, x: Array, training: bool) -> tuple[Array, Array, bool]:
        mean = self._mean(x)
        return mean, self._mean(np.square(x - mean)), True

    def twin(self) -> LayerNorm:
        return LayerNorm(self.n_in, self.epsilon, self.learned)
