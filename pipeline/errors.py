"""Errors that the user can correct."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(Exception):
    """A wrong input in one line: key, value and what is allowed. The command prints it and exits with 2."""


class RunError(Exception):
    """A run failed while it trained; the message names the run and its last error."""


class StoreError(ConfigError):
    """The store refuses a request or does not respond, explained in one line."""


class StoreAwayError(StoreError):
    """The store does not answer at present, and the caller does not wait for it."""


class DeletedError(StoreError):
    """A run or an experiment was deleted, by another process, while it was used."""


class SupersededError(SystemExit):
    """A later attempt works on a run. The process of the earlier one writes nothing more to it and ends."""


def did_you_mean(wrong: str, allowed: Iterable[str], meant: str | None = None) -> str:
    """Return '; did you mean X?' if a name is known or an allowed one is similar, followed by the allowed names.

    Args:
        wrong: The name that was given.
        allowed: The allowed names.
        meant: What was meant, if it is known.
    """
    options = sorted(allowed)
    if meant is None:
        by_lower = {option.lower(): option for option in reversed(options)}
        similar = difflib.get_close_matches(wrong.lower(), by_lower, n=1, cutoff=0.6)
        meant = by_lower[similar[0]] if similar else None
    hint = f"; did you mean {meant}?" if meant else ""
    return f"{hint} (allowed: {', '.join(options) or 'none'})"
