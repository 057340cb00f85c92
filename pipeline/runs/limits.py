"""What a cell may use: time, memory, time without a step. Beyond it the cell is ended and told; the sweep goes on."""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

GIB = 2**30
TICK = 0.5  # seconds between two looks at the clock


class LimitError(Exception):
    """A cell used more than it may."""


@dataclass(frozen=True)
class Limits:
    """Limits of one cell.

    Args:
        seconds: of its whole time; None for no limit.
        gib: of memory beyond what the process had before, in GiB; None for no limit.
        hang: seconds without a step after which it counts as hanging.
    """

    seconds: float | None = None
    gib: float | None = None
    hang: float = 900.0

    def __post_init__(self) -> None:
        for name, value in (("time limit", self.seconds), ("memory limit", self.gib), ("hang limit", self.hang)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} {value}: must be > 0")

    def exceeded(self, running: float, still: float) -> str | None:
        """Which limit a cell has passed, in words, after so many seconds, so many of them without a step."""
        if self.seconds is not None and running > self.seconds:
            return f"took longer than its {self.seconds:g} s"
        return f"hung: no step for {self.hang:g} s" if still > self.hang else None


def no_op() -> None:
    """No heartbeat."""


@contextlib.contextmanager
def enforce_limits(limits: Limits, told: Callable[[], None] = no_op) -> Iterator[Callable[[], None]]:
    """Raise :class:`LimitError` in the main thread when a limit is passed; yields the function that tells of a step.

    Elsewhere than in the main thread, where Python takes no signals, only memory is enforce_limits.

    Args:
        told: told of each step, too.
    """
    begun = last = time.monotonic()
    over = False

    def heartbeat() -> None:
        nonlocal last
        last = time.monotonic()
        told()

    def look(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        reason = limits.exceeded(now - begun, now - last)
        if reason and not over:
            raise LimitError(reason)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, look) if main else None
    if main:
        signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
    try:
        with _memory(limits.gib):
            yield heartbeat
    finally:
        over = True  # a last tick may come before the timer is off
        if main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _memory(gib: float | None) -> Iterator[None]:
    if gib is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = _address_space() + int(gib * GIB)
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    try:
        yield
    except MemoryError as failure:
        raise LimitError(f"needs more than its {gib:g} GiB of memory ({' '.join(str(failure).split())})") from failure
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    """What the process has mapped, in bytes; 0 where that cannot be known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * resource.getpagesize()
