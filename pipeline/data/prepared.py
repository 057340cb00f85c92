"""Prepared data: what training reads, and the facts that need no arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engine.arrays import Array, norm
from pipeline.data.description import DataDescription
from pipeline.data.scaling import Scaling


@dataclass(frozen=True)
class DataFacts:
    """The facts about prepared data that checks and descriptions need, without the arrays.

    Attributes:
        inputs: Number of inputs n_0.
        targets: Number of targets.
        train_examples: Number of training examples of each replicate.
        classes: Number of classes, or None for a regression.
        lowest_target: The smallest target.
        highest_target: The largest target.
        is_finite: Whether all inputs and targets are finite.
        input_rms: √⟨x²⟩ over all inputs and rows.
        has_equal_inputs: Whether all rows have the same inputs.
        has_equal_targets: Whether all rows have the same targets.
        digest: SHA-256 of the source's tables.
        description: What was read.
    """

    inputs: int
    targets: int
    train_examples: int
    classes: int | None
    lowest_target: float
    highest_target: float
    is_finite: bool
    input_rms: float
    has_equal_inputs: bool
    has_equal_targets: bool
    digest: str
    description: DataDescription | None


@dataclass(frozen=True)
class Data:
    """The rows of all replicates, and the row numbers of each replicate's sets.

    Attributes:
        x: Inputs [rows, n_0] in the run's type.
        y: Targets [rows, outputs] in the run's type; classes are one-hot.
        train: Row numbers [R, N_train].
        validation: Row numbers [R, N_validation].
        test: Row numbers [R, N_test].
        classes: Number of classes, or None for a regression.
        digest: SHA-256 of the source's tables.
        description: What was read; None for data from another process.
        scaling: How each replicate's rows were scaled; empty for data from another process.
    """

    x: Array
    y: Array
    train: Array
    validation: Array
    test: Array
    classes: int | None
    digest: str
    description: DataDescription | None = None
    scaling: Sequence[Scaling] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in (self.x, self.y, self.train, self.validation, self.test))

    @cached_property
    def facts(self) -> DataFacts:
        """The facts about these data."""
        x, y = self.x, self.y
        low, high = float(y.min()), float(y.max())
        return DataFacts(
            inputs=x.shape[1],
            targets=y.shape[1],
            train_examples=self.train.shape[1],
            classes=self.classes,
            lowest_target=low,
            highest_target=high,
            is_finite=math.isfinite(low + high) and bool(np.isfinite(x).all()),
            input_rms=float(norm(x, axes=2)) * x.size**-0.5,
            has_equal_inputs=bool((x.min(axis=0) == x.max(axis=0)).all()),
            has_equal_targets=bool((y.min(axis=0) == y.max(axis=0)).all()),
            digest=self.digest,
            description=self.description,
        )
