"""Read a CSV file whose dialect is known, and refuse one that does not fit the dialect.

pandas guesses where a file contradicts itself: it shifts the columns of rows that are wider than the header, fills
shorter rows, and renames repeated columns. Python's csv module reads the file first, for its widths and names alone.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import lzma
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

from engine.arrays import Array
from pipeline.data.table import TableError

WORDS: Mapping[str, str] = {
    "comma": ",",
    "semicolon": ";",
    "tab": "\t",
    "\\t": "\t",
    "space": " ",
    "pipe": "|",
    "colon": ":",
    "point": ".",
    "apostrophe": "'",
}
WHITESPACE = "whitespace"  # a separator: one or more spaces or tabs
OPENERS: Mapping[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
NUMBER = re.compile(r"[+-]?([0-9]+[.,]?[0-9]*|[.,][0-9]+)([eE][+-]?[0-9]+)?")
NO_NAME = re.compile(r"Unnamed: [0-9]+(\.[0-9]+)?")  # of pandas


def word_of(character: str) -> str:
    """Return the word for a character that is hard to type on a command line; other characters as they are."""
    return next((word for word, meant in WORDS.items() if meant == character), character)


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written.

    Args:
        separator: Between the values of a line: a character, a word of ``WORDS``, or "whitespace".
        decimal: Between the digits of a number.
        thousands: Between groups of digits; None for nothing.
        encoding: The text encoding, as Python names it.
        header: Whether the first line has the names of the columns; None refuses a first line that leaves it open.
        missing_values: Texts that mean a missing value, besides the empty one.
        comment: Character after which the rest of a line is ignored; None for none.

    Raises:
        ValueError: A character is none, or has two meanings.
    """

    separator: str
    decimal: str
    thousands: str | None
    encoding: str
    header: bool | None
    missing_values: tuple[str, ...]
    comment: str | None

    def __post_init__(self) -> None:
        for name in ("separator", "decimal", "thousands", "comment"):
            value = getattr(self, name)
            character = WORDS.get(value, value)
            object.__setattr__(self, name, character)
            if character is None or (name == "separator" and character == WHITESPACE):
                continue
            if len(character) != 1 or character in '"\r\n' or (name != "comment" and character.isalnum()):
                words = [*WORDS, WHITESPACE] if name == "separator" else [*WORDS]
                raise ValueError(f"{name}={value}: must be one character or one of {', '.join(words)}")
        if self.decimal == self.thousands:
            raise ValueError(f"decimal={word_of(self.decimal)}: thousands is the same character")
        if self.comment is not None and self.comment in (self.separator, self.decimal, self.thousands):
            raise ValueError(f"comment={self.comment}: must differ from separator, decimal and thousands")
        try:
            codecs.lookup(self.encoding)
        except (LookupError, ValueError):
            raise ValueError(f"encoding={self.encoding}: unknown; for example utf-8, latin-1, cp1252, utf-16") from None


@dataclass(frozen=True)
class CsvText:
    """A file that fits its dialect.

    Attributes:
        frame: One column of numbers or texts for each column that has a name.
        lines: The line of each row in the file, from 1.
        unnamed: Positions, from 1, of columns without a name, which are left out.
    """

    frame: pd.DataFrame
    lines: Array
    unnamed: Sequence[int]


def read_csv(path: Path, dialect: Dialect) -> CsvText:
    """Read a file.

    Raises:
        TableError: The file does not fit the dialect. The message names the line, and the key that helps.
        OSError: The file cannot be read.
    """
    try:
        names, lines = _structure(path, dialect)
    except UnicodeDecodeError as wrong:
        raise TableError(_encoding_advice(path, dialect, wrong)) from None
    except csv.Error as wrong:
        raise TableError(f"path={path}: cannot be read as CSV ({wrong})") from None
    with _open(path, dialect) as file:
        frame = pd.read_csv(
            file,
            sep=r"\s+" if dialect.separator == WHITESPACE else dialect.separator,
            decimal=dialect.decimal,
            thousands=dialect.thousands,
            comment=dialect.comment,
            header=None if dialect.header is False else 0,
            names=list(range(len(names))),
            index_col=False,
            skipinitialspace=True,
            keep_default_na=False,
            na_values=["", *dialect.missing_values],
            low_memory=False,
        )
    if len(frame) != len(lines):
        raise TableError(f"path={path}: has {len(lines)} or {len(frame)} rows, depending on its quotes and comments")
    unnamed = [position for position, name in enumerate(names, start=1) if not name]
    _check_unnamed(path, frame, unnamed)
    named = frame[[i for i, name in enumerate(names) if name]]
    named.columns = pd.Index([name for name in names if name])
    return CsvText(named, np.asarray(lines), unnamed)


