"""Limits of a run: total time, memory, and time without a step. A run beyond a limit fails; its sweep continues."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

GIB = 2**30
TICK = 0.5  # seconds between two checks of the clock
SLACK = 5.0  # seconds beyond a limit after which a process that does not respond is ended


class LimitError(Exception):
    """A run exceeds a limit."""


@dataclass(frozen=True)
class Limits:
    """Limits of one run.

    Args:
        seconds: Total time, s; None for no limit.
        gib: Memory beyond that of the process at the start, GiB; None for no limit.
        hang: Time without a training step, s.
        slack: Time beyond a limit after which a process that does not respond is ended, s.
    """

    seconds: float | None = None
    gib: float | None = None
    hang: float = 900.0
    slack: float = SLACK

    def __post_init__(self) -> None:
        for name, value in (("time limit", self.seconds), ("memory limit", self.gib), ("hang limit", self.hang)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} {value}: must be > 0")

    def of_stack(self, cells: int) -> Limits:
        """Return the limits of a stack: time and memory of all its cells together."""
        seconds, gib = (None if limit is None else limit * cells for limit in (self.seconds, self.gib))
        return replace(self, seconds=seconds, gib=gib)

    def exceeded(self, running: float, idle: float) -> str | None:
        """Return which limit a run exceeds, in words.

        Args:
            running: Time since the run began, s.
            idle: Time since its last step, s.
        """
        if self.seconds is not None and running > self.seconds:
            return f"took longer than its {self.seconds:g} s"
        return f"hung: no step for {self.hang:g} s" if idle > self.hang else None

    def remaining(self, running: float, idle: float) -> float:
        """Return the time until a limit is exceeded, s; negative beyond it."""
        time_left = self.hang - idle
        return time_left if self.seconds is None else min(time_left, self.seconds - running)


@contextlib.contextmanager
def enforce_limits(limits: Limits) -> Iterator[Callable[[], None]]:
    """Raise LimitError in the main thread when a limit is exceeded.

    A timer signal checks the clock. In a worker process, ``faulthandler`` ends the process if it does not respond to
    the signal. Outside the main thread, where Python handles no signals, only memory is limited.

    Yields:
        A function to be called at each step.
    """
    start = last_step = time.monotonic()
    is_over = False
    is_main = threading.current_thread() is threading.main_thread()
    watchdog = _Watchdog(limits) if multiprocessing.parent_process() is not None else None

    def heartbeat() -> None:
        nonlocal last_step
        last_step = time.monotonic()

    def check(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        running, idle = now - start, now - last_step
        if watchdog is not None:
            watchdog.postpone(running, idle)
        reason = limits.exceeded(running, idle)
        if reason and not is_over:
            raise LimitError(reason)

    before = signal.signal(signal.SIGALRM, check) if is_main else None
    if is_main:
        signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
    if watchdog is not None:
        watchdog.postpone(0.0, 0.0)
    try:
        with _limit_memory(limits.gib):
            yield heartbeat
    finally:
        is_over = True  # a last tick may arrive before the timer is off
        if is_main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        if watchdog is not None:
            watchdog.close()


class _Watchdog:
    """Ends this process with exit code 1 unless it is postponed. Works while native code holds the interpreter."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._output = Path(os.devnull).open("w", encoding="ascii")  # noqa: SIM115 (closed with the watchdog)

    def postpone(self, running: float, idle: float) -> None:
        """Wait until ``slack`` seconds beyond the next limit; a limit that is exceeded is not postponed again."""
        remaining = self._limits.remaining(running, idle)
        if remaining > -TICK:
            seconds = max(remaining, 0.0) + self._limits.slack
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._output)

    def close(self) -> None:
        """Stop watching."""
        faulthandler.cancel_dump_traceback_later()
        self._output.close()


@contextlib.contextmanager
def _limit_memory(gib: float | None) -> Iterator[None]:
    if gib is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _address_space() + int(gib * GIB)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        yield
    except MemoryError as failure:
        raise LimitError(f"needs more than its {gib:g} GiB of memory ({' '.join(str(failure).split())})") from failure
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    """Return the size of the process's mapped memory, bytes; 0 where it is not known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * resource.getpagesize()
