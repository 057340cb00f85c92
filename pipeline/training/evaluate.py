"""Cost and accuracy (R² for a regression) of a stack on training and test sets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engine.arrays import Array
from engine.network import Network
from pipeline.config.schema import Config
from pipeline.data.prepare import Data
from pipeline.training.records import Record

CHUNK = 1000  # examples per forward pass: bounds the memory of the network's buffers


def evaluate(network: Network, data: Data, config: Config, step: int) -> Iterator[Record]:
    """Yield records ``cost/train``, ``cost/test`` and ``accuracy/...`` (or ``r2/...``), each [1, R]. θ is only read.

    Args:
        network: The stack of replicates.
        data: The rows of all replicates.
        config: The run's config.
        step: Number of the step.
    """
    parts = {"train": data.train[:, : config.evaluation.train_examples], "test": data.test}
    score = "r2" if data.classes is None else "accuracy"
    for part, rows in parts.items():
        cost, quality = _measure(network, data, config, rows)
        yield Record(step, f"cost/{part}", (), cost[None], geometric=False)
        yield Record(step, f"{score}/{part}", (), quality[None], geometric=False)


def _measure(network: Network, data: Data, config: Config, rows: Array) -> tuple[Array, Array]:
    """Return mean cost [R] and accuracy or R² [R] of each replicate over its rows [R, N]."""
    replicates, count = rows.shape
    total, hits = np.zeros(replicates), np.zeros(replicates)
    for start in range(0, count, CHUNK):
        chosen = rows[:, start : start + CHUNK]
        y = data.y[chosen].mT
        a = network.forward(data.x[chosen].mT, training=False)
        total += _sum(network.cost(y, config.cost)[..., None, :])
        if data.classes is None:
            with np.errstate(over="ignore", invalid="ignore"):
                hits += _sum((a - y) ** 2)
        else:
            is_right = a.argmax(axis=-2) == y.argmax(axis=-2)
            hits += (is_right & np.isfinite(a).all(axis=-2)).sum(axis=-1)  # NaN predicts nothing
    if data.classes is None:
        return total / count, 1 - hits / _spread(data.y[rows])
    return total / count, hits / count


@np.errstate(over="ignore", invalid="ignore")
def _sum(x: Array) -> Array:
    """Return Σ over the last two axes in float64. The cast comes first: a casting reduction mixes members in chunks."""
    return x.astype(np.float64, copy=False).sum(axis=(-2, -1))


def _spread(y: Array) -> Array:
    """Return Σ (y − ȳ)² over examples and outputs [R], NaN where all targets are equal: R² is then not defined."""
    wide = y.astype(np.float64, copy=False)
    around = _sum((wide - wide.mean(axis=1, keepdims=True)) ** 2)
    return np.where(around > 0, around, np.nan)
