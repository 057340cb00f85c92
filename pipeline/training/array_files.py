"""Records and other plain data as arrays in one file, exactly: no pickle, every bit kept, damage noticed.

A file is NumPy's npz, whose parts have checksums. It is written beside its place, synced, and put there in one step, so
a reader finds the old file or the new one, whole.
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
    """A file that is not as it was written."""


def write(path: Path, arrays: Mapping[str, Array], about: Any) -> None:
    """Put arrays and a JSON value into a file, atomically and durably.

    Raises:
        OSError: no place left, no permission; the file is then as it was before.
    """
    content = io.BytesIO()
    note = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    parts: dict[str, Any] = {"about": note, **arrays}
    np.savez(content, **parts)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file, or what a folder lists, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> tuple[dict[str, Array], Any]:
    """What :func:`write` put there.

    Raises:
        CorruptFileError: no such file, cut off, altered.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, json.loads(arrays.pop("about").tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, RecursionError) as broken:
        raise CorruptFileError(f"{path.name}: {type(broken).__name__}") from broken


def pack(records: Sequence[Record]) -> tuple[Array, list[Any]]:
    """All values of records one after the other, and what they are of."""
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
    """The records that :func:`pack` was given.

    Raises:
        CorruptFileError: the two do not fit together.
    """
    try:
        heads, bins = about
        tables = [tuple(b) for b in bins]
        records, at = [], 0
        for step, probe, layers, shape, geometric, which, sparse in heads:
            size = int(np.prod(shape))
            block = values[at : at + size].reshape(shape)
            records.append(
                Record(step, probe, tuple(layers), block, geometric, None if which is None else tables[which], sparse)
            )
            at += size
    except (ValueError, TypeError, IndexError) as broken:
        raise CorruptFileError(f"records: {broken}") from broken
    if at != values.size:
        raise CorruptFileError("records: values are left over")
    return records
