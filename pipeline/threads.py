"""One BLAS thread: reproducible, and the fastest for small networks. A BLAS library reads these variables once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def choose_one_thread() -> None:
    """Give libraries that are loaded later one thread, unless the environment says otherwise."""
    for name in VARIABLES:
        os.environ.setdefault(name, "1")


@contextmanager
def one_thread_in_new_processes() -> Iterator[None]:
    """Give the libraries of processes that start in a block one thread, unless the environment says otherwise."""
    unset = [name for name in VARIABLES if name not in os.environ]
    choose_one_thread()
    try:
        yield
    finally:
        for name in unset:
            os.environ.pop(name, None)
