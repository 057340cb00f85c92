"""Singular values of Jacobians: how a layer, and the whole network, stretches small differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engine.arrays import Array
from engine.jacobians import input_output_jacobian
from engine.network import Network
from engine.probes.base import Measurement, Step, Traits


def spectrum(jacobians: Array) -> Array:
    """Compute the singular values, descending, of [..., n, m] -> [..., min(n, m)]; NaN where a matrix is not finite."""
    finite = np.asarray(np.isfinite(jacobians.reshape(*jacobians.shape[:-2], -1)).all(axis=-1))
    values: Array = np.linalg.svd(np.where(finite[..., None, None], jacobians, 0), compute_uv=False)
    return np.where(finite[..., None], values, np.nan)


def _measurements(numbers: tuple[int, ...], spectra: list[Array]) -> list[Measurement]:
    """Mean, max, min and condition over examples, and all values.

    Args:
        numbers: of the layers, or () for the network.
        spectra: of each layer, [E..., k, K]: of each of k examples the singular values, descending.
    """
    spectra = [values.astype(np.float64) for values in spectra]
    parts = {
        "mean": [values.reshape(*values.shape[:-2], -1).mean(axis=-1) for values in spectra],
        "max": [values[..., 0].max(axis=-1) for values in spectra],
        "min": [values[..., -1].min(axis=-1) for values in spectra],
        "condition": [(values[..., 0] / values[..., -1]).max(axis=-1) for values in spectra],
    }
    found = [Measurement(numbers, np.stack(values), part) for part, values in parts.items()]
    for i, values in enumerate(spectra):
        together = values.reshape(*values.shape[:-2], -1)
        found.append(Measurement(numbers[i : i + 1], together[None], "spectrum", tuple(range(together.shape[-1]))))
    return found


@dataclass(frozen=True)
class _Spectrum:
    examples: int
    traits: ClassVar[Traits] = Traits(geometric=True, of_step=True, costly=True)

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise ValueError(f"examples={self.examples}: must be >= 1")

    def _first_examples(self, step: Step) -> Network:
        """A twin after a forward pass over the first few examples of the batch."""
        twin = step.network.twin("few examples")
        twin.forward(step.network.x[..., : self.examples], training=False)
        return twin


@dataclass(frozen=True)
class LayerJacobianSpectrum(_Spectrum):
    """Singular values of ∂a^l/∂a^{l−1} = ∂a/∂z · W, for the first examples of the batch.

    Mean, max, min and the largest condition number (max/min) of an example; the full spectrum is in the run's records,
    example after example.

    Args:
        examples: how many.
    """

    def __call__(self, step: Step) -> list[Measurement]:
        layers = self._first_examples(step).layers
        return _measurements(tuple(x.number for x in layers), [spectrum(layer.jacobian()) for layer in layers])


@dataclass(frozen=True)
class InputOutputJacobianSpectrum(_Spectrum):
    """The same of the whole network, ∂z^L/∂x. All equal to 1: dynamical isometry.

    Source: Saxe, McClelland & Ganguli, "Exact Solutions to the Nonlinear Dynamics of Learning", 2014.

    Args:
        examples: how many.
    """

    def __call__(self, step: Step) -> list[Measurement]:
        return _measurements((), [spectrum(input_output_jacobian(self._first_examples(step), "z"))])
