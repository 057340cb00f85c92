"""Tables and prepared data in memory, shared by the cells of a sweep."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import numpy as np

from pipeline.data.prepared import Data, DataFacts
from pipeline.data.table import Source, Table

MOST_TABLES = 2  # two sources at a time; a table of Fashion-MNIST takes 440 MB
MOST_BYTES = 2**30  # of prepared data


class TableCache:
    """The tables that were used last. A table is read again when a file of its source has changed.

    Args:
        most: Number of tables.
    """

    def __init__(self, most: int = MOST_TABLES) -> None:
        self._most = most
        self._tables: OrderedDict[Hashable, Table] = OrderedDict()

    def load(self, source: Source, rng: np.random.Generator) -> Table:
        """Return the source's table. A table that was drawn from the generator is not kept.

        Args:
            source: The source.
            rng: The replicate's own generator.

        Raises:
            ValueError: The source is wrong, explained in one line.
        """
        key = (source, repr(source), source.version())  # 0.0 equals -0.0, their texts do not
        if key in self._tables:
            self._tables.move_to_end(key)
            return self._tables[key]
        before = rng.bit_generator.state
        table = source.load(rng)
        if not source.varies and rng.bit_generator.state == before:
            self._tables[key] = table
            while len(self._tables) > self._most:
                self._tables.popitem(last=False)
        return table

    def clear(self) -> None:
        """Forget all tables."""
        self._tables.clear()


class DataCache:
    """Prepared data by key: the last used up to a number of bytes, the newest in any case, and the facts about all.

    Args:
        most_bytes: Bytes of all arrays.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._data: OrderedDict[Hashable, Data] = OrderedDict()
        self._facts: dict[Hashable, DataFacts] = {}

    def get(self, key: Hashable) -> Data | None:
        """Return the data with this key; None if they are not in memory."""
        if key in self._data:
            self._data.move_to_end(key)
        return self._data.get(key)

    def put(self, key: Hashable, data: Data) -> None:
        """Keep data, and drop those that were not used for longest while all together are too large."""
        self._facts[key] = data.facts
        self._data[key] = data
        self._data.move_to_end(key)
        total = sum(each.nbytes for each in self._data.values())
        while total > self._most_bytes and len(self._data) > 1:
            total -= self._data.popitem(last=False)[1].nbytes

    def facts(self, key: Hashable) -> DataFacts | None:
        """Return the facts about the data with this key; None if they have never been in memory."""
        return self._facts.get(key)

    def clear(self) -> None:
        """Forget all data and facts."""
        self._data.clear()
        self._facts.clear()
