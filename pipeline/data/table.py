"""What a source yields: a table of examples as rows."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from engine.arrays import Array


@dataclass(frozen=True)
class Table:
    """Examples as rows.

    Attributes:
        x: inputs, float64 [rows, n_0].
        y: class numbers 0 ... K−1, integer [rows], or targets of a regression, float64 [rows, outputs].
        classes: K, or None for a regression.
        test: how many of the last rows are the source's own test set; 0 if it has none.
    """

    x: Array
    y: Array
    classes: int | None
    test: int = 0

    def digest(self) -> str:
        """SHA-256 over shapes, types and bytes: the same data give the same digest on any machine."""
        sha = hashlib.sha256(f"classes={self.classes} test={self.test}".encode())
        for array in (self.x, self.y):
            little_endian = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            sha.update(f"{little_endian.dtype.str}{little_endian.shape}".encode())
            sha.update(little_endian.tobytes())
        return sha.hexdigest()


class Source(ABC):
    """Where a table comes from. ``varies`` tells whether each replicate draws its own."""

    varies: bool = False

    @abstractmethod
    def load(self, rng: np.random.Generator) -> Table:
        """The table.

        Raises:
            ValueError: what is wrong with the source, in one line.
        """
