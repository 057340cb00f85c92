"""What the server that forks processes imports once, for all of them.

The garbage collector is off meanwhile, and what was imported is frozen: the processes share its memory, and neither
they nor the server search it for garbage when they end.
"""

from __future__ import annotations

import gc
import os
import signal
from importlib import import_module

_driver = os.getppid()


def _end_without_driver(number: int, frame: object) -> None:
    if os.getppid() != _driver:
        os._exit(0)


_previous = signal.signal(signal.SIGALRM, _end_without_driver)  # the server itself checks after the imports only
signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
gc.disable()
for _name in ("pipeline.runs.stack", "mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store"):
    import_module(_name)
gc.freeze()
gc.enable()
signal.setitimer(signal.ITIMER_REAL, 0)
signal.signal(signal.SIGALRM, _previous)
