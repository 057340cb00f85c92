"""Records and other plain data as arrays in one file: exact, without pickle, with damage detected.

A file is NumPy's npz, whose parts have checksums. It is written to a temporary name, synced and renamed, so a reader
sees the old file or the new one, whole.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.arrays import Array
from pipeline.training.records import Record


class CorruptFileError(Exception):
    """A file is missing or differs from what was written."""


def write(path: Path, arrays: Mapping[str, Array], about: Any, is_synced: bool = True) -> None:
    """Write arrays and a JSON value to a file, atomically.

    Args:
        path: The file.
        arrays: Arrays by name.
        about: A JSON value.
        is_synced: Whether to flush the file to the disk. Without it, the caller calls :func:`sync` later.

    Raises:
        OSError: The disk is full or access is denied. The old file is then unchanged.
    """
    content = io.BytesIO()
    note = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    parts: dict[str, Any] = {"about": note, **arrays}
    np.savez(content, **parts)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content.getbuffer())
            if is_synced:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if is_synced:
        sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file or the entries of a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> tuple[dict[str, Array], Any]:
    """Return the arrays and the JSON value of a file that :func:`write` wrote.

    Raises:
        CorruptFileError: The file is missing, truncated or altered.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, json.loads(arrays.pop("about").tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, RecursionError) as broken:
        raise CorruptFileError(f"{path.name}: {type(broken).__name__}") from broken


def pack(records: Sequence[Record]) -> tuple[Array, list[Any]]:
    """Return all values of records in one array, and a JSON value with everything else."""
    bins: dict[tuple[int, ...], int] = {}
    heads = [
        [
            r.step,
            r.probe,
            list(r.layers),
            list(r.values.shape),
            r.geometric,
            None if r.bins is None else bins.setdefault(r.bins, len(bins)),
            r.sparse,
        ]
        for r in records
    ]
    values = np.concatenate([r.values.ravel() for r in records]) if records else np.empty(0)
    return values.astype(np.float64, copy=False), [heads, [list(b) for b in bins]]


def unpack(values: Array, about: Any) -> list[Record]:
    """Return the records that :func:`pack` packed.

    Args:
        values: The array of values.
        about: The JSON value.

    Raises:
        CorruptFileError: The two do not fit together.
    """
    try:
        heads, bins = about
        tables = [tuple(b) for b in bins]
        records, start = [], 0
        for step, probe, layers, shape, geometric, table, sparse in heads:
            size = int(np.prod(shape))
            block = values[start : start + size].reshape(shape)
            records.append(
                Record(step, probe, tuple(layers), block, geometric, None if table is None else tables[table], sparse)
            )
            start += size
    except (ValueError, TypeError, IndexError) as broken:
        raise CorruptFileError(f"records: {broken}") from broken
    if start != values.size:
        raise CorruptFileError(f"records: {values.size - start} values too many")
    return records