def _structure(path: Path, dialect: Dialect) -> tuple[list[str], array[int]]:
    """Return the names of the columns and the line of each row; check that all rows are as wide as the first."""
    lines = array("L")
    names: list[str] = []
    with _open(path, dialect) as file:
        separator = " " if dialect.separator == WHITESPACE else dialect.separator
        reader = csv.reader(_lines(file, dialect), delimiter=separator, skipinitialspace=True)
        for fields in reader:
            if not fields or (len(fields) == 1 and not fields[0].strip()):
                continue
            if not names:
                names = _names(path, dialect, fields)
                if dialect.header is not False:
                    continue
            if len(fields) != len(names):
                raise TableError(_width_advice(path, dialect, reader.line_num, len(fields), len(names)))
            lines.append(reader.line_num)
    if not names:
        raise TableError(f"path={path}: is empty")
    return names, lines


def _open(path: Path, dialect: Dialect) -> TextIO:
    encoding = "utf-8-sig" if codecs.lookup(dialect.encoding).name == "utf-8" else dialect.encoding
    opener = OPENERS.get(path.suffix, open)
    file: TextIO = opener(path, "rt", encoding=encoding, newline="")
    return file


def _lines(file: TextIO, dialect: Dialect) -> Iterator[str]:
    """Yield the lines without their comments."""
    for line in file:
        if dialect.comment is not None and dialect.comment in line:
            line = _without_comment(line, dialect.comment)
        if dialect.separator == WHITESPACE:
            line = " ".join(line.split())
        yield line


def _without_comment(line: str, comment: str) -> str:
    start = -1
    while (start := line.find(comment, start + 1)) >= 0:
        if line.count('"', 0, start) % 2 == 0:
            return line[:start]
    return line


def _names(path: Path, dialect: Dialect, first: Sequence[str]) -> list[str]:
    """Return the names in the first line."""
    if dialect.header is False:
        return [f"column_{number}" for number in range(1, len(first) + 1)]
    names = [name.strip() for name in first]
    if dialect.header is None and _looks_like_data(names):
        raise TableError(
            f"path={path}: the first line holds numbers only; allowed: data.source.header=false (it is the first row, "
            "the columns are column_1, column_2, ...), data.source.header=true (it names the columns)"
        )
    repeated = [name for name, count in Counter(name for name in names if name).items() if count > 1]
    if repeated:
        places = " and ".join(str(i) for i, name in enumerate(names, start=1) if name == repeated[0])
        advice = "; perhaps data.source.header=false, if the first line is a row" * bool(NUMBER.fullmatch(repeated[0]))
        raise TableError(
            f"path={path}: the name {repeated[0]!r} is that of columns {places}; names must differ{advice}"
        )
    return names


def _looks_like_data(names: Sequence[str]) -> bool:
    numbers = [name for name in names if NUMBER.fullmatch(name)]
    counted = [str(i) for i in range(len(names) + 1)]
    return bool(numbers) and len(numbers) == len([n for n in names if n]) and names not in (counted[:-1], counted[1:])


def _width_advice(path: Path, dialect: Dialect, line: int, width: int, expected: int) -> str:
    first = "the first row" if dialect.header is False else "the header"
    used = word_of(dialect.separator)
    advice = separator_advice(path, dialect) if expected == 1 else ""
    advice = advice or f"; a value that contains the separator ({used}) must be in double quotes"
    return f"path={path}: line {line} has {width} values, {first} has {expected}{advice}"


def _encoding_advice(path: Path, dialect: Dialect, wrong: UnicodeDecodeError) -> str:
    with OPENERS.get(path.suffix, open)(path, "rb") as file:
        start = file.read(4)
    utf_16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    better = "utf-16" if utf_16 else "cp1252" if codecs.lookup(dialect.encoding).name == "utf-8" else "utf-8"
    return f"encoding={dialect.encoding}: {path} is not in it ({wrong.reason}); perhaps data.source.encoding={better}"


def _check_unnamed(path: Path, frame: pd.DataFrame, unnamed: Sequence[int]) -> None:
    """Check that columns without a name hold what may be left out: an index in the first column, or nothing."""
    for position in unnamed:
        if position > 1 and not frame[position - 1].isna().all():
            raise TableError(f"path={path}: column {position} has no name in the header, but values in its rows")


def separator_advice(path: Path, dialect: Dialect) -> str:
    """Return '; perhaps data.source.separator=...' if the first line has one column with this separator only."""
    with _open(path, dialect) as file:
        first = next((line for line in _lines(file, dialect) if line.strip()), "")
    counts = {c: first.count(c) for c in (";", "\t", "|", ",") if c != dialect.separator}
    best = max(counts, key=lambda c: counts[c])
    if counts[best]:
        return f"; perhaps data.source.separator={word_of(best)}"
    return f"; perhaps data.source.separator={WHITESPACE}" if len(first.split()) > 1 else ""
