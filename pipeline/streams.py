"""Standard output and error that may be closed, full, without a reader, or in an encoding with few characters."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

REPLACEMENT = "\ufffd"
LAYOUT = "\n\t"
SPELLED = {  # how to write the project's signs in an encoding without them
    **{"α": "alpha", "δ": "delta", "η": "eta", "θ": "theta", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu"},
    **{"π": "pi", "σ": "sigma", "χ": "chi", "ψ": "psi", "Δ": "Delta ", "Σ": "sum ", "∇": "grad ", "∂": "d"},
    **{"√": "sqrt", "∞": "inf", "²": "^2", "³": "^3", "ᵀ": "^T", "₀": "0", "₁": "1", "⊙": "*", "·": "*", "×": "x"},
    **{"±": "~", "−": "-", "–": "-", "…": "...", "→": "->", "≥": ">=", "≤": "<=", "≠": "!=", "‖": "|"},
    **{"⟨": "<", "⟩": ">", "█": "#"},
}


class Output:
    """A stream that drops its text as soon as it cannot be written, for a command's work is worth more than its output.

    Args:
        stream: The stream.

    Attributes:
        error: Why text was dropped; None if all was written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text, and return its length."""
        try:
            return self._stream.write(text)
        except OSError as failure:
            self._drop(failure)
            return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._stream.flush()
        except OSError as failure:
            self._drop(failure)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def is_full(self) -> bool:
        """Whether text was dropped that somebody would have read: for any reason but a reader that ended."""
        return self.error is not None and self.error.errno != errno.EPIPE

    def _drop(self, failure: OSError) -> None:
        """Let the stream lead nowhere. Text in its buffer would fail again when Python ends."""
        self.error = self.error or failure
        _lead_nowhere(self._stream.fileno())


@contextmanager
def guarded() -> Iterator[Output]:
    """Let no print fail: guard standard output and error, and yield the first.

    A closed stream leads nowhere, or the next file that is opened, such as a database, would get its number. A
    character that the encoding does not have is spelled (δ: delta), or written as an escape.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    output, errors = Output(_or_nowhere(sys.stdout)), Output(_or_nowhere(sys.stderr))
    sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, errors)
    try:
        yield output
    finally:
        output.flush()
        errors.flush()
        sys.stdout, sys.stderr = before


def printable(text: str) -> str:
    """Return a text with each character replaced that moves the cursor, or hides or reorders text; line ends remain."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in LAYOUT or _is_space(c) else REPLACEMENT for c in text)


def _is_space(character: str) -> bool:
    return unicodedata.category(character) == "Zs"


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Return the text in place of characters that an encoding does not have, as an error handler of ``codecs``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    escaped = (c.encode("ascii", "backslashreplace").decode() for c in characters)
    return "".join(SPELLED.get(c, escape) for c, escape in zip(characters, escaped, strict=True)), error.end


codecs.register_error(_spell.__name__, _spell)


def _or_nowhere(stream: TextIO | None) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 (open until the program ends)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=_spell.__name__)
    return stream


def _open_closed() -> None:
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            _lead_nowhere(number)


def _lead_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(nowhere, number)
        os.close(nowhere)
