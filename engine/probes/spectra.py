"""Probes of the singular values of Jacobians, the factors by which small differences grow or shrink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engine.arrays import Array
from engine.jacobians import input_output_jacobian
from engine.network import Network
from engine.probes.base import Measurement, Step, Traits


def spectrum(jacobians: Array) -> Array:
    """Compute singular values, descending, [..., n, m] -> [..., min(n, m)]; NaN for a matrix that is not finite."""
    finite = np.asarray(np.isfinite(jacobians.reshape(*jacobians.shape[:-2], -1)).all(axis=-1))
    values: Array = np.linalg.svd(np.where(finite[..., None, None], jacobians, 0), compute_uv=False)
    return np.where(finite[..., None], values, np.nan)


def _measurements(numbers: tuple[int, ...], spectra: list[Array]) -> list[Measurement]:
    """Return mean, max, min and largest condition over k examples, and all values, of spectra [E..., k, K]."""
    spectra = [values.astype(np.float64) for values in spectra]
    parts = {
        "mean": [values.reshape(*values.shape[:-2], -1).mean(axis=-1) for values in spectra],
        "max": [values[..., 0].max(axis=-1) for values in spectra],
        "min": [values[..., -1].min(axis=-1) for values in spectra],
        "condition": [(values[..., 0] / values[..., -1]).max(axis=-1) for values in spectra],
    }
    measurements = [Measurement(numbers, np.stack(values), part) for part, values in parts.items()]
    for i, values in enumerate(spectra):
        flat = values.reshape(*values.shape[:-2], -1)
        measurements.append(Measurement(numbers[i : i + 1], flat[None], "spectrum", tuple(range(flat.shape[-1]))))
    return measurements


@dataclass(frozen=True)
class _Spectrum:
    examples: int
    traits: ClassVar[Traits] = Traits(geometric=True, of_step=True, costly=True)

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise ValueError(f"examples={self.examples}: must be >= 1")

    def _first_examples(self, step: Step) -> Network:
        """Return a twin after a forward pass over the first examples of the batch."""
        twin = step.network.twin("few examples")
        twin.forward(step.network.x[..., : self.examples], training=False)
        return twin


@dataclass(frozen=True)
class LayerJacobianSpectrum(_Spectrum):
    """Singular values of ∂a^l/∂a^{l−1} = ∂a/∂z · W for the first ``examples`` examples of the batch.

    Mean, max, min, the largest condition number (max/min) of an example, and the spectra, example by example.
    """

    def __call__(self, step: Step) -> list[Measurement]:
        layers = self._first_examples(step).layers
        return _measurements(tuple(x.number for x in layers), [spectrum(layer.jacobian()) for layer in layers])


@dataclass(frozen=True)
class InputOutputJacobianSpectrum(_Spectrum):
    """Singular values of ∂z^L/∂x, as in :class:`LayerJacobianSpectrum`; all are 1 under dynamical isometry.

    Source: Saxe, McClelland & Ganguli, "Exact Solutions to the Nonlinear Dynamics of Learning", 2014.
    """

    def __call__(self, step: Step) -> list[Measurement]:
        return _measurements((), [spectrum(input_output_jacobian(self._first_examples(step), "z"))])
