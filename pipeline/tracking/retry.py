"""Retry store calls that fail transiently; report permanent failures at once.

A call may be tried twice though the first try had done its work (a reply can be lost), so whatever is called through
here must be the same done once or twice.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.errors import ConfigError, StoreError
from pipeline.tracking.uri import redact

T = TypeVar("T")
SECONDS = 120.0
VARIABLE = "GRADVITALS_STORE_PATIENCE"
UNTOLD = 2.0  # a hiccup shorter than this is nobody's business
LONGEST_PAUSE = 5.0
FOR_GOOD = (  # no amount of retry mends these; the first that a failure's text has is told
    ("readonly database", "the store is read-only"),
    ("read-only file system", "the store is read-only"),
    ("read-only transaction", "the store is read-only"),
    ("database or disk is full", "the disk is full"),
    ("no space left", "the disk is full"),
    ("disk quota exceeded", "the disk is full"),
    ("disk i/o error", "the disk fails"),
    ("permission denied", "permission denied"),
    ("unable to open database file", "the database cannot be opened"),
    ("password authentication failed", "the password is wrong"),
)
PASSING = (
    "database is locked",
    "database table is locked",
    "failed with exception",  # MLflow's words for: no answer, or half of one
    "failed with timeout exception",
    "not in a valid json format",
)
FOR_A_TIME = (
    ("locked", "the database is locked"),
    ("connection refused", "connection refused"),
    ("timed out", "no answer in time"),
    ("incompleteread", "a reply was cut off"),
    ("chunkedencoding", "a reply was cut off"),
    ("valid json", "a reply was cut off"),
    ("connection reset", "the connection was cut"),
    ("remote end closed", "the connection was cut"),
    ("connection aborted", "the connection was cut"),
)
log = logging.getLogger("gradvitals")


@dataclass
class RetryPolicy:
    """How long to try again, and what has been said about it.

    Args:
        seconds: how long a store that does not answer is waited for.
        who: the store's address, for messages.
    """

    seconds: float
    who: str
    _gone: bool = False
    _deadline: float | None = field(default=None, repr=False)

    def set_deadline(self, seconds: float) -> None:
        """From now on everything together may take this long: somebody wants to leave."""
        self._deadline = time.monotonic() + seconds

    def call(self, function: Callable[[], T], before_retry: Callable[[], T | None] = lambda: None) -> T:
        """The function's value, tried again while the store does not answer.

        Args:
            function: the call.
            before_retry: asked before each further try; a value other than None is the answer.

        Raises:
            StoreError: the store did not answer in time, or refused in a way that does not pass.
        """
        began, pause, told, tries, outside = time.monotonic(), 0.1, False, 0, sys.exc_info()[1]
        while True:
            if tries:  # a first try is always made, however little time there is
                self._not_too_late()
            try:
                value = before_retry() if tries else None
                if value is None:
                    value = function()
            except Exception as failure:
                tries += 1
                found = origins(failure, outside)
                reason = why(found)
                if not is_transient(found):
                    if is_permanent(found):
                        raise StoreError(f"{self.who}: {reason}") from None
                    raise
                waited = time.monotonic() - began
                if self._gone or waited + pause > self.seconds:
                    self._gone = True
                    raise StoreError(f"{self.who}: did not answer for {waited:.0f} s ({reason})") from None
                if not told and waited + pause >= min(UNTOLD, self.seconds / 2):
                    told = True
                    notify(f"the store does not answer ({reason}); trying again for up to {self.seconds:.0f} s")
                time.sleep(self._short(pause))
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._gone = False
                if told:
                    notify(f"the store answers again, after {time.monotonic() - began:.0f} s")
                return value

    def _not_too_late(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise StoreError(f"{self.who}: did not answer in time")

    def _short(self, pause: float) -> float:
        return pause if self._deadline is None else max(0.0, min(pause, self._deadline - time.monotonic()))


def seconds() -> float:
    """How long to be patient: ``GRADVITALS_STORE_PATIENCE``, or two minutes.

    Raises:
        ConfigError: it is no number of seconds.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        value = float(text) if text else SECONDS
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{VARIABLE}={text}: must be a number of seconds >= 0")
    return value


def notify(message: str) -> None:
    """One line for the run's log and for whoever looks on."""
    if log.hasHandlers():
        log.warning("%s", message)
    print(f"gradvitals: {message}", file=sys.stderr, flush=True)


@contextmanager
def ignore_store_errors(what: str) -> Iterator[None]:
    """Something that would be good to have in the store; if it refuses, that is told, not raised."""
    try:
        yield
    except StoreError as refused:
        notify(f"{what}: {refused}")


def origins(failure: BaseException, outside: BaseException | None = None) -> list[BaseException]:
    """A failure, and what it came from, but not what was being dealt with outside; MLflow keeps some in arguments."""
    found: list[BaseException] = []
    left: list[object] = [failure]
    while left:
        one = left.pop(0)
        if isinstance(one, BaseException) and one is not outside and all(one is not other for other in found):
            found.append(one)
            left += [one.__cause__, one.__context__, *one.args]
    return found


def texts(found: Sequence[BaseException]) -> str:
    """The first lines (behind them come statements and their values), in lower case."""
    return " ".join(str(one).strip().partition("\n")[0] for one in found).lower()


def why(found: Sequence[BaseException]) -> str:
    """A failure in a few words, without secrets."""
    text = texts(found)
    words = next((words for sign, words in (*FOR_GOOD, *FOR_A_TIME) if sign in text), None)
    if status := re.search(r"too many (\d{3}) error responses", text):
        words = f"the server answers {status[1]}"
    return words or redact(str(found[0]).strip().partition("\n")[0])[:200] or type(found[0]).__name__


def is_permanent(found: Sequence[BaseException]) -> bool:
    """Whether no amount of retry helps."""
    text = texts(found)
    return any(sign in text for sign, _ in FOR_GOOD)


def is_transient(found: Sequence[BaseException]) -> bool:
    """Whether trying again may help. Told by names: this module must not load what defines these classes."""
    text = texts(found)
    return not is_permanent(found) and (
        any(sign in text for sign in PASSING) or any(_is_transient(one, text) for one in found)
    )


def _is_transient(one: BaseException, text: str) -> bool:
    module, name = type(one).__module__.partition(".")[0], type(one).__name__
    if module == "requests":
        status = getattr(getattr(one, "response", None), "status_code", None) or 0
        return name in ("ConnectionError", "ChunkedEncodingError", "ReadTimeout", "ConnectTimeout") or status >= 500
    if module == "sqlalchemy":
        return name in ("OperationalError", "InterfaceError") and "sqlite3" not in text
    if module == "mlflow":
        return _server_error(one)
    return isinstance(one, (ConnectionError, TimeoutError))


def _server_error(failure: BaseException) -> bool:
    """An answer of a server (not of a database of ours) with a status of 5xx or "too many requests"."""
    of_server = type(failure).__name__ == "RestException" or "failed with error code" in str(failure)
    status = getattr(failure, "get_http_status_code", lambda: 0)()
    return of_server and (status >= 500 or status == 429)
