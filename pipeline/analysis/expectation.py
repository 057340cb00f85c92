"""Mean-field prediction of a run at initialisation, from its widths, its initialisers and its own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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

    Mean-field theory gives the mean of ‖δ‖² over initialisations. What is measured and compared is the mean of
    log10 ‖δ‖, which is lower: the factor ‖δ^l‖²/‖δ^{l+1}‖² of a layer of finite width fluctuates. With its relative
    variance v = (3κ − 1)/n, a Gamma distribution of shape k = 1/v has

        E ln(factor) = ln χ + ψ(k) − ln k,   Var ln(factor) = ψ'(k),

    which is exact for linear layers at any width, and matches two moments otherwise. Source: Hanin & Nica, 2019.

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
        return self._log10_delta + measured[-1]

    def decades(self, hidden: int) -> tuple[float, float, float]:
        """Return what is expected of log10 of the last hidden ‖δ‖ over the first.

        Args:
            hidden: Number of hidden layers.

        Returns:
            Its mean over initialisations for a large batch of unlike examples, whose fluctuations cancel; its mean for
            one example, or a batch of examples that the network does not tell apart; and the standard deviation of
            the latter. The batch of a run lies between the first two.
        """
        unlike, alike = self.profile.log10_delta(), self._log10_delta
        variances = self._log_variances[: hidden - 1]
        std = float(np.sqrt(variances.sum()) / (2 * np.log(10)))
        return float(unlike[hidden - 1] - unlike[0]), float(alike[hidden - 1] - alike[0]), std

    @cached_property
    def _log10_delta(self) -> Array:
        """Return the mean of log10 ‖δ‖ of layers 1 ... L, relative to layer L."""
        from scipy.special import digamma  # takes long to import

        with np.errstate(all="ignore"):
            k = 1 / self.profile.log_variance[:-1]
            lower = (digamma(k) - np.log(k)) / (2 * np.log(10))
        return self.profile.log10_delta() + np.append(np.cumsum(lower[::-1])[::-1], 0.0)

    @cached_property
    def _log_variances(self) -> Array:
        """Return Var ln(‖δ^l‖²/‖δ^{l+1}‖²) of layers 1 ... L−1."""
        from scipy.special import polygamma

        with np.errstate(all="ignore"):
            return np.asarray(polygamma(1, 1 / self.profile.log_variance[:-1]))

    def residual(self, measured: Array) -> Array:
        """Return log10 of measured over expected delta_rms, [L]; 0 in layer L by definition."""
        return np.asarray(measured - self.log10_delta(measured))

    def as_json(self, measured: Array) -> Mapping[str, Any]:
        """Return the artifact ``theory.json``: expected delta_rms with the band of one example, ⟨z²⟩, χ, variances."""
        variances = np.append(np.cumsum(self._log_variances[::-1])[::-1], 0.0)
        centre, spread = self.log10_delta(measured), 1.96 * np.sqrt(variances) / (2 * np.log(10))
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
