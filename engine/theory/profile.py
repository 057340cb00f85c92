"""Mean-field predictions for a network at initialisation, from its own widths and data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.activations import Activation, Elementwise
from engine.arrays import Array
from engine.theory.mean_field import moments


@dataclass(frozen=True)
class Profile:
    """Predictions at initialisation, as arrays over layers 1 ... L; NaN where a layer has no value.

    Attributes:
        z_mean_square: q, mean over examples.
        activation_mean_square: ⟨a²⟩, for element-wise σ.
        slope_mean_square: ⟨σ'(z)²⟩, for element-wise σ.
        chi: ⟨‖δ^l‖²⟩/⟨‖δ^{l+1}‖²⟩ = n_l Var[W^{l+1}] ⟨σ'(z^l)²⟩ for l < L.
        log_variance: Variance over initialisations of ln(‖δ^l‖²/‖δ^{l+1}‖²) of one example for l < L, (3κ − 1)/n_l to
            first order in 1/n, with κ = ⟨σ'⁴⟩/⟨σ'²⟩².
    """

    z_mean_square: Array
    activation_mean_square: Array
    slope_mean_square: Array
    chi: Array
    log_variance: Array

    def log10_delta(self) -> Array:
        """Return log10 of delta_rms relative to layer L."""
        steps = np.log10(self.chi[:-1]) / 2
        return np.append(np.cumsum(steps[::-1])[::-1], 0.0)


def profile(
    sizes: Sequence[int],
    activations: Sequence[Activation],
    weight_variances: Sequence[float],
    bias_variances: Sequence[float],
    input_square: Array,
) -> Profile:
    """Compute the profile of a network with independent centred weights.

        q¹_b = Var[W¹] ‖x_b‖² + σ_b²,   q^{l+1}_b = n_l Var[W^{l+1}] E σ(√q^l_b z)² + σ_b²

    Each example has its own q, which includes the transient towards q*. Sources: Poole et al., 2016; Schoenholz et
    al., 2017; Hanin & Nica, "Products of Many Large Random Matrices and Gradients in Deep Neural Networks", 2019.

    Args:
        sizes: n_0 ... n_L.
        activations: Activations of layers 1 ... L.
        weight_variances: Var[W^l] of layers 1 ... L.
        bias_variances: σ_b² of layers 1 ... L.
        input_square: ‖x_b‖² of some examples [B].
    """
    depth = len(activations)
    nan = np.full(depth, np.nan)
    q_mean, a_square, slopes, chi, fluctuation = nan.copy(), nan.copy(), nan.copy(), nan.copy(), nan.copy()
    incoming = np.asarray(input_square, np.float64)
    for i, sigma in enumerate(activations):
        q = weight_variances[i] * incoming + bias_variances[i]
        q_mean[i] = q.mean()
        if not isinstance(sigma, Elementwise):
            break
        square, slope, fourth = (average.value for average in moments(sigma, q))
        incoming = sizes[i + 1] * square
        a_square[i], slopes[i] = square.mean(), slope.mean()
        if i + 1 < depth:
            chi[i] = sizes[i + 1] * weight_variances[i + 1] * slopes[i]
            with np.errstate(all="ignore"):
                fluctuation[i] = (3 * fourth.mean() / np.square(slopes[i]) - 1) / sizes[i + 1]
    return Profile(q_mean, a_square, slopes, chi, fluctuation)
