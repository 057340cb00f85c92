"""Run a command and print its exit code, wall-clock seconds and peak memory as JSON: ``launch.py PROGRAM ARGUMENT...``.

Linux counts the memory of the parent at the start of a process as memory of that process. This parent is small. The
output of the command goes to stderr.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

BYTES = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss

if __name__ == "__main__":
    start = time.perf_counter()
    code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
    seconds = time.perf_counter() - start
    peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * BYTES
    print(json.dumps({"code": code, "seconds": seconds, "peak_bytes": peak_bytes}))
