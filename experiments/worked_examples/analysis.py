"""All numbers of the two worked examples, and the number of misprints in the derivation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engine.network import Network
from experiments.claims import exact
from experiments.runner import Result, select
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.config import schema as configs
from pipeline.reports.figures.style import BLUE, GREEN, RED, STYLE
from pipeline.reports.trace import misprints
from pipeline.training.prepare import build_network, prepare_run
from pipeline.training.trainer import first_batch

PRINTED = Path(__file__).parent / "printed.yaml"
QUANTITIES = (("delta", "δ"), ("dW", "∂C/∂W"))


def passed(raw_config: Mapping[str, Any]) -> Network:
    """Return the run's network at initialisation, after one forward and backward pass."""
    run = prepare_run(configs.build(raw_config))
    stack = build_network(run)
    network = Network([block.twin() for block in stack.blocks], (), stack.dtype, stack.theta[0])
    rows = first_batch(run)[0]
    network.forward(run.data.x[rows].mT)
    network.backward(run.data.y[rows].mT, run.config.cost)
    return network


def entries(network: Network) -> Iterator[tuple[str, int, tuple[int, ...], float]]:
    """Yield (quantity, layer, place, number) of δ and ∂C/∂W. Places count from 1; a place of δ has a row only."""
    for quantity, _ in QUANTITIES:
        for layer in network.layers:
            for (i, j), value in np.ndenumerate(getattr(layer, quantity)):
                yield quantity, layer.number, (i + 1,) if quantity == "delta" else (i + 1, j + 1), float(value)


def measured(results: Sequence[Result]) -> Mapping[str, Estimate]:
    """Return the measured numbers by the claims' keys.

    The key ``2_dW_1_3_2`` is row 3, column 2 of ∂C/∂W^1 in the second example.
    """
    numbers = {}
    printed = yaml.safe_load(PRINTED.read_text(encoding="utf-8"))
    for number in "12":
        for result in select(results, f"worked_example_{number}"):
            numbers[f"{number}_cost"] = estimate(result.values("cost/train")[0])
            network = passed(result.raw_config)
            for quantity, layer, place, value in entries(network):
                numbers["_".join([number, quantity, str(layer), *map(str, place)])] = exact(value)
            wrong = misprints(network, printed[result.sweep])
            numbers[f"{number}_misprints"] = exact(len(wrong))
            numbers[f"{number}_wrong_signs"] = exact(sum(m.printed * m.correct < 0 for m in wrong))
    return numbers


def figure(results: Sequence[Result]) -> Figure:
    """Draw the right and the printed numbers."""
    printed = yaml.safe_load(PRINTED.read_text(encoding="utf-8"))
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(11, 5.2))
        for axes, result in zip(drawn.subplots(1, 2), results, strict=False):
            network = passed(result.raw_config)
            _compare(axes, network, printed[result.sweep])
            sizes = ", ".join(str(n) for n in (network.layers[0].n_in, *(layer.n_out for layer in network.layers)))
            axes.set_title(f"{result.sweep.replace('_', ' ')}, [{sizes}]: gradients of C", fontsize=10)
    return drawn


def _compare(axes: Axes, network: Network, printed: Mapping[str, Any]) -> None:
    symbols, labels, in_legend = dict(QUANTITIES), [], set[str]()
    wrong = {(m.quantity, m.layer, m.entry) for m in misprints(network, printed)}
    for row, (quantity, layer, place, value) in enumerate(entries(network)):
        entry = (place[0] - 1, place[1] - 1 if quantity == "dW" else 0)
        printed_value = float(printed[quantity][layer][entry[0]][entry[1]])
        name, colour = ("printed, wrong", RED) if (quantity, layer, entry) in wrong else ("printed, right", GREEN)
        labels.append(f"{symbols[quantity]}$^{layer}_{{{','.join(map(str, place))}}}$")
        axes.plot([value, printed_value], [row, row], color="0.7", lw=1, zorder=1)
        axes.plot(value, row, "o", ms=7, color=BLUE, label="right" if not row else None)
        axes.plot(
            printed_value, row, "x", ms=7, mew=1.8, color=colour, zorder=3, label=None if name in in_legend else name
        )
        in_legend.add(name)
        if printed_value * value < 0:
            axes.annotate("wrong sign", (max(printed_value, value), row), (9, 0), textcoords="offset points", color=RED,
                          va="center", fontsize=9)  # fmt: skip
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set(xlabel="value", xlim=(-0.16, 0.16))
    axes.legend(frameon=False, loc="lower left", fontsize=9)
