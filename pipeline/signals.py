"""SIGTERM, SIGHUP and Ctrl-C as exceptions, raised again until the program acknowledges them.

A signal becomes an exception wherever the main thread is. Python swallows an exception in a finaliser, and a library
may swallow it elsewhere. After :func:`acknowledge`, runs are closed undisturbed; only a second Ctrl-C leaves at once.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN = 1.5  # seconds until an exception that was not acknowledged is raised again
SOON = 0.05  # the same, in seconds, where Python reports that it swallowed the exception
DUPLICATE = 1.0  # seconds after acknowledge() in which a signal counts as sent twice, as make does
SHOW_CURSOR = b"\x1b[?25h"  # a progress bar hides it

_acknowledged = threading.Event()
_is_leaving = threading.Event()
_last_raised = -AGAIN  # seconds, of the monotonic clock
_acknowledged_at = 0.0
_replaced: dict[int, Any] = {}  # handlers by signal number
_delayed: list[int] | None = None  # signals that arrived in a block of delayed()


def leave_at_once() -> None:
    """Let a signal end this process without a traceback, until :func:`install`.

    A signal that is ignored stays ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)


def _leave(number: int, frame: object) -> None:
    try:
        sys.stdout.flush()
        os.write(2, b"interrupted\n" if number == signal.SIGINT else b"")
    except Exception:  # noqa: BLE001, S110 (the outputs may be closed)
        pass
    os._exit(128 + number)


def install(*numbers: signal.Signals) -> None:
    """Let these signals raise SystemExit(128 + number), SIGINT KeyboardInterrupt.

    A signal that is ignored (Ctrl-C, in a shell's background job) stays ignored.
    """
    global _last_raised
    _acknowledged.clear()
    _last_raised = -AGAIN
    sys.unraisablehook = _raise_swallowed_again
    for number in numbers:
        if signal.getsignal(number) not in (signal.SIG_IGN, _raise):
            _replaced[number] = signal.signal(number, _raise)


@contextmanager
def delayed() -> Iterator[None]:
    """Raise the exception of a signal that arrives in the block after it."""
    global _delayed
    _delayed = []
    try:
        yield
    finally:
        numbers, _delayed = _delayed, None
        for number in numbers[:1]:
            signal.raise_signal(number)


def leave_after_checkpoint(number: signal.Signals) -> None:
    """Let a signal ask for a checkpoint of what trains, after which the training raises SystemExit."""
    _is_leaving.clear()
    signal.signal(number, lambda *_: _is_leaving.set())


def is_leaving() -> bool:
    """Return whether a signal has asked for a checkpoint and the end of the training."""
    return _is_leaving.is_set()


def restore() -> None:
    """Restore the handlers that install() replaced, unless an interruption is being handled."""
    if not _acknowledged.is_set():
        _acknowledged.set()  # ends the threads that wait to send a signal again
        sys.unraisablehook = sys.__unraisablehook__
        for number, handler in _replaced.items():
            signal.signal(number, handler)
        _replaced.clear()


def acknowledge() -> None:
    """Stop raising: the program is closing its runs."""
    global _acknowledged_at
    if not _acknowledged.is_set():
        _acknowledged_at = time.monotonic()
        _acknowledged.set()


def _raise(number: int, frame: FrameType | None) -> None:
    global _last_raised
    now = time.monotonic()
    if _acknowledged.is_set():
        if number == signal.SIGINT and now - _acknowledged_at > DUPLICATE:
            os.write(2, SHOW_CURSOR if os.isatty(2) else b"")
            os._exit(128 + number)
        return
    if _delayed is not None:
        _delayed.append(number)
        return
    if now - _last_raised < 0.9 * AGAIN:
        return
    _last_raised = now
    _send_again(AGAIN, number)
    if number == signal.SIGHUP:
        _leave_closed_terminal()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _leave_closed_terminal() -> None:
    """Discard what is written from now on, if the terminal is closed: writing would fail while runs are closed."""
    for output in (1, 2):
        if stat.S_ISCHR(os.fstat(output).st_mode) and not os.isatty(output):
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)


def _send_again(seconds: float, number: int) -> None:
    def wait() -> None:
        main = threading.main_thread().ident
        if not _acknowledged.wait(seconds) and main is not None:
            signal.pthread_kill(main, number)  # a signal to the main thread also interrupts its system call

    threading.Thread(target=wait, daemon=True).start()


def _raise_swallowed_again(unraisable: sys.UnraisableHookArgs) -> None:
    global _last_raised
    error = unraisable.exc_value
    if time.monotonic() - _last_raised < AGAIN and isinstance(error, (SystemExit, KeyboardInterrupt)):
        _last_raised = -AGAIN
        _send_again(SOON, signal.SIGINT if isinstance(error, KeyboardInterrupt) else int(error.code or 0) - 128)
    else:
        sys.__unraisablehook__(unraisable)
