"""SIGTERM and Ctrl-C, heard once and for sure.

A signal becomes an exception wherever the main thread happens to be. In a callback of the garbage collector Python
itself swallows it, elsewhere somebody else's code may. So it is raised again until somebody says that it has been
heard. A second signal meanwhile, or while runs are being closed, changes nothing.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType

AGAIN = 1.5  # seconds after which an exception that nobody has heard is raised again
AT_ONCE = 0.05  # the same where Python has said that it was swallowed
_heard = threading.Event()
_raised = [-AGAIN]  # when the last exception was, seconds


def install(*numbers: signal.Signals) -> None:
    """From now on these signals raise SystemExit(128 + number), or KeyboardInterrupt for SIGINT.

    One that is ignored (Ctrl-C, in a shell's background job) stays so.
    """
    _heard.clear()
    _raised[0] = -AGAIN
    sys.unraisablehook = _swallowed
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)


def acknowledge() -> None:
    """The interruption is being dealt with: no more exceptions."""
    _heard.set()


def _raise(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _heard.is_set() or now - _raised[0] < 0.9 * AGAIN:
        return
    _raised[0] = now
    _again_after(AGAIN, number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _again_after(seconds: float, number: int) -> None:
    def again() -> None:
        main = threading.main_thread().ident
        if not _heard.wait(seconds) and main is not None:
            signal.pthread_kill(main, number)  # it may be waiting in a call, which only its own signals cut short

    threading.Thread(target=again, daemon=True).start()


def _swallowed(unraisable: sys.UnraisableHookArgs) -> None:
    """Python tells of an exception that cannot go anywhere; if it is ours, it comes again."""
    error = unraisable.exc_value
    if time.monotonic() - _raised[0] < AGAIN and isinstance(error, (SystemExit, KeyboardInterrupt)):
        _raised[0] = -AGAIN
        _again_after(AT_ONCE, signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
    else:
        sys.__unraisablehook__(unraisable)
