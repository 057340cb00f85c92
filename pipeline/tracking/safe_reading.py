"""Read untrusted files as plain data, bounded in size, depth and memory. Nothing in them is called.

Every bound is larger than anything this project writes, and small enough to be harmless on any machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from pipeline.config.config_files import check_size
from pipeline.errors import ConfigError
from pipeline.training.records import COLUMNS

LONGEST_TEXT = 64 * 2**20  # bytes
LARGEST = 10**500  # Python refuses to print much larger integers
LONGEST_WORD = 1_000  # bytes of one text in a table
MOST_BYTES = 8 * 2**30  # memory for one table
KINDS = {"probe": str, "quantity": str, "digest": str, "key": str, "value": float, "norm": float}  # others: int
NULLABLE = ("layer", "bin")
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    NotImplementedError,
    OverflowError,
    MemoryError,
    pa.ArrowException,
)


def read_text(path: Path, longest: int = LONGEST_TEXT) -> str:
    """Return the text of a file.

    Args:
        path: The file.
        longest: The most bytes to read.

    Returns:
        The text.

    Raises:
        ConfigError: The file is no plain file, too large, or not UTF-8.
    """
    if path.is_symlink() or not path.is_file():
        raise ConfigError(f"{path.name}: must be a plain file")
    if path.stat().st_size > longest:
        raise ConfigError(f"{path.name}: {path.stat().st_size} bytes; at most {longest} are read")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as failure:
        raise ConfigError(f"{path.name}: must be UTF-8") from failure


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """Return the mapping in a YAML text. It holds texts, numbers, true, false, null, and lists and mappings of them.

    Args:
        text: The YAML text.
        name: The file's name, for messages.

    Returns:
        The mapping.

    Raises:
        ConfigError: The text holds no such mapping, or is too long, too deep, or too large with its aliases expanded.
    """
    check_size(text, name)
    try:
        data = yaml.safe_load(text)
        if not isinstance(data, dict):
            raise ConfigError(f"{name}: must hold a mapping")
        return _plain(data, name)
    except (yaml.YAMLError, ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError) as failure:
        raise ConfigError(f"{name}: is not readable YAML of plain data") from failure


def _plain(data: Any, name: str) -> Any:
    if isinstance(data, dict):
        if not all(isinstance(key, str) for key in data):
            raise ConfigError(f"{name}: keys must be texts")
        return {_plain(key, name): _plain(value, name) for key, value in data.items()}
    if isinstance(data, list):
        return [_plain(value, name) for value in data]
    if isinstance(data, str):
        if "${" in data or data == "???":
            raise ConfigError(f"{name}: {printable(data)}: must be resolved, as every logged config is")
        data.encode()  # raises for a lone surrogate
    elif isinstance(data, int) and abs(data) >= LARGEST:
        raise ConfigError(f"{name}: a whole number of more than {len(str(LARGEST)) - 1} digits")
    elif not (data is None or isinstance(data, (bool, int, float))):
        raise ConfigError(f"{name}: {printable(str(data))}: must be plain data, not {type(data).__name__}")
    return data


def read_table(
    path: Path,
    columns: Sequence[str] = COLUMNS,
    probes: Collection[str] | None = None,
    name: str | None = None,
    most_bytes: int = MOST_BYTES,
) -> pd.DataFrame:
    """Return a table of texts and numbers from a parquet file.

    Metadata of pandas and Arrow in the file, such as indexes and extension types, is ignored.

    Args:
        path: The file.
        columns: The columns that the table must have; others are ignored.
        probes: The probes whose rows are read; None for all rows.
        name: The file's name, for messages.
        most_bytes: The most memory to use. Half of the machine's memory is a bound in any case.

    Returns:
        The table.

    Raises:
        ConfigError: The file holds no such table, or needs too much memory.
    """
    name = name or path.name
    texts = [c for c in columns if KINDS.get(c) is str]
    filters = None if probes is None else pc.field("probe").isin(list(probes))
    try:
        rows = _checked_rows(path, columns, name, most_bytes)
        if not rows:
            return pd.DataFrame({c: pd.Series([], dtype=_dtype(c)) for c in columns})
        table = pq.read_table(
            str(path), columns=list(columns), filters=filters, partitioning=None, read_dictionary=texts
        )
        return pd.DataFrame({c: _column(table[c], c, name, most_bytes) for c in columns})
    except UNREADABLE as failure:
        raise ConfigError(f"{name}: is not readable parquet with {', '.join(columns)}") from failure


def _dtype(column: str) -> str:
    if column in NULLABLE:
        return "Int64"
    return {str: "str", float: "float64"}.get(KINDS.get(column, int), "int64")


def _checked_rows(path: Path, columns: Collection[str], name: str, most_bytes: int) -> int:
    """Return the number of rows, if the file has these columns and fits into memory."""
    if path.is_symlink() or not path.is_file():
        raise ConfigError(f"{name}: must be a plain file")
    with pq.ParquetFile(str(path)) as file:
        rows = file.metadata.num_rows
        schema = file.schema_arrow
        for column in columns:
            if len(schema.get_all_field_indices(column)) != 1:
                raise ConfigError(f"{name}: is not readable parquet with {', '.join(columns)}")
            if rows and not _fits(schema.field(column).type, column):
                raise ConfigError(f"{name}: is not readable parquet with {', '.join(columns)}")
        stored = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
    needed = max(rows * 8 * 3 * len(columns), stored)
    room = min(most_bytes, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    if not 0 <= needed <= room:
        raise ConfigError(f"{name}: {rows} rows need {needed / 2**30:.3g} GiB; at most {room / 2**30:.3g} are read")
    return int(rows)


def _fits(kind: pa.DataType, column: str) -> bool:
    required = KINDS.get(column, int)
    if pa.types.is_null(kind) and column in NULLABLE:
        return True
    if required is str:
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
    return bool(pa.types.is_integer(kind) or (pa.types.is_floating(kind) and required is float))


def _column(column: pa.ChunkedArray, column_name: str, name: str, most_bytes: int) -> Any:
    kind = KINDS.get(column_name, int)
    if kind is str:
        if pa.types.is_dictionary(column.type):
            words = [chunk.dictionary for chunk in column.chunks]
            longest = max((pc.max(pc.binary_length(w)).as_py() or 0 for w in words), default=0)
            if longest > LONGEST_WORD or longest * len(column) > most_bytes:
                raise ConfigError(f"{name}: a text of {longest} bytes; at most {LONGEST_WORD} are read")
            column = column.cast(pa.large_string())
        return pd.array(column.to_pandas(), dtype="str")
    values = column.cast(pa.float64() if kind is float else pa.int64())
    if kind is float:
        return values.to_numpy()
    if column_name not in NULLABLE:
        if values.null_count:
            raise ConfigError(f"{name}: a number is missing")
        return values.to_numpy()
    missing = values.is_null().combine_chunks().to_numpy(zero_copy_only=False)
    return pd.arrays.IntegerArray(values.fill_null(0).to_numpy().copy(), missing.copy())


def printable(text: str, most: int = 80) -> str:
    """Return an untrusted text in a form that is safe to print.

    Args:
        text: The text.
        most: The most characters to keep.

    Returns:
        The text without control characters.
    """
    clean = re.sub(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd]", "�", text)
    return clean if len(clean) <= most else f"{clean[:most]}..."
