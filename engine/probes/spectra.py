"""Singular values of Jacobians: how a layer, and the whole network, stretches small differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engine.arrays import Array
from engine.jacobians import input_output_jacobian, layer_jacobian
from engine.moment import Moment
from engine.probes.base import Probe, Reading


def spectrum(jacobians: Array) -> Array:
    """Singular values, descending, of [..., n, m] -> [..., min(n, m)]; NaN for a matrix that is not finite."""
    finite = np.asarray(np.isfinite(jacobians).all(axis=(-2, -1), keepdims=True))
    values: Array = np.linalg.svd(np.where(finite, jacobians, 0), compute_uv=False)
    return np.where(finite[..., 0], values, np.nan)


def _readings(numbers: tuple[int, ...], spectra: list[Array]) -> list[Reading]:
    """Mean, max, min and condition over examples, and all values.

    Args:
        numbers: of the layers, or () for the network.
        spectra: of each layer, [E..., k, K]: of each of k examples the singular values, descending.
    """
    spectra = [values.astype(np.float64) for values in spectra]
    parts = {
        "mean": [values.mean(axis=(-2, -1)) for values in spectra],
        "max": [values[..., 0].max(axis=-1) for values in spectra],
        "min": [values[..., -1].min(axis=-1) for values in spectra],
        "condition": [(values[..., 0] / values[..., -1]).max(axis=-1) for values in spectra],
    }
    found = [Reading(numbers, np.stack(values), part) for part, values in parts.items()]
    for i, values in enumerate(spectra):
        together = values.reshape(*values.shape[:-2], -1)
        found.append(Reading(numbers[i : i + 1], together[None], "spectrum", tuple(range(together.shape[-1]))))
    return found


@dataclass(frozen=True)
class _Spectrum(Probe):
    examples: int
    geometric: ClassVar[bool] = True
    costly: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise ValueError(f"examples={self.examples}: must be >= 1")

    def _first(self, moment: Moment) -> Moment:
        """The moment with the first few examples of its batch alone."""
        shadow = moment.network.shadow("few examples")
        shadow.forward(moment.x[..., : self.examples])
        return Moment(shadow, moment.proposed)


@dataclass(frozen=True)
class LayerJacobianSpectrum(_Spectrum):
    """Singular values of ∂a^l/∂a^{l−1} = ∂a/∂z · W, for the first examples of the batch.

    Mean, max, min and the largest condition number (max/min) of an example; the full spectrum is in the run's records,
    example after example.

    Args:
        examples: how many.
    """

    def readings(self, moment: Moment) -> list[Reading]:
        layers = self._first(moment).network.layers
        return _readings(moment.layers.numbers, [spectrum(layer_jacobian(layer)) for layer in layers])


@dataclass(frozen=True)
class InputOutputJacobianSpectrum(_Spectrum):
    """The same of the whole network, ∂z^L/∂x. All equal to 1: dynamical isometry.

    Source: Saxe, McClelland & Ganguli, "Exact Solutions to the Nonlinear Dynamics of Learning", 2014.

    Args:
        examples: how many.
    """

    def readings(self, moment: Moment) -> list[Reading]:
        return _readings((), [spectrum(input_output_jacobian(self._first(moment).network, "z"))])
