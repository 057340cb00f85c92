"""``python -m pipeline``: the same as the command ``gradvitals``. Python imports little before a signal is handled."""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Run one command of gradvitals and return its exit code."""
    leave_on_signals()
    from pipeline.cli import main as run

    return run()


def leave_on_signals() -> None:
    """Let a signal end this process without a traceback, until a command has handlers of its own.

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


if __name__ == "__main__":
    sys.exit(main())
