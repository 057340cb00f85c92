"""Prepare a source's table for training: split, subset, standardise, encode classes, pool the rows of replicates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from engine.arrays import Array
from pipeline.data.cache import TableCache
from pipeline.data.description import DataDescription
from pipeline.data.prepared import Data as Data
from pipeline.data.scaling import Scaling, Standardisation
from pipeline.data.table import Source, Table

TABLES = TableCache()


@dataclass(frozen=True)
class DataConfig:
    """How a source is split into a training set, a validation set and a test set.

    Args:
        source: The source of the table.
        test_fraction: Share of rows held out at random, in [0, 1); 0 for no test set, None for the source's own.
        subset: Number of training rows, chosen at random; None for all. The other sets stay whole.
        standardise: Whether inputs and regression targets get mean 0 and variance 1, fitted on the training rows.
        validation_fraction: Share of the rows outside the test set that are held out at random for validation, in
            [0, 1); 0 for no validation set.

    Raises:
        ValueError: A value is outside its range.
    """

    source: Source
    test_fraction: float | None
    subset: int | None
    standardise: bool
    validation_fraction: float = 0.0  # absent from configs that older versions logged

    def __post_init__(self) -> None:
        if self.test_fraction is not None and not 0 <= self.test_fraction < 1:
            raise ValueError(f"test_fraction={self.test_fraction}: must be in [0, 1), or null for the source's own")
        if self.subset is not None and self.subset < 1:
            raise ValueError(f"subset={self.subset}: must be >= 1, or null for all")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction={self.validation_fraction}: must be in [0, 1)")


def prepare(config: DataConfig, rngs: Sequence[np.random.Generator], dtype: DTypeLike) -> Data:
    """Load, split and scale. All randomness of replicate k comes from rngs[k].

    Replicates with the same scaled rows share them in memory.

    Args:
        config: The source and its split.
        rngs: One generator per replicate.
        dtype: Type of inputs and targets.

    Raises:
        ValueError: One line that starts with the wrong key.
    """
    shared = None if config.source.varies else _load(config.source, rngs[0])
    pools: dict[bytes, int] = {}
    scalings: dict[bytes, Scaling] = {}
    scaling: list[Scaling] = []
    xs: list[Array] = []
    ys: list[Array] = []
    splits: list[Split] = []
    digests: list[str] = []
    rows = 0
    for rng in rngs:
        table = _load(config.source, rng) if shared is None else shared
        if shared is None or not digests:
            digests.append(table.digest())
        split = _split(table, config, rng)
        used = np.arange(len(table.x)) if config.subset is None else np.sort(np.concatenate(split))
        key = hashlib.sha256(digests[-1].encode() + np.sort(split.train).tobytes() + used.tobytes()).digest()
        if key not in pools:
            scalings[key] = _fit(table, split.train, config.standardise)
            x, y = _scale(table, used, scalings[key])
            pools[key] = rows
            xs.append(x.astype(dtype))
            ys.append(y.astype(dtype))
            rows += len(used)
        scaling.append(scalings[key])
        splits.append(Split(*(np.searchsorted(used, part) + pools[key] for part in split)))
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    x, y = (parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in (xs, ys))
    train, validation, test = (np.stack(parts) for parts in zip(*splits, strict=True))
    data = Data(x, y, train, validation, test, table.classes, digest, scaling=scaling)
    return replace(data, description=_describe(table, data))


def _load(source: Source, rng: np.random.Generator) -> Table:
    try:
        return TABLES.load(source, rng)
    except ValueError as wrong:
        raise ValueError(f"source.{wrong}") from wrong
    except MemoryError as wrong:
        raise ValueError(f"source: does not fit into memory: {wrong}") from wrong


class Split(NamedTuple):
    """Row numbers of the three sets of a replicate. No row is in two of them."""

    train: Array
    validation: Array
    test: Array


def _split(table: Table, config: DataConfig, rng: np.random.Generator) -> Split:
    """Draw the test set, then the validation set from the other rows, then the subset from the rest.

    The test set of a seed is therefore the same for any validation set and subset.
    """
    count = len(table.x)
    if config.test_fraction is None:
        if not table.test:
            raise ValueError("test_fraction=null: this source has no test set of its own; must be in [0, 1)")
        train, test = np.arange(count - table.test), np.arange(count - table.test, count)
    else:
        held_out = round(config.test_fraction * count)
        if not (held_out or config.test_fraction == 0) or held_out >= count:
            raise ValueError(f"test_fraction={config.test_fraction}: leaves one of the sets of {count} rows empty")
        order = rng.permutation(count)
        train, test = order[held_out:], order[:held_out]
    validation = train[:0]
    if config.validation_fraction:
        held_out = round(config.validation_fraction * len(train))
        if not 0 < held_out < len(train):
            share = f"validation_fraction={config.validation_fraction}"
            raise ValueError(f"{share}: leaves one of the sets of {len(train)} rows empty")
        order = rng.permutation(train)
        train, validation = order[held_out:], order[:held_out]
    if config.subset is not None:
        if config.subset > len(train):
            raise ValueError(f"subset={config.subset}: there are only {len(train)} training rows")
        train = rng.permutation(train)[: config.subset]
    return Split(train, validation, test)


def _fit(table: Table, train: Array, standardise: bool) -> Scaling:
    """Return the scaling of inputs, and of the targets of a regression, fitted on the training rows."""
    if not standardise:
        return Scaling(None, None)
    targets = None if table.classes else Standardisation.fit(table.y[train])
    return Scaling(Standardisation.fit(table.x[train]), targets)


def _scale(table: Table, used: Array, scaling: Scaling) -> tuple[Array, Array]:
    """Return inputs and targets of the used rows; classes are one-hot."""
    x, y = table.x[used], table.y[used]
    x = x if scaling.inputs is None else scaling.inputs.apply(x)
    if table.classes:
        return x, np.eye(table.classes)[y]
    return x, y if scaling.targets is None else scaling.targets.apply(y)


def _describe(table: Table, data: Data) -> DataDescription:
    """Describe the data of all replicates; ``table`` is that of the last one."""
    counts: tuple[int, ...] = ()
    baseline = None
    if data.classes is not None:
        counts = tuple(np.bincount(table.y, minlength=data.classes).tolist())
        judged = data.test if data.test.shape[1] else data.train
        shares = [
            data.y[rows, data.y[train].sum(axis=0).argmax()].mean()
            for rows, train in zip(judged, data.train, strict=True)
        ]
        baseline = float(np.mean(shares))
    return DataDescription(
        rows=len(table.x),
        inputs=data.x.shape[1],
        targets=data.y.shape[1],
        train_examples=data.train.shape[1],
        validation_examples=data.validation.shape[1],
        test_examples=data.test.shape[1],
        class_counts=counts,
        baseline=baseline,
        table=table.description,
    )
