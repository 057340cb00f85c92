"""MNIST and its relatives: four files in the IDX format in a folder, gzipped or not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.arrays import Array
from pipeline.data.table import Source, Table, file_versions

UNSIGNED_BYTE = 8
PARTS = ("train", "t10k")


@dataclass(frozen=True)
class Idx(Source):
    """Images and labels of a training and a test set; pixels scaled to [0, 1].

    Files ``{train,t10k}-{images-idx3,labels-idx1}-ubyte`` with or without ``.gz``. Format: two zero bytes, the type
    (8: unsigned byte), the number of axes, each axis as a big-endian 32-bit integer, the bytes (LeCun et al., 1998).

    Args:
        folder: The folder of the files.
        hint: Where a user can get the files, for the error message.
    """

    folder: str
    hint: str

    def version(self) -> Hashable:
        names = [f"{part}-{kind}-ubyte" for part in PARTS for kind in ("images-idx3", "labels-idx1")]
        return file_versions(path for name in names for path in self._paths(name))

    def load(self, rng: np.random.Generator) -> Table:
        images = [self._read(f"{part}-images-idx3-ubyte", axes=3) for part in PARTS]
        labels = [self._read(f"{part}-labels-idx1-ubyte", axes=1) for part in PARTS]
        for i, n in zip(images, labels, strict=True):
            if len(i) != len(n):
                raise ValueError(f"folder={self.folder}: {len(i)} images but {len(n)} labels")
        if images[0].shape[1:] != images[1].shape[1:]:
            raise ValueError(f"folder={self.folder}: training and test images differ in size")
        x = np.concatenate(images)
        y = np.concatenate(labels).astype(np.int64)
        return Table(x.reshape(len(x), -1) / 255.0, y, classes=int(y.max()) + 1, test=len(labels[1]))

    def _paths(self, name: str) -> list[Path]:
        folder = Path(self.folder).expanduser()
        return [folder / name, folder / f"{name}.gz"]

    def _read(self, name: str, axes: int) -> Array:
        for path in self._paths(name):
            if path.is_file():
                break
        else:
            raise ValueError(f"folder={self.folder}: no {name}[.gz] there; {self.hint}")
        try:
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        except (OSError, EOFError, zlib.error) as broken:
            raise ValueError(f"folder={self.folder}: cannot read {path.name}: {broken}") from broken
        return _parse(content, axes, path)


def _parse(content: bytes, axes: int, path: Path) -> Array:
    start = 4 + 4 * axes
    if len(content) < start or content[:4] != bytes((0, 0, UNSIGNED_BYTE, axes)):
        raise ValueError(f"folder={path.parent}: {path.name} is not an IDX file of unsigned bytes with {axes} axes")
    shape = tuple(int(n) for n in np.frombuffer(content, ">i4", axes, offset=4))
    if len(content) != start + int(np.prod(shape)):
        raise ValueError(f"folder={path.parent}: {path.name} should hold {shape} bytes, has {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
