"""The one kind of error that is the user's to mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(Exception):
    """A wrong input, told in one line: what, where, what is allowed. The command prints it and exits with 2."""


class StoreError(ConfigError):
    """The store refuses, or does not answer any more; told in one line."""


def did_you_mean(wrong: str, allowed: Iterable[str]) -> str:
    """'; did you mean X?' when something allowed is close to ``wrong``, then what is allowed."""
    options = sorted(allowed)
    close = difflib.get_close_matches(wrong, options, n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{hint} (allowed: {', '.join(options) or 'none'})"
