"""Runs commands in processes that are killed: ``faults.py WHAT KILLS SEED LONGEST WATCH OUTPUT ARGUMENT...``.

Imports and composing are paid for once: every trial is a fork of this process, a real process that runs the command
from its first line and is killed with SIGKILL at a random moment (WHAT = driver), or one of its worker processes is
(WHAT = worker).
Every other trial waits until work has started: until there is something new in the folder WATCH. After the last kill
the command runs to its end.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path


def start(argv: list[str], output: Path) -> int:
    """The command in a process of its own; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    with output.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from pipeline.cli import main

    code = 70
    try:
        code = main(argv)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int, within: float) -> int | None:
    """The exit code, −signal, or None if it is still running after so many seconds."""
    until = time.monotonic() + within
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.002)


def workers(driver: int) -> list[int]:
    """Processes that a driver's fork server has forked."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    return [grandchild for child in children.get(driver, []) for grandchild in children.get(child, [])]


def kill_workers(kills: int, rng: random.Random, longest: float, output: Path, argv: list[str]) -> int:
    """Kill workers of one command after another until so many are dead; returns how many."""
    killed = 0
    for _ in range(4 * kills):
        pid = start(argv, output)
        while killed < kills and ended(pid, rng.uniform(0, longest)) is None:
            found = workers(pid)
            if found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(found), signal.SIGKILL)
                    killed += 1
        with contextlib.suppress(ChildProcessError):
            ended(pid, 300)
        if killed == kills:
            break
    return killed


def has_started(pid: int, watch: Path, since: float) -> bool:
    """Waits until something in the folder is newer than that; False if the process ends before."""
    deadline = time.monotonic() + 120
    while ended(pid, 0.005) is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if any(path.stat().st_mtime > since for path in watch.rglob("*")):
                return True
    return False


def main(what: str, kills: int, seed: int, longest: float, watch: str, output: Path, argv: list[str]) -> int:
    """Kill it so many times, unless it ends before, then let it run; returns its exit code.

    Prints how often it was killed, and how many seconds it took in the end.
    """
    import matplotlib.backends.backend_agg  # noqa: F401
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import sqlalchemy.orm

    import pipeline.reports.run_report
    import pipeline.sweeps.sweep  # noqa: F401
    from pipeline.config.compose import compose_sweep

    sqlalchemy.orm.configure_mappers()
    compose_sweep([a for a in argv if "=" in a])

    rng, killed = random.Random(seed), 0
    if what == "worker":
        killed = kill_workers(kills, rng, longest, output, argv)
    while what == "driver" and killed < kills:
        since, pid = time.time(), start(argv, output)
        waiting = bool(watch) and killed % 2 == 1
        there = not waiting or has_started(pid, Path(watch), since)
        if there and ended(pid, rng.uniform(0, longest / 10 if waiting else longest)) is None:
            os.kill(pid, signal.SIGKILL)
            ended(pid, 30)
            killed += 1
        elif waiting:
            watch = ""  # nothing is left to be done
        else:
            longest = longest / 2  # it was faster than thought
            if longest < 0.02:
                break
    began = time.monotonic()
    pid = start(argv, output)
    code = ended(pid, 300)
    print(killed, time.monotonic() - began)
    return 71 if code is None else code


if __name__ == "__main__":
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    chosen, count, seeded, slowest, watched, where, *rest = sys.argv[1:]
    sys.exit(main(chosen, int(count), int(seeded), float(slowest), watched, Path(where), rest))
