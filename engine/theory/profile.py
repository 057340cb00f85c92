"""What theory expects of a network at initialisation, layer by layer: through its own widths, from its own data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.activations import Activation, Elementwise
from engine.arrays import Array
from engine.theory.mean_field import moments


@dataclass(frozen=True)
class Profile:
    """Expectations at initialisation; arrays over layers 1 ... L.

    Attributes:
        z_mean_square: q of each layer, mean over examples.
        activation_mean_square: ⟨a²⟩ of each layer; NaN where σ is not element-wise.
        slope_mean_square: ⟨σ'(z)²⟩; NaN where σ is not element-wise.
        chi: ⟨‖δ^l‖²⟩/⟨‖δ^{l+1}‖²⟩ for l < L, = n_l Var[W^{l+1}] ⟨σ'(z^l)²⟩; NaN for the last.
        log_variance: variance of ln(‖δ^l‖²/‖δ^{l+1}‖²) of one example over initialisations, (3κ − 1)/n_l to first order
            in 1/n, with κ = ⟨σ'⁴⟩/⟨σ'²⟩²; NaN for the last.
    """

    z_mean_square: Array
    activation_mean_square: Array
    slope_mean_square: Array
    chi: Array
    log_variance: Array

    def log10_delta(self) -> Array:
        """log10 of delta_rms relative to that of layer L."""
        steps = np.log10(self.chi[:-1]) / 2
        return np.append(np.cumsum(steps[::-1])[::-1], 0.0)

    def log10_delta_std(self) -> Array:
        """Standard deviation of log10 ‖δ‖ of one example, relative to layer L, over initialisations (log-normal)."""
        variances = self.log_variance[:-1] / (2 * np.log(10)) ** 2
        return np.sqrt(np.append(np.cumsum(variances[::-1])[::-1], 0.0))


def profile(
    sizes: Sequence[int],
    activations: Sequence[Activation],
    weight_variances: Sequence[float],
    bias_variances: Sequence[float],
    input_square: Array,
) -> Profile:
    """The profile of a network with independent centred weights.

    q¹_b = Var[W¹] ‖x_b‖² + σ_b², q^{l+1}_b = n_l Var[W^{l+1}] E σ(√q^l_b z)² + σ_b²: each example has its own, from its
    own size, so the transient towards q* is included. Sources: Poole et al., 2016; Schoenholz et al., 2017; Hanin &
    Nica, "Products of Many Large Random Matrices and Gradients in Deep Neural Networks", 2019 (fluctuations).

    Args:
        sizes: n_0 ... n_L.
        activations: of layers 1 ... L.
        weight_variances, bias_variances: Var[W^l] and σ_b² of layers 1 ... L.
        input_square: ‖x_b‖² of some examples, [B].
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
