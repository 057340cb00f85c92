"""χ from the slope of ln δ² against the layer, compared with mean-field theory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from engine.activations import Tanh
from engine.arrays import Array
from engine.theory import MeanField, critical_weight_variance
from experiments.claims import exact
from experiments.runner import Result, select
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.reports.figures.style import HUES, RED, STYLE

DELTA = "random_cotangent_delta_rms"
SIGMA_W2, SIGMA_B2 = ("1.0", "1.5", "1.76", "2.5", "4.0"), 0.05
DROPPED = 8  # layers next to the input, where q is not q* yet
CRITICAL_AT = (2.01e-5, 1e-3, 0.01, 0.05, 0.3)


def log_chi(results: Sequence[Result], sigma_w2: str) -> Array:
    """Return ln χ of each network [R]: minus the slope of ln ‖δ‖² against the layer, without the outer layers."""
    (result,) = select(results, "mean_field", sigma_w2=sigma_w2)
    hidden = result.summary.hidden_layers
    layers = np.arange(DROPPED, hidden)
    return np.asarray(-2 * np.polyfit(layers, np.log(result.values(DELTA)[layers]), 1)[0])


def crossing(variances: Array, logs: Array) -> Array:
    """Return the variance at which ln χ, linear between measured variances, crosses 0 [R].

    Args:
        variances: The measured σ_w² [V].
        logs: ln χ [V, R].
    """
    crossings = []
    for values in logs.T:
        above = int(np.argmax(values > 0))
        low, high = values[above - 1], values[above]
        share = -low / (high - low)
        crossings.append(variances[above - 1] + share * (variances[above] - variances[above - 1]))
    return np.array(crossings)


def measured(results: Sequence[Result]) -> Mapping[str, Estimate]:
    """Return the measured numbers by the claims' keys."""
    logs = np.array([log_chi(results, w) for w in SIGMA_W2])
    numbers = {}
    for w, values in zip(SIGMA_W2, logs, strict=True):
        e = estimate(values)
        numbers[f"chi_{w}"] = Estimate(np.exp(e.mean), np.exp(e.low), np.exp(e.high), e.lost)
    numbers["critical_measured"] = estimate(crossing(np.array(SIGMA_W2, dtype=np.float64), logs))
    for b in CRITICAL_AT:
        numbers[f"critical_{b:g}"] = exact(critical_weight_variance(Tanh(), b))
    for w in ("1.0", "1.5", "2.5", "4.0"):
        numbers[f"trainable_{w}"] = exact(6 * MeanField(Tanh(), float(w), SIGMA_B2).correlation_depth_scale())
    for w, depth in (("1.0", "10"), ("1.0", "80"), ("1.76", "80")):
        for trained in select(results, "mean_field_training", sigma_w2=w, depth=depth):
            accuracy = trained.values("accuracy/train", -1)[0]
            numbers[f"learns_{w}_{depth}"] = estimate((accuracy > 0.5).astype(np.float64))
    return numbers


def figure(results: Sequence[Result]) -> Figure:
    """Draw δ against the layer and χ against σ_w², both with the lines of theory."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(11, 4.4))
        left, right = drawn.subplots(1, 2, width_ratios=(3, 2))
        for w, colour in zip(SIGMA_W2, HUES, strict=False):
            (result,) = select(results, "mean_field", sigma_w2=w)
            values = result.values(DELTA)[: result.summary.hidden_layers]
            e = estimate(values / values[-1], geometric=True)
            layers = np.arange(1, len(values) + 1)
            chi = MeanField(Tanh(), float(w), SIGMA_B2).chi_star()
            left.plot(layers, chi ** ((len(values) - layers) / 2), color=colour, lw=1.2)
            left.errorbar(
                layers,
                e.mean,
                [e.mean - e.low, e.high - e.mean],
                fmt="o",
                ms=3,
                lw=1,
                color=colour,
                label=f"σ_w² = {w}: χ = {chi:.3f}",
            )
        left.axvspan(0.5, DROPPED + 0.5, color="black", alpha=0.06, lw=0)
        left.text(DROPPED / 2 + 0.5, 0.02, "left out", transform=left.get_xaxis_transform(), ha="center", fontsize=8)
        left.set(
            yscale="log",
            xlabel="layer (1 is next to the input)",
            ylabel="√⟨‖δ$^l$‖²⟩ over that of the last hidden layer",
        )
        left.set_title(
            "tanh, σ_b² = 0.05, 40 layers of 300\npoints: measured, lines: χ of theory to the power of (40 − l)/2",
            fontsize=10,
        )
        left.legend(frameon=False, fontsize=9)
        fine = np.linspace(0.8, 4.3, 60)
        right.plot(
            fine,
            [MeanField(Tanh(), v, SIGMA_B2).chi_star() for v in fine.tolist()],
            color="black",
            lw=1.2,
            label="theory",
        )
        for w, colour in zip(SIGMA_W2, HUES, strict=False):
            e = estimate(log_chi(results, w))
            middle, low, high = (float(np.exp(v)) for v in (e.mean, e.low, e.high))
            right.errorbar(float(w), middle, [[middle - low], [high - middle]], fmt="o", ms=5, capsize=3, color=colour)
        right.axhline(1, color="black", lw=0.8, ls="--")
        at = critical_weight_variance(Tanh(), SIGMA_B2)
        right.annotate(
            f"critical: σ_w² = {at:.3f}",
            (at, 1),
            (at + 0.35, 0.86),
            arrowprops={"arrowstyle": "->", "color": RED},
            color=RED,
        )
        right.text(0.85, 1.02, "exploding", fontsize=9)
        right.text(3.45, 0.96, "vanishing", fontsize=9)
        right.set(xlabel="σ_w² = fan_in · Var[W]", ylabel="χ: factor a layer on ⟨‖δ‖²⟩")
        right.set_title("points: slopes, 95% over networks\nline: σ_w² E tanh′(√q* z)²", fontsize=10)
    return drawn
