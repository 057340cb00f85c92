"""Retry store calls that fail transiently; report permanent failures at once.

A reply can be lost after the store did the work. Every call that is retried here must therefore be idempotent.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar, cast

from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception, wait_exponential

from pipeline.errors import ConfigError, DeletedError, StoreAwayError, StoreError
from pipeline.streams import printable
from pipeline.tracking.store_failure import StoreFailure

T = TypeVar("T")
SECONDS = 120.0  # how long to retry by default
VARIABLE = "GRADVITALS_STORE_PATIENCE"
QUIET_SECONDS = 2.0  # shorter trouble is not reported
PAUSE = 10.0  # how long calls that do not wait are left out after one that failed, relative to its duration
log = logging.getLogger("gradvitals")


@dataclass
class RetryPolicy:
    """How long the calls of one store are retried.

    Args:
        seconds: How long to retry a call. After one call has failed for so long, the next calls get one attempt each.
        store: The store's address, for messages.
    """

    seconds: float
    store: str
    _gave_up: bool = False
    _deadline: float | None = field(default=None, repr=False)
    _away_since: float | None = field(default=None, repr=False)
    _next_attempt: float = field(default=0.0, repr=False)

    def set_deadline(self, seconds: float) -> None:
        """Stop all retries in so many seconds, for a user who wants to leave. The first deadline holds."""
        if self._deadline is None:
            self._deadline = time.monotonic() + seconds

    @property
    def is_past_deadline(self) -> bool:
        """Whether the deadline has passed."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def call(
        self, function: Callable[[], T], find_result: Callable[[], T | None] = lambda: None, waits: bool = True
    ) -> T:
        """Return the function's value; retry while the store fails transiently.

        Args:
            function: The call.
            find_result: Called before each retry. A value other than None is the result of an earlier attempt whose
                reply was lost.
            waits: Whether to retry for so long. Otherwise retry for two seconds, and then not call the store for some
                time: a training that continues must not lose much of its time.

        Returns:
            The value.

        Raises:
            StoreAwayError: The store does not answer at present; only without ``waits``.
            StoreError: The store did not answer in time, or failed permanently.
            DeletedError: The run or the experiment does not exist, or was deleted.
        """
        start, outer, reported, result = time.monotonic(), sys.exc_info()[1], False, None
        if not waits and start < self._next_attempt:
            raise StoreAwayError(f"{self.store}: does not answer")

        def is_transient(failure: BaseException) -> bool:  # never Ctrl-C, whatever it interrupts
            return isinstance(failure, Exception) and StoreFailure(failure, outer).is_transient

        def report(state: RetryCallState) -> None:
            nonlocal reported
            waited = time.monotonic() - start + state.upcoming_sleep
            if waits and self._away_since is None and not reported and waited >= min(QUIET_SECONDS, self.seconds / 2):
                reported, reason = True, StoreFailure(_exception(state), outer).reason
                notify(f"the store does not answer ({reason}); trying again for up to {self.seconds:.0f} s")

        retry, wait = retry_if_exception(is_transient), wait_exponential(multiplier=0.1, max=5)
        stop = self._stop if waits else self._stop_soon
        try:
            for attempt in Retrying(retry=retry, wait=wait, stop=stop, before_sleep=report, sleep=time.sleep):
                with attempt:
                    result = find_result() if attempt.retry_state.attempt_number > 1 else None
                    result = function() if result is None else result
        except RetryError as last:
            waited, reason = time.monotonic() - start, StoreFailure(_exception(last), outer).reason
            if not waits:
                self._note_absence(start, reason)
                raise StoreAwayError(f"{self.store}: does not answer ({reason})") from None
            raise StoreError(f"{self.store}: did not answer for {waited:.0f} s ({reason})") from None
        except Exception as exception:
            failure = StoreFailure(exception, outer)
            if failure.is_permanent:
                raise StoreError(f"{self.store}: {failure.reason}") from None
            if failure.deleted:
                raise DeletedError(f"{self.store}: {failure.deleted}") from exception
            raise
        if reported or self._away_since is not None:
            notify(f"the store answers again, after {time.monotonic() - (self._away_since or start):.0f} s")
        self._gave_up, self._away_since, self._next_attempt = False, None, 0.0
        return cast(T, result)

    def _note_absence(self, start: float, reason: str) -> None:
        """Report that the store is away, once, and choose the time of the next attempt."""
        now = time.monotonic()
        self._next_attempt = now + PAUSE * (now - start)
        if self._away_since is None:
            self._away_since = start
            promise = f"trying again for up to {self.seconds:.0f} s after it"
            notify(f"the store does not answer ({reason}); training continues, {promise}")

    def _stop(self, state: RetryCallState) -> bool:
        next_attempt = time.monotonic() + state.upcoming_sleep
        if self._deadline is not None and next_attempt > self._deadline:
            return True
        self._gave_up = self._gave_up or next_attempt - state.start_time > self.seconds
        return self._gave_up

    def _stop_soon(self, state: RetryCallState) -> bool:
        return self._stop(state) or time.monotonic() + state.upcoming_sleep - state.start_time > QUIET_SECONDS


def _exception(source: RetryCallState | RetryError) -> BaseException:
    outcome = source.last_attempt if isinstance(source, RetryError) else source.outcome
    exception = None if outcome is None else outcome.exception()
    return exception or RuntimeError("no attempt failed")


def seconds() -> float:
    """Return how long to retry: ``GRADVITALS_STORE_PATIENCE``, or two minutes.

    Raises:
        ConfigError: The variable holds no number of seconds.
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
    """Write one line to the run's log and to stderr."""
    if log.hasHandlers():
        log.warning("%s", message)
    with suppress(OSError):  # the stream may be full, or have no reader
        print(f"gradvitals: {printable(message)}", file=sys.stderr, flush=True)


@contextmanager
def ignore_store_errors(what: str) -> Iterator[None]:
    """Report a store error of the block instead of raising it.

    Args:
        what: The block's purpose, for the message.
    """
    try:
        yield
    except StoreError as refusal:
        notify(f"{what}: {refusal}")
