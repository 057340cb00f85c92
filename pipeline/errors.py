"""Errors that the user can correct."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(Exception):
    """A wrong input in one line: key, value and what is allowed. The command prints it and exits with 2."""


class StoreError(ConfigError):
    """The store refuses a request or does not respond, explained in one line."""


def did_you_mean(wrong: str, allowed: Iterable[str]) -> str:
    """Return '; did you mean X?' if an allowed name is similar, followed by the allowed names.

    Args:
        wrong: The name that was given.
        allowed: The allowed names.
    """
    options = sorted(allowed)
    similar = difflib.get_close_matches(wrong, options, n=1, cutoff=0.6)
    hint = f"; did you mean {similar[0]}?" if similar else ""
    return f"{hint} (allowed: {', '.join(options) or 'none'})"
