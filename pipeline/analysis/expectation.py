"""Theory's expectation of a run: from its widths, its initialisers and its own data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from engine.activations import Elementwise
from engine.arrays import Array
from engine.theory import Profile, profile
from pipeline.training.prepare import PreparedRun

EXAMPLES = 200  # how many of the training examples speak for all


@dataclass(frozen=True)
class Expectation:
    """A profile and what it was made from.

    Attributes:
        profile: over layers 1 ... L.
        weight_variances, bias_variances: σ_w² = fan_in · Var[W] and σ_b² of each layer.
    """

    profile: Profile
    weight_variances: list[float]
    bias_variances: list[float]

    def log10_delta(self, measured: Array) -> Array:
        """Expected log10 delta_rms of layers 1 ... L, given that measured in layer L (log10)."""
        return self.profile.log10_delta() + measured[-1]

    def residual(self, measured: Array) -> Array:
        """log10 of measured over expected delta_rms, [L]; 0 in layer L by definition."""
        return np.asarray(measured - self.log10_delta(measured))

    def as_json(self, measured: Array) -> Mapping[str, Any]:
        """For the run: expected delta_rms with the finite-width band of one example, and the mean square of z."""
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
    """What theory expects of this run at initialisation.

    None where it says nothing: a hidden layer without a σ', or weights that are not random.
    """
    config, sizes = run.config, run.sizes
    sigmas = config.activations(len(sizes) - 1)
    if not all(isinstance(sigma, Elementwise) for sigma in sigmas[:-1]) or not config.init.weights.random:
        return None
    fans = list(pairwise(sizes))
    weights = [config.init.weights.variance(m, n) for m, n in fans]
    biases = [config.init.biases.variance(m, n) for m, n in fans]
    x = run.data.x[run.data.train[0, :EXAMPLES]].astype(np.float64)
    with np.errstate(all="ignore"):
        found = profile(sizes, sigmas, weights, biases, np.square(x).sum(axis=1))
    return Expectation(found, [m * v for (m, _), v in zip(fans, weights, strict=True)], biases)
