"""Measures δ in conf/experiment/tanh_phases.yaml and on a grid of variances, and draws theory over both."""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from threadpoolctl import threadpool_limits

from engine.activations import Tanh
from engine.arrays import Array
from engine.theory import MeanField, critical_weight_variance
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.analysis.expectation import expect
from pipeline.config.compose import compose_run, compose_sweep
from pipeline.config.schema import Config, build
from pipeline.reports.figures.style import BLUE, GREEN, RED, STYLE
from pipeline.training.loop import train
from pipeline.training.prepare import prepare_run

HERE = Path(__file__).parent
PROBE = "random_cotangent_delta_rms"
SIGMA_W2 = np.geomspace(0.6, 4.5, 11)
SIGMA_B2 = np.linspace(0.0, 0.5, 6)


class Measured(NamedTuple):
    """δ against layer, [L]: measured with its interval, and log10 of what is expected given the last layer's."""

    delta: Estimate
    expected: Array


def measure(config: Config) -> Measured:
    """At initialisation, under a random cotangent."""
    run = prepare_run(config)
    (record,) = (r for r in train(run) if r.probe == PROBE)
    delta, expectation = estimate(record.values, geometric=True), expect(run)
    if expectation is None:
        raise TypeError("tanh has a slope everywhere")
    return Measured(delta, expectation.log10_delta(np.log10(delta.mean)))


def slope(log10_delta: Array) -> float:
    """χ from the middle of the network: ⟨‖δ‖²⟩ of a layer over that of the layer above."""
    layers = np.arange(8, len(log10_delta) - 2)
    return float(10 ** (-2 * np.polyfit(layers, log10_delta[layers], 1)[0]))


def draw_slopes(found: dict[str, Measured]) -> Figure:
    """Points with their intervals on theory's lines."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.5))
        axes = figure.subplots()
        phases = ("ordered: vanishing", "critical", "chaotic: exploding")
        for (variance, m), colour, marker, phase in zip(found.items(), (BLUE, GREEN, RED), "os^", phases, strict=True):
            layers = np.arange(1, len(m.expected) + 1)
            errors = np.abs(np.stack([m.delta.low, m.delta.high]) - m.delta.mean)
            axes.errorbar(
                layers, m.delta.mean, errors, fmt=marker, ms=4, lw=1, color=colour, label=f"σ_w² = {variance}, {phase}"
            )
            axes.plot(layers, 10.0**m.expected, color=colour, lw=1.2)
        axes.set(
            yscale="log",
            xlabel="layer (1 is next to the input)",
            ylabel="δ under a random cotangent: √⟨‖δ‖²⟩",
            title="tanh, σ_b² = 0.05, 40 layers of 300: points measured, lines mean-field theory",
        )
        axes.legend(frameon=False)
    return figure


def draw_phases(chi: Array) -> Figure:
    """Measured log10 χ over the two variances, with the theoretical boundary."""
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(7, 4.5))
        axes = figure.subplots()
        values = np.log10(chi)
        reach = float(np.abs(values).max())
        image = axes.pcolormesh(SIGMA_W2, SIGMA_B2, values, cmap="PuOr_r", vmin=-reach, vmax=reach, shading="nearest")
        fine = 0.5 * np.linspace(0.0, 1.0, 26) ** 2
        axes.plot([critical_weight_variance(Tanh(), b) for b in fine], fine, color="black", lw=2, label="theory: χ = 1")
        axes.set(
            xscale="log",
            xlabel="σ_w²",
            ylabel="σ_b²",
            title="tanh: measured log₁₀ χ a layer, and where theory says it is 0",
        )
        axes.set_xticks([0.6, 1, 2, 3, 4], ["0.6", "1", "2", "3", "4"], minor=False)
        axes.minorticks_off()
        axes.legend(loc="lower right")
        figure.colorbar(image, label="log₁₀ χ: < 0 vanishing, > 0 exploding")
    return figure


def main() -> None:
    """Print χ beside theory, and write the two figures."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tanh_phases", description=__doc__)
    parser.add_argument("--to", type=Path, default=HERE, help="the folder for the figures (default: beside this file)")
    options = parser.parse_args()
    cells = compose_sweep(["experiment=tanh_phases"])
    with threadpool_limits(1):
        found = {c.swept["init.weights.sigma_w2"]: measure(build(c.config)) for c in cells}
        grid = list(product(SIGMA_B2.tolist(), SIGMA_W2.tolist()))
        small = ["experiment=tanh_phases", "replicates=2", "architecture.width=150", "architecture.depth=24"]
        chi = [
            slope(np.log10(measure(build(compose_run([*small, *place(w, b)]))).delta.mean))
            for b, w in track(grid, "phase diagram", console=Console(stderr=True), transient=True)
        ]
    table = Table("σ_w²", "χ measured", "χ of theory", title="tanh, σ_b² = 0.05")
    for variance, m in found.items():
        theory = MeanField(Tanh(), float(variance), 0.05).chi_star()
        table.add_row(variance, f"{slope(np.log10(m.delta.mean)):.4f}", f"{theory:.4f}")
    Console().print(table)
    draw_slopes(found).savefig(options.to / "slopes.png", dpi=150)
    draw_phases(np.array(chi).reshape(len(SIGMA_B2), len(SIGMA_W2))).savefig(options.to / "phases.png", dpi=150)


def place(weight_variance: float, bias_variance: float) -> list[str]:
    """Overrides for a point of the phase diagram."""
    return [f"init.weights.sigma_w2={weight_variance:.6g}", f"init.biases.sigma_b2={bias_variance:.6g}"]


if __name__ == "__main__":
    main()
