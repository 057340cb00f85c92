"""The error function, which NumPy lacks."""

from __future__ import annotations

import math

import numpy as np

from engine.arrays import Array


def _log_tail(s: Array) -> Array:
    """Compute ln(erfc(x) e^{x²} / t), t = 2/(2 + x), x ≥ 0, as a function of s = 2t − 1; it is smooth in s."""
    t = (s + 1) / 2
    x = 2 / t - 2
    return np.array([math.log(math.erfc(v)) + v * v - math.log(u) for v, u in zip(x, t, strict=True)])


_LOWEST = 2 * 2 / (2 + 26.0) - 1  # s at x = 26, beyond which erfc is subnormal
_SERIES = np.polynomial.Chebyshev.interpolate(_log_tail, 40, domain=[_LOWEST, 1.0])


def erf(x: Array) -> Array:
    """Compute the error function of a real array of any shape; the absolute error is below 1e-15 in float64.

        erf x = 2/√π ∫₀ˣ e^{−t²} dt,   1 − erf|x| = t e^{−x² + P(t)},   t = 2/(2 + |x|)

    P is a Chebyshev series, computed from :func:`math.erfc` at import.
    Source of the form: Press et al., *Numerical Recipes*, section 6.2.2.
    """
    magnitude = np.minimum(np.abs(x), 25)
    t = 2 / (2 + magnitude)
    tail = t * np.exp(_SERIES(2 * t - 1) - magnitude * magnitude)
    return np.copysign(1 - tail, x).astype(x.dtype, copy=False)
