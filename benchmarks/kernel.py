"""Prepare the process for timing: BLAS with its own best kernel, and one thread. Import before NumPy."""

from __future__ import annotations

import os
import sys

# A forced core type or cache size slows NumPy but not PyTorch. OpenBLAS selects its best kernel by itself. It reads
# these variables when the library loads, so the process restarts without them.
_FORCED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def prepare(is_main: bool) -> None:
    """Restart without a forced kernel, and limit BLAS to one thread.

    Args:
        is_main: Whether this is the program itself. Only then the process restarts.
    """
    if is_main and any(name in os.environ for name in _FORCED):
        environment = {name: value for name, value in os.environ.items() if name not in _FORCED}
        os.execve(sys.executable, sys.orig_argv, environment)  # noqa: S606 (restarts the same command)
    os.environ |= dict.fromkeys(THREADS, "1")
