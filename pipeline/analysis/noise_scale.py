"""The gradient noise scale, as a ratio of means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.analysis.estimates import Estimate, student_t
from pipeline.training.records import Record


def noise_scale(variances: Sequence[Record], signals: Sequence[Record]) -> Estimate:
    """Estimate tr(Σ)/|G|² of the population: the batch size at which noise and signal of the gradient are equal.

    Numerator and denominator are summed over layers and averaged over the measured steps and the replicates, then
    divided. The interval is Student's t around the ratio with the standard error of the jackknife over replicates,

        s² = (R−1)/R Σ_k (q_k − ⟨q⟩)²,  q_k = the ratio without replicate k.

    Sources: McCandlish, Kaplan & Amodei, 2018, A.1; Efron & Stein, "The Jackknife Estimate of Variance", 1981.

    Args:
        variances: Records of the probe ``gradient_variance``, at least one.
        signals: Records of the probe ``gradient_signal``, at least one.

    Returns:
        The ratio. Its mean is infinite if the run shows no signal, and NaN without a replicate with finite values. One
        replicate has no interval.
    """
    variance, signal = (np.mean([r.values.sum(axis=0) for r in records], axis=0) for records in (variances, signals))
    finite = np.isfinite(variance) & np.isfinite(signal)
    variance, signal, count = variance[finite], signal[finite], int(np.count_nonzero(finite))
    lost = np.array(1 - count / len(finite))
    none = np.array(np.nan)
    if not count:
        return Estimate(none, none, none, lost)
    if signal.sum() <= 0:
        return Estimate(np.array(np.inf if variance.sum() > 0 else np.nan), none, none, lost)
    ratio = variance.sum() / signal.sum()
    if count == 1:
        return Estimate(np.array(ratio), none, none, lost)
    with np.errstate(divide="ignore", invalid="ignore"):
        without = (variance.sum() - variance) / (signal.sum() - signal)
    without = np.where(signal.sum() - signal > 0, without, np.nan)  # then a replicate has all the signal
    error = np.sqrt((count - 1) / count * np.square(without - without.mean()).sum())
    half = float(student_t(count - 1)) * error
    return Estimate(np.array(ratio), np.maximum(ratio - half, 0.0), np.array(ratio + half), lost)
