"""Mean-field prediction of a run at initialisation, from its widths, its initialisers and its own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from engine.activations import Activation, Elementwise
from engine.arrays import Array
from engine.theory import Profile, profile
from pipeline.caching import cached
from pipeline.training.prepare import PreparedRun

EXAMPLES = 200  # training examples that the prediction averages over
ALIKE = 8  # examples of similar size that share one quadrature; log10 of the predicted δ changes by less than 0.002


@dataclass(frozen=True)
class Expectation:
    """A mean-field profile and its parameters.

    Attributes:
        profile: Mean-field theory over layers 1 ... L.
        weight_variances: σ_w² = fan_in · Var[W] of each layer.
        bias_variances: σ_b² of each layer.
    """

    profile: Profile
    weight_variances: list[float]
    bias_variances: list[float]

    def log10_delta(self, measured: Array) -> Array:
        """Return the expected log10 delta_rms of layers 1 ... L, from the measured log10 delta_rms; layer L agrees."""
        return self.profile.log10_delta() + measured[-1]

    def residual(self, measured: Array) -> Array:
        """Return log10 of measured over expected delta_rms, [L]; 0 in layer L by definition."""
        return np.asarray(measured - self.log10_delta(measured))

    def as_json(self, measured: Array) -> Mapping[str, Any]:
        """Return the artifact ``theory.json``: expected delta_rms with the band of one example, ⟨z²⟩, χ, variances."""
        centre, spread = self.log10_delta(measured), 1.96 * self.profile.log10_delta_std()
        low, middle, high = (np.asarray(10.0**v) for v in (centre - spread, centre, centre + spread))
        return {
            "layers": list(range(1, len(middle) + 1)),
            "delta_rms": _plain(middle),
            "low": _plain(low),
            "high": _plain(high),
            "z_mean_square": _plain(self.profile.z_mean_square),
            "chi": _plain(self.profile.chi),
            "weight_variance": self.weight_variances,
            "bias_variance": self.bias_variances,
        }


def _plain(values: Array) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]


def expect(run: PreparedRun) -> Expectation | None:
    """Compute what mean-field theory expects of a run at initialisation.

    Returns:
        None if a hidden layer has no element-wise σ', or the weights are not random.
    """
    config, sizes = run.config, run.sizes
    sigmas = config.activations(len(sizes) - 1)
    if not all(isinstance(sigma, Elementwise) for sigma in sigmas[:-1]) or not config.init.weights.random:
        return None
    fans = list(pairwise(sizes))
    weights = [config.init.weights.variance(m, n) for m, n in fans]
    biases = [config.init.biases.variance(m, n) for m, n in fans]
    predicted = _profile(sizes, sigmas, weights, biases, _sizes_of_examples(run))
    return Expectation(predicted, [m * v for (m, _), v in zip(fans, weights, strict=True)], biases)


def _sizes_of_examples(run: PreparedRun) -> Array:
    """Return ‖x‖² of the first training examples, as means over groups of examples of similar size."""
    x = run.data.x[run.data.train[0, :EXAMPLES]].astype(np.float64)
    squares = np.sort(np.square(x).sum(axis=1))
    return np.array([group.mean() for group in np.array_split(squares, max(len(squares) // ALIKE, 1))])


def _profile(
    sizes: Sequence[int],
    sigmas: Sequence[Activation],
    weights: Sequence[float],
    biases: Sequence[float],
    squares: Array,
) -> Profile:
    """Return the profile. The last ones are cached: they take longer than a short run."""
    return _cached_profile(tuple(sizes), tuple(sigmas), tuple(weights), tuple(biases), tuple(squares.tolist()))


@cached(maxsize=256)
def _cached_profile(
    sizes: tuple[int, ...],
    sigmas: tuple[Activation, ...],
    weights: tuple[float, ...],
    biases: tuple[float, ...],
    squares: tuple[float, ...],
) -> Profile:
    with np.errstate(all="ignore"):
        return profile(sizes, sigmas, weights, biases, np.array(squares))
