"""Sources of data, and the tables that they load."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from engine.arrays import Array
from pipeline.data.description import TableDescription


class TableError(ValueError):
    """A table cannot be read without a guess, explained in one line that begins with the key of its source."""


@dataclass(frozen=True)
class Table:
    """Examples as rows.

    Attributes:
        x: Inputs, float64 [rows, n_0].
        y: Class numbers 0 ... K−1, integer [rows], or targets of a regression, float64 [rows, outputs].
        classes: K, or None for a regression.
        test: Number of last rows that are the source's own test set; 0 if it has none.
        description: How the table came out of its file; None for a source without one.
    """

    x: Array
    y: Array
    classes: int | None
    test: int = 0
    description: TableDescription | None = None

    def digest(self) -> str:
        """Return the SHA-256 of shapes, types and bytes, equal on every machine. It is computed once."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        sha = hashlib.sha256(f"classes={self.classes} test={self.test}".encode())
        for array in (self.x, self.y):
            little_endian = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            sha.update(f"{little_endian.dtype.str}{little_endian.shape}".encode())
            sha.update(little_endian.tobytes())
        return sha.hexdigest()


class Source(ABC):
    """A source of a table.

    Attributes:
        varies: Whether each replicate draws its own table.
    """

    varies: bool = False

    def version(self) -> Hashable:
        """Return a value that changes when a file of the source changes. A source without files has one version."""
        return None

    @abstractmethod
    def load(self, rng: np.random.Generator) -> Table:
        """Load the table.

        Args:
            rng: The replicate's own generator.

        Raises:
            ValueError: The source is wrong, explained in one line.
        """


def file_versions(paths: Iterable[Path]) -> Hashable:
    """Return path, time of the last change and size of the files that exist."""
    stats = [(str(path), path.stat()) for path in paths if path.is_file()]
    return tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in stats)
