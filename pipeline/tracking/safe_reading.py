"""Files that somebody else may have written: plain data only, bounded in size, depth and memory; nothing is called.

What a bound is must be larger than anything this project writes, and small enough that reading it harms no machine.
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

from pipeline.errors import ConfigError
from pipeline.training.records import COLUMNS

LONGEST_CONFIG = 1_000_000  # characters
LONGEST_TEXT = 64 * 2**20  # bytes
LONGEST_SCALAR = 10_000
LARGEST = 10**500  # Python does not even print what is much larger
LONGEST_WORD = 1_000  # of a text in a table
MOST_NODES = 100_000
DEEPEST = 40
MOST_BYTES = 8 * 2**30
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
    """A text file.

    Raises:
        ConfigError: not a plain file, too large, not UTF-8.
    """
    if path.is_symlink() or not path.is_file():
        raise ConfigError(f"{path.name}: must be a plain file")
    if path.stat().st_size > longest:
        raise ConfigError(f"{path.name}: {path.stat().st_size} bytes; at most {longest} are read")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as broken:
        raise ConfigError(f"{path.name}: must be UTF-8") from broken


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """The mapping that a YAML text holds, of plain data: texts, numbers, true, false, null, lists and mappings of them.

    Raises:
        ConfigError: no such mapping; too long, too deep, or too large once its aliases are written out.
    """
    if len(text) > LONGEST_CONFIG:
        raise ConfigError(f"{name}: {len(text)} characters; at most {LONGEST_CONFIG} are read")
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        _count(tree, name, 0, 0)
        node = yaml.safe_load(text)
        if not isinstance(node, dict):
            raise ConfigError(f"{name}: must hold a mapping")
        return _plain(node, name)
    except (yaml.YAMLError, ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError) as broken:
        raise ConfigError(f"{name}: is not readable YAML of plain data") from broken


def _count(node: Any, name: str, depth: int, before: int) -> int:
    """How many nodes there are up to the end of this one, each alias counted as what it stands for."""
    count = before + 1
    if count > MOST_NODES or depth > DEEPEST:
        raise ConfigError(f"{name}: more than {MOST_NODES} values or {DEEPEST} levels")
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > LONGEST_SCALAR:
            raise ConfigError(f"{name}: a value of {len(node.value)} characters; at most {LONGEST_SCALAR} are read")
        return count
    for child in node.value if node is not None else ():
        for part in child if isinstance(child, tuple) else (child,):
            count = _count(part, name, depth + 1, count)
    return count


def _plain(node: Any, name: str) -> Any:
    if isinstance(node, dict):
        if not all(isinstance(key, str) for key in node):
            raise ConfigError(f"{name}: keys must be texts")
        return {_plain(key, name): _plain(value, name) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value, name) for value in node]
    if isinstance(node, str):
        if "${" in node or node == "???":
            raise ConfigError(f"{name}: {printable(node)}: must be resolved, as every logged config is")
        node.encode()  # a lone surrogate is no text
    elif isinstance(node, int) and abs(node) >= LARGEST:
        raise ConfigError(f"{name}: a whole number of more than {len(str(LARGEST)) - 1} digits")
    elif not (node is None or isinstance(node, (bool, int, float))):
        raise ConfigError(f"{name}: {printable(str(node))}: must be plain data, not {type(node).__name__}")
    return node


def read_table(
    path: Path, columns: Sequence[str] = COLUMNS, probes: Collection[str] | None = None, name: str | None = None
) -> pd.DataFrame:
    """A table of texts and numbers from a parquet file; nothing but its columns is believed.

    What pandas and Arrow may have noted in the file about indexes, extension types and the like is not looked at.

    Args:
        columns: the columns it must have; others are not read.
        probes: only rows of these; all by default.
        name: of the file, for messages.

    Raises:
        ConfigError: not such a table, or one that this machine has no room for.
    """
    name = name or path.name
    texts = [c for c in columns if KINDS.get(c) is str]
    filters = None if probes is None else pc.field("probe").isin(list(probes))
    try:
        rows = _checked_rows(path, columns, name)
        if not rows:
            return pd.DataFrame({c: pd.Series([], dtype=_dtype(c)) for c in columns})
        table = pq.read_table(
            str(path), columns=list(columns), filters=filters, partitioning=None, read_dictionary=texts
        )
        return pd.DataFrame({c: _column(table[c], KINDS.get(c, int), c in NULLABLE, name) for c in columns})
    except UNREADABLE as broken:
        raise ConfigError(f"{name}: is not readable parquet with {', '.join(columns)}") from broken


def _dtype(column: str) -> str:
    if column in NULLABLE:
        return "Int64"
    return {str: "str", float: "float64"}.get(KINDS.get(column, int), "int64")


def _checked_rows(path: Path, columns: Collection[str], name: str) -> int:
    if path.is_symlink() or not path.is_file():
        raise ConfigError(f"{name}: must be a plain file")
    with pq.ParquetFile(str(path)) as file:
        rows = file.metadata.num_rows
        there = file.schema_arrow
        for column in columns:
            if len(there.get_all_field_indices(column)) != 1:
                raise ConfigError(f"{name}: is not readable parquet with {', '.join(columns)}")
            if rows and not _fits(there.field(column).type, column):
                raise ConfigError(f"{name}: is not readable parquet with {', '.join(columns)}")
        stored = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
    needed = max(rows * 8 * 3 * len(columns), stored)
    room = min(MOST_BYTES, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    if not 0 <= needed <= room:
        raise ConfigError(f"{name}: {rows} rows need {needed / 2**30:.3g} GiB; at most {room / 2**30:.3g} are read")
    return int(rows)


def _fits(kind: pa.DataType, column: str) -> bool:
    wanted = KINDS.get(column, int)
    if pa.types.is_null(kind) and column in NULLABLE:
        return True
    if wanted is str:
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
    return bool(pa.types.is_integer(kind) or (pa.types.is_floating(kind) and wanted is float))


def _column(column: pa.ChunkedArray, wanted: type, nullable: bool, name: str) -> Any:
    if wanted is str:
        if pa.types.is_dictionary(column.type):
            words = [chunk.dictionary for chunk in column.chunks]
            longest = max((pc.max(pc.binary_length(w)).as_py() or 0 for w in words), default=0)
            if longest > LONGEST_WORD or longest * len(column) > MOST_BYTES:
                raise ConfigError(f"{name}: a text of {longest} bytes; at most {LONGEST_WORD} are read")
            column = column.cast(pa.large_string())
        return pd.array(column.to_pandas(), dtype="str")
    values = column.cast(pa.float64() if wanted is float else pa.int64())
    if wanted is float:
        return values.to_numpy()
    if not nullable:
        if values.null_count:
            raise ConfigError(f"{name}: a number is missing")
        return values.to_numpy()
    missing = values.is_null().combine_chunks().to_numpy(zero_copy_only=False)
    return pd.arrays.IntegerArray(values.fill_null(0).to_numpy().copy(), missing.copy())


def printable(text: str, most: int = 80) -> str:
    """A text of unknown origin as it may be printed: no control characters, not without end."""
    clean = re.sub(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd]", "�", text)
    return clean if len(clean) <= most else f"{clean[:most]}..."
