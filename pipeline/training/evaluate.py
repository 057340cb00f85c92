"""Cost and accuracy (R² for a regression) of a stack on training, validation and test sets."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from engine.arrays import Array
from pipeline.data.prepare import Data
from pipeline.training.records import Record
from pipeline.training.trainer import CHUNK, Trainer

PARTS = ("train", "validation", "test")


def evaluate(
    trainer: Trainer, cells: Collection[int], parts: Collection[str] = PARTS, is_last: bool = False
) -> dict[int, list[Record]]:
    """Return for each cell the records ``cost/PART`` and ``accuracy/PART`` (or ``r2/PART``), each [1, R].

    PART is train, validation and test. Data without one of these sets have no scores on it.

    Cells pass one after another: batches are large, so a pass of the whole stack would gain no time and need C times
    the memory.

    Args:
        trainer: The stack; θ is only read.
        cells: The cells to evaluate.
        parts: The sets to evaluate on.
        is_last: Whether this is the cells' last evaluation, which uses the whole test set.
    """
    records: dict[int, list[Record]] = {cell: [] for cell in cells}
    for part in parts:
        for number, data in enumerate(trainer.data.sets):
            own = [cell for cell in trainer.data.cells_of(number) if cell in records]
            if not own:
                continue
            evaluation = trainer.runs[own[0]].config.evaluation
            rows: Array = getattr(data, part)
            if part == "train":
                rows = rows[:, : evaluation.train_examples]
            if part == "test" and not is_last:
                rows = rows[:, : evaluation.intermediate_test_examples]
            if not rows.shape[1]:
                continue
            score = "r2" if data.classes is None else "accuracy"
            for cell, (cost, quality) in _measure(trainer, data, rows, own).items():
                records[cell].append(Record(trainer.step, f"cost/{part}", (), cost[None], geometric=False))
                records[cell].append(Record(trainer.step, f"{score}/{part}", (), quality[None], geometric=False))
    return records


def _measure(trainer: Trainer, data: Data, rows: Array, cells: Sequence[int]) -> dict[int, tuple[Array, Array]]:
    """Return mean cost [R] and accuracy or R² [R] of each cell over the rows [R, N] of its data set."""
    cost, (replicates, count) = trainer.runs[0].config.cost, rows.shape
    total, hits = ({cell: np.zeros(replicates) for cell in cells} for _ in range(2))
    for start in range(0, count, CHUNK):
        chosen = rows[:, start : start + CHUNK]
        x, y = data.x[chosen].mT, data.y[chosen].mT
        for cell in cells:
            network = trainer.cell_network(cell)
            a = network.forward(x, training=False)
            total[cell] += _sum(network.cost(y, cost)[..., None, :])
            hits[cell] += _squared_error(a, y) if data.classes is None else _hits(a, y)
    if data.classes is None:
        spread = _spread(data.y[rows])
        return {cell: (total[cell] / count, 1 - hits[cell] / spread) for cell in cells}
    return {cell: (total[cell] / count, hits[cell] / count) for cell in cells}


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
