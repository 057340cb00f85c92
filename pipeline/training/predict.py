"""What a trained network says about inputs in the units of their source."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from engine.arrays import Array
from engine.network import Network
from pipeline.data.description import TableDescription
from pipeline.errors import ConfigError
from pipeline.training.prepare import PreparedRun
from pipeline.training.trainer import CHUNK


def outputs(network: Network, run: PreparedRun, inputs: Any) -> Array:
    """Return the outputs a^L of each replicate [R, N, n_L], in the scale of the training.

    Args:
        network: The trained network [R].
        run: Its config; its data give the standardisation of each replicate.
        inputs: Inputs [N, n_0] as the source has them, or a table with the source's columns.

    Raises:
        ConfigError: The inputs do not fit the source.
    """
    description = run.data.description
    x = _checked(inputs, run.sizes[0], None if description is None else description.table)
    scaled = [x if own.inputs is None else own.inputs.apply(x) for own in run.data.scaling]
    stacked = np.stack(scaled).astype(network.dtype)  # [R, N, n_0]
    chunks = range(0, max(len(x), 1), CHUNK)
    parts = [network.forward(stacked[:, i : i + CHUNK].mT, training=False).mT.copy() for i in chunks]
    return np.concatenate(parts, axis=1)


def predictions(network: Network, run: PreparedRun, inputs: Any) -> Array:
    """Return what each replicate predicts.

    Args:
        network: The trained network [R].
        run: Its config; its data give the standardisation of each replicate.
        inputs: Inputs [N, n_0] as the source has them, or a table with the source's columns.

    Returns:
        For classes, [R, N]: the class of the largest output, by its label if the source has labels, otherwise by its
        number. For a regression, the targets in the units of the source: [R, N] for one target, else [R, N, n_L].

    Raises:
        ConfigError: The inputs do not fit the source.
    """
    a, data = outputs(network, run, inputs), run.data
    if data.classes is not None:
        table = None if data.description is None else data.description.table
        numbers = a.argmax(axis=-1)
        return np.array(table.labels)[numbers] if table is not None and table.labels else numbers
    targets = np.stack(
        [y if own.targets is None else own.targets.undo(y) for y, own in zip(a, data.scaling, strict=True)]
    )
    return targets[..., 0] if targets.shape[-1] == 1 else targets


def _checked(inputs: Any, count: int, table: TableDescription | None) -> Array:
    """Return the inputs as float64 [N, n_0]."""
    if isinstance(inputs, pd.DataFrame) and table is not None:
        inputs = _columns(inputs, table)
    try:
        x = np.asarray(inputs, dtype=np.float64)
    except (TypeError, ValueError) as wrong:
        raise ConfigError(f"X: must be numbers ({wrong})") from wrong
    if x.ndim != 2 or x.shape[1] != count:
        raise ConfigError(f"X: has shape {x.shape}; must be [examples, {count} inputs]")
    if not np.isfinite(x).all():
        raise ConfigError("X: has a value that is not finite")
    return x


def _columns(frame: pd.DataFrame, table: TableDescription) -> pd.DataFrame:
    """Return the columns that the network was trained on, in their order."""
    for name, inputs in table.columns.items():
        if inputs > 1:
            raise ConfigError(f"X: column {name!r} has {inputs} categories; must be an array of all inputs")
        if name not in frame:
            raise ConfigError(f"X: has no column {name!r}; must have {', '.join(table.columns)}")
    return frame[list(table.columns)]
