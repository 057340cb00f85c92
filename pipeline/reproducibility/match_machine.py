"""Match this process to the one that recorded a run: BLAS threads, core type and CPU features.

NumPy and its BLAS choose core type and CPU features when they are imported. To change them, the command restarts its
process once with environment variables set.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

RESTARTED = "GRADVITALS_REPLAYS"  # environment variable of a restarted process
SANDYBRIDGE = frozenset({"sse3", "ssse3", "sse4_1", "sse4_2", "avx"})
HASWELL = SANDYBRIDGE | {"avx2", "fma", "bmi2"}
SKYLAKEX = HASWELL | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
REQUIRED_FLAGS = {  # OpenBLAS's selectable core types, and the CPU flags that their kernels need
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
CPUINFO_NAMES = {"sse3": "pni"}  # flags that /proc/cpuinfo spells differently


@dataclass(frozen=True)
class MachineMatch:
    """The settings that bring this process closest to the recording one.

    Attributes:
        variables: Environment variables to set before NumPy is imported.
        unmatched: Differences that remain, with the reason; one line each.
        threads: BLAS threads, which a running process can set.
    """

    variables: Mapping[str, str]
    unmatched: tuple[str, ...]
    threads: int


def match_machine(then: Mapping[str, str], now: Mapping[str, str], flags: frozenset[str]) -> MachineMatch:
    """Compute the settings that match the recording process.

    Args:
        then: Facts of the recording process (:mod:`pipeline.reproducibility.environment`).
        now: Facts of this process.
        flags: Flags of this CPU, as in /proc/cpuinfo.
    """
    variables: dict[str, str] = {}
    unmatched: list[str] = []
    recorded, present = (_first_library(facts.get("blas.core_type")) for facts in (then, now))
    if recorded and recorded != present:
        required = REQUIRED_FLAGS.get(recorded)
        missing = sorted(f for f in required or () if f not in flags and CPUINFO_NAMES.get(f, f) not in flags)
        if required is None:
            unmatched.append(f"core type {recorded} is not selectable")
        elif missing:
            unmatched.append(f"core type {recorded} needs {', '.join(missing)}, which this CPU lacks")
        else:
            variables["OPENBLAS_CORETYPE"] = recorded
    _match_features(then, now, variables, unmatched)
    threads = _threads(then, unmatched)
    return MachineMatch(variables, tuple(unmatched), threads)


def _first_library(facts: str | None) -> str:
    """Return the fact of NumPy's BLAS, which comes first; "" if it is unknown."""
    return (facts or "").partition(";")[0].strip().replace("unknown", "").replace("None", "")


def _match_features(
    then: Mapping[str, str], now: Mapping[str, str], variables: dict[str, str], unmatched: list[str]
) -> None:
    if "cpu.features" not in then or then["cpu.features"] == now.get("cpu.features"):
        return
    if then.get("package.numpy") != now.get("package.numpy"):
        unmatched.append("CPU features: their names depend on the version of numpy, which differs")
        return
    recorded, present = (set(facts.get("cpu.features", "").split()) - {"none"} for facts in (then, now))
    if recorded - present:
        unmatched.append(f"CPU features {' '.join(sorted(recorded - present))} are missing here")
    if present - recorded:
        variables["NPY_DISABLE_CPU_FEATURES"] = " ".join(sorted(present - recorded))


def _threads(then: Mapping[str, str], unmatched: list[str]) -> int:
    text = _first_library(then.get("blas.threads"))
    if not text:
        return 1
    if not re.fullmatch(r"[1-9]\d{0,2}", text):
        unmatched.append(f"BLAS threads {text} is not a valid number")
        return 1
    return int(text)


def cpu_flags() -> frozenset[str]:
    """Return this CPU's flags; empty where /proc/cpuinfo does not exist."""
    path = Path("/proc/cpuinfo")
    if sys.platform != "linux" or not path.is_file():
        return frozenset()
    lines = path.read_text(errors="replace").splitlines()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


def can_restart_process() -> bool:
    """Return whether this process is the command itself and was not restarted before."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    is_command = getattr(spec, "name", "") == "pipeline.__main__" or Path(sys.argv[0]).name == "gradvitals"
    return is_command and RESTARTED not in os.environ


def restart_process(variables: Mapping[str, str], threads: int) -> NoReturn:
    """Replace this process by the same command with these environment variables and BLAS threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    environment = {**os.environ, **variables, "OPENBLAS_NUM_THREADS": str(threads), RESTARTED: "1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606
