"""A process as like the one that recorded a run as this machine allows: BLAS threads, core type, CPU features.

What NumPy and its BLAS choose when they are imported can only be chosen before: the command starts itself anew, once.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

MARKER = "GRADVITALS_REPLAYS"  # in the environment of a process that was started anew
SANDYBRIDGE = frozenset({"sse3", "ssse3", "sse4_1", "sse4_2", "avx"})
HASWELL = SANDYBRIDGE | {"avx2", "fma", "bmi2"}
SKYLAKEX = HASWELL | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
NEEDS = {  # OpenBLAS's core types whose kernels can be chosen, and what of /proc/cpuinfo they need
    "Prescott": frozenset({"sse3"}),
    "Core2": frozenset({"sse3", "ssse3"}),
    "Penryn": frozenset({"sse3", "ssse3", "sse4_1"}),
    "Nehalem": frozenset({"sse3", "ssse3", "sse4_1", "sse4_2"}),
    "Sandybridge": SANDYBRIDGE,
    "Haswell": HASWELL,
    "Zen": HASWELL,
    "SkylakeX": SKYLAKEX,
    "Cooperlake": SKYLAKEX | {"avx512_bf16"},
}
SPELT = {"sse3": "pni"}  # as /proc/cpuinfo calls it


@dataclass(frozen=True)
class MachineMatch:
    """How to come close.

    Attributes:
        variables: to set before NumPy is imported.
        unmatched: what stays different, and why; a line each.
        threads: of BLAS, to be set in the process.
    """

    variables: Mapping[str, str]
    unmatched: tuple[str, ...]
    threads: int


def plan(then: Mapping[str, str], now: Mapping[str, str], cpu: frozenset[str]) -> MachineMatch:
    """What it takes to run as then.

    Args:
        then, now: tags of :mod:`pipeline.reproducibility.environment`.
        cpu: flags of this CPU, as /proc/cpuinfo has them.
    """
    variables: dict[str, str] = {}
    unmatched: list[str] = []
    wanted, present = (_first(tags.get("blas.core_type")) for tags in (then, now))
    if wanted and wanted != present:
        needs = NEEDS.get(wanted)
        lacking = sorted(n for n in needs or () if n not in cpu and SPELT.get(n, n) not in cpu)
        if needs is None:
            unmatched.append(f"core type {wanted} is not one that is known how to choose")
        elif lacking:
            unmatched.append(f"core type {wanted} cannot be chosen, this CPU has no {', '.join(lacking)}")
        else:
            variables["OPENBLAS_CORETYPE"] = wanted
    _features(then, now, variables, unmatched)
    threads = _threads(then, unmatched)
    return MachineMatch(variables, tuple(unmatched), threads)


def _first(core_types: str | None) -> str:
    """NumPy's, where several libraries bring a BLAS."""
    return (core_types or "").partition(";")[0].strip().replace("unknown", "").replace("None", "")


def _features(then: Mapping[str, str], now: Mapping[str, str], variables: dict[str, str], unmatched: list[str]) -> None:
    if "cpu.features" not in then or then["cpu.features"] == now.get("cpu.features"):
        return
    if then.get("package.numpy") != now.get("package.numpy"):
        unmatched.append("CPU features are not set, another version of numpy names them otherwise")
        return
    wanted, present = (set(tags.get("cpu.features", "").split()) - {"none"} for tags in (then, now))
    if wanted - present:
        unmatched.append(f"CPU features {' '.join(sorted(wanted - present))} are not there")
    if present - wanted:
        variables["NPY_DISABLE_CPU_FEATURES"] = " ".join(sorted(present - wanted))


def _threads(then: Mapping[str, str], unmatched: list[str]) -> int:
    text = _first(then.get("blas.threads"))
    if not text:
        return 1
    if not re.fullmatch(r"[1-9]\d{0,2}", text):
        unmatched.append(f"BLAS threads {text} cannot be set")
        return 1
    return int(text)


def cpu_flags() -> frozenset[str]:
    """What this CPU says it can do; nothing where there is no way to know."""
    path = Path("/proc/cpuinfo")
    if sys.platform != "linux" or not path.is_file():
        return frozenset()
    lines = path.read_text(errors="replace").splitlines()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


def can_restart_process() -> bool:
    """Return whether this process is the command itself, and was not restarted before."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    is_command = getattr(spec, "name", "") == "pipeline.__main__" or Path(sys.argv[0]).name == "gradvitals"
    return is_command and MARKER not in os.environ


def restart_process(variables: Mapping[str, str], threads: int) -> NoReturn:
    """The same command in this process's place, with these variables set."""
    sys.stdout.flush()
    sys.stderr.flush()
    environment = {**os.environ, **variables, "OPENBLAS_NUM_THREADS": str(threads), MARKER: "1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606
