"""Write a run's records to a parquet file as they come, so that a long run does not hold them in memory."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.training.records import Record, tidy

ROWS, RECORDS = 10_000, 1000  # of a row group; whichever is reached first


class RecordWriter:
    """Writes the file that ``tidy(records).to_parquet`` writes, in several row groups.

    As a context manager it removes a file that is not finished.

    Args:
        path: The file. It is created with the first row group.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: list[Record] = []
        self._rows = 0
        self._parquet: Any = None
        self._is_finished = False

    def __enter__(self) -> RecordWriter:
        """Return this writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_finished:
            return
        self._records.clear()
        if self._parquet is not None:
            with contextlib.suppress(Exception):  # the disk may be full
                self._parquet.close()
        self.path.unlink(missing_ok=True)

    def add(self, record: Record) -> None:
        """Add the next record. Write a row group if there are enough of them.

        Raises:
            OSError: The disk is full or access is denied.
        """
        self._records.append(record)
        self._rows += record.values.size
        if self._rows >= ROWS or len(self._records) >= RECORDS:
            self._write_row_group()

    def finish(self) -> None:
        """Write the remaining records and complete the file.

        Raises:
            OSError: The disk is full or access is denied.
        """
        if self._records:
            self._write_row_group()
        if self._parquet is None:
            tidy([]).to_parquet(self.path, index=False)
        else:
            self._parquet.close()
        self._is_finished = True

    def _write_row_group(self) -> None:
        table = pa.Table.from_pandas(tidy(self._records), preserve_index=False)
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(self.path, table.schema)
        self._parquet.write_table(table)
        self._records, self._rows = [], 0
