"""Cost and accuracy (R² for a regression) of a stack on training and test sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.arrays import Array
from pipeline.training.records import Record
from pipeline.training.trainer import CHUNK, Trainer


def evaluate(trainer: Trainer) -> list[list[Record]]:
    """Return for each cell the records ``cost/train``, ``cost/test`` and ``accuracy/...`` (or ``r2/...``), each [1, R].

    Args:
        trainer: The stack; θ is only read.
    """
    config, sets = trainer.runs[0].config, trainer.data.sets
    records: list[list[Record]] = [[] for _ in trainer.runs]
    parts = {
        "train": [data.train[:, : config.evaluation.train_examples] for data in sets],
        "test": [data.test for data in sets],
    }
    score = "r2" if sets[0].classes is None else "accuracy"
    for part, rows in parts.items():
        costs, qualities = _measure(trainer, rows)
        for own, cost, quality in zip(records, costs, qualities, strict=True):
            own.append(Record(trainer.step, f"cost/{part}", (), cost[None].copy(), geometric=False))
            own.append(Record(trainer.step, f"{score}/{part}", (), quality[None].copy(), geometric=False))
    return records


def _measure(trainer: Trainer, rows: Sequence[Array]) -> tuple[Array, Array]:
    """Return mean cost [C, R] and accuracy or R² [C, R] over the rows [R, N] of each data set.

    Cells pass one after another: batches are large, so a pass of the whole stack would gain no time and need C times
    the memory.
    """
    cost, sets = trainer.runs[0].config.cost, trainer.data.sets
    is_regression, count = sets[0].classes is None, rows[0].shape[1]
    total, hits = np.zeros(trainer.network.ensemble), np.zeros(trainer.network.ensemble)
    for start in range(0, count, CHUNK):
        for number, (x, y) in enumerate(trainer.data.chunk(rows, start)):
            for cell in trainer.data.cells_of(number):
                network = trainer.cell_network(cell)
                a = network.forward(x, training=False)
                total[cell] += _sum(network.cost(y, cost)[..., None, :])
                hits[cell] += _squared_error(a, y) if is_regression else _hits(a, y)
    if is_regression:
        spreads = [_spread(data.y[chosen]) for data, chosen in zip(sets, rows, strict=True)]
        return total / count, 1 - hits / np.stack([spreads[number] for number in trainer.data.set_of])
    return total / count, hits / count


def _hits(a: Array, y: Array) -> Array:
    """Return the number of examples whose class is right [R]; NaN predicts nothing."""
    is_right = a.argmax(axis=-2) == y.argmax(axis=-2)
    hits: Array = (is_right & np.isfinite(a).all(axis=-2)).sum(axis=-1)
    return hits


@np.errstate(over="ignore", invalid="ignore")
def _squared_error(a: Array, y: Array) -> Array:
    return _sum((a - y) ** 2)


@np.errstate(over="ignore", invalid="ignore")
def _sum(x: Array) -> Array:
    """Return Σ over the last two axes in float64. The cast comes first: a casting reduction mixes members in chunks."""
    return x.astype(np.float64, copy=False).sum(axis=(-2, -1))


def _spread(y: Array) -> Array:
    """Return Σ (y − ȳ)² over examples and outputs [R], NaN where all targets are equal: R² is then not defined."""
    wide = y.astype(np.float64, copy=False)
    around = _sum((wide - wide.mean(axis=1, keepdims=True)) ** 2)
    return np.where(around > 0, around, np.nan)
