"""The process as it should be for timing: BLAS with its own best kernel, and one thread. Imported before NumPy."""

from __future__ import annotations

import os
import sys

# Old builds need a core type or cache size forced on them; a current OpenBLAS finds its best kernel by itself, and a
# forced one slows NumPy but not PyTorch. They are read when the library is loaded, so the process starts again.
_FORCED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def prepare(is_main: bool) -> None:
    """Start again without a forced kernel (only as the program itself), and hold BLAS to one thread."""
    if is_main and any(name in os.environ for name in _FORCED):
        environment = {name: value for name, value in os.environ.items() if name not in _FORCED}
        os.execve(sys.executable, sys.orig_argv, environment)  # noqa: S606 (the same command in this one's place)
    os.environ |= dict.fromkeys(_THREADS, "1")
