"""IDX files, written byte by byte by the specification of LeCun et al. (1998)."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def idx(array: Bytes, kind: int = 8) -> bytes:
    """Return two zero bytes, the type, the number of axes, each axis as a big-endian integer, and the bytes."""
    head = struct.pack(">BBBB", 0, 0, kind, array.ndim) + struct.pack(f">{array.ndim}i", *array.shape)
    return head + bytes(array.ravel().tolist())


def write_idx(
    folder: Path, rng: np.random.Generator, train: int, test: int, side: int = 3, zipped: bool = True
) -> dict[str, Bytes]:
    """Write a training and a test set of random images, and return the arrays by file name."""
    arrays: dict[str, Bytes] = {}
    for part, count in (("train", train), ("t10k", test)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(256, size=(count, side, side)).astype(np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = (np.arange(count) % 5).astype(np.uint8)
    for name, array in arrays.items():
        content = idx(array)
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)
    return arrays
