"""Every number of the two worked examples, and how many of the printed ones are wrong."""

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
from experiments.runner import Result, select
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.config import schema as configs
from pipeline.reports.figures.style import BLUE, GREEN, RED, STYLE
from pipeline.reports.trace import misprints
from pipeline.training.prepare import build_network, prepare_run
from pipeline.training.trainer import first_batch

PRINTED = Path(__file__).parent / "printed.yaml"
QUANTITIES = (("delta", "δ"), ("dW", "∂C/∂W"))


def passed(node: Mapping[str, Any]) -> Network:
    """The run's network at initialisation, after a pass over its one example."""
    run = prepare_run(configs.build(node))
    stack = build_network(run)
    network = Network([block.twin() for block in stack.blocks], (), stack.dtype, stack.theta[0])
    rows = first_batch(run)[0]
    network.forward(run.data.x[rows].mT)
    network.backward(run.data.y[rows].mT, run.config.cost)
    return network


def entries(network: Network) -> Iterator[tuple[str, int, tuple[int, ...], float]]:
    """(quantity, layer, place, number) of δ and ∂C/∂W; places count from 1, δ's has a row only."""
    for quantity, _ in QUANTITIES:
        for layer in network.layers:
            for (i, j), value in np.ndenumerate(getattr(layer, quantity)):
                yield quantity, layer.number, (i + 1,) if quantity == "delta" else (i + 1, j + 1), float(value)


def exactly(value: float) -> Estimate:
    """A number without chance."""
    return estimate(np.array([value]))


def measured(results: Sequence[Result]) -> Mapping[str, Estimate]:
    """The claims' numbers: ``2_dW_1_3_2`` is row 3, column 2 of ∂C/∂W^1 in the second example."""
    found = {}
    printed = yaml.safe_load(PRINTED.read_text(encoding="utf-8"))
    for number in "12":
        for result in select(results, f"worked_example_{number}"):
            found[f"{number}_cost"] = estimate(result.values("cost/train")[0])
            network = passed(result.raw_config)
            for quantity, layer, place, value in entries(network):
                found["_".join([number, quantity, str(layer), *map(str, place)])] = exactly(value)
            wrong = misprints(network, printed[result.sweep])
            found[f"{number}_misprints"] = exactly(len(wrong))
            found[f"{number}_wrong_signs"] = exactly(sum(m.printed * m.correct < 0 for m in wrong))
    return found


def figure(results: Sequence[Result]) -> Figure:
    """Right and printed numbers side by side."""
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
    symbols, labels, told_of = dict(QUANTITIES), [], set[str]()
    wrong = {(m.quantity, m.layer, m.entry) for m in misprints(network, printed)}
    for row, (quantity, layer, place, value) in enumerate(entries(network)):
        entry = (place[0] - 1, place[1] - 1 if quantity == "dW" else 0)
        told = float(printed[quantity][layer][entry[0]][entry[1]])
        name, colour = ("printed, wrong", RED) if (quantity, layer, entry) in wrong else ("printed, right", GREEN)
        labels.append(f"{symbols[quantity]}$^{layer}_{{{','.join(map(str, place))}}}$")
        axes.plot([value, told], [row, row], color="0.7", lw=1, zorder=1)
        axes.plot(value, row, "o", ms=7, color=BLUE, label="right" if not row else None)
        axes.plot(told, row, "x", ms=7, mew=1.8, color=colour, zorder=3, label=None if name in told_of else name)
        told_of.add(name)
        if told * value < 0:
            axes.annotate("wrong sign", (max(told, value), row), (9, 0), textcoords="offset points", color=RED,
                          va="center", fontsize=9)  # fmt: skip
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set(xlabel="value", xlim=(-0.16, 0.16))
    axes.legend(frameon=False, loc="lower left", fontsize=9)
