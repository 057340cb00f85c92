"""Commands that run in this process."""

from __future__ import annotations

import contextlib
import io
from typing import NamedTuple

from pipeline.cli import main


class Invocation(NamedTuple):
    """What a command returned and printed."""

    code: int
    out: str
    err: str


def invoke(*argv: str) -> Invocation:
    """Run a command in this process, as ``gradvitals ARGV...`` does."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    return Invocation(code, out.getvalue(), err.getvalue())
