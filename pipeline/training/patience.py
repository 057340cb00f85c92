"""Early stopping on the validation cost: a training ends when it no longer improves."""

from __future__ import annotations

import numpy as np

from engine.arrays import Array
from pipeline.config.early_stopping import ValidationCost


class Patience:
    """Counts the evaluations of each replicate since its validation cost was lowest.

    A replicate is done when it has waited ``patience`` evaluations. The cell stops when all replicates are done, so it
    stops at the last of the steps at which its replicates would stop alone.

    Args:
        config: When to stop.
        replicates: Number of replicates R.
        state: A result of :meth:`state` to resume from.
    """

    def __init__(self, config: ValidationCost, replicates: int, state: Array | None = None) -> None:
        self._config = config
        self._lowest, self._waited = np.array([[np.inf] * replicates, [0.0] * replicates] if state is None else state)

    def add(self, costs: Array) -> None:
        """Count an evaluation.

        Args:
            costs: Validation cost of each replicate [R]. A cost that is not finite is no improvement.
        """
        waits = self._waited < self._config.patience
        improves = waits & np.isfinite(costs) & (costs < self._lowest - self._config.min_delta)
        self._waited += waits
        self._waited[improves] = 0
        self._lowest[improves] = costs[improves]

    def is_over(self) -> bool:
        """Return whether all replicates are done."""
        return bool((self._waited >= self._config.patience).all())

    def state(self) -> Array:
        """Return the lowest costs, and the evaluations since then [2, R]."""
        return np.array([self._lowest, self._waited])
