"""What a run must say about itself: code, packages, BLAS, machine. Read once, when a run starts."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from pipeline.paths import PROJECT

PACKAGES = ("numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "hydra-core", "omegaconf", "mlflow")


@dataclass(frozen=True)
class Provenance:
    """Flat facts for tags, and the texts that go into artifacts.

    Attributes:
        tags: short facts by name.
        patch: uncommitted changes of tracked files against the commit, as ``git diff`` prints them; "" if none.
        packages: every installed package, ``name==version`` a line.
    """

    tags: dict[str, str]
    patch: str
    packages: str


def provenance() -> Provenance:
    """The state of code, packages and machine now. A checkout without git is said to be one, not an error."""
    commit = _git("rev-parse", "HEAD").strip()
    status = _git("status", "--porcelain")
    found = sorted((p for p in threadpool_info() if p["user_api"] == "blas"), key=lambda p: str(p["filepath"]))
    own = str(Path(np.__file__).resolve().parent)  # libraries lie in it, or beside it in numpy.libs
    blas = [
        p for p in found if str(Path(p["filepath"]).resolve()).startswith(own)
    ] or found  # the engine's; SciPy brings another
    tags = {
        "git.commit": commit or "unknown",
        "git.dirty": "unknown" if not commit else str(bool(status.strip())).lower(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cpu.features": cpu_features(),
        "blas": _unique(f"{p['internal_api']} {p.get('version')}" for p in blas),
        "blas.build": _blas_build(),
        "blas.core_type": _unique(str(p.get("architecture")) for p in blas),
        "blas.threads": _unique(str(p["num_threads"]) for p in blas),
    }
    tags |= {f"package.{name}": _version(name) for name in PACKAGES}
    return Provenance(tags, _git("diff", "HEAD") if commit else "", _installed())


@cache
def _installed() -> str:
    """All packages, a line each; read once, for each run of a sweep has the same process."""
    found = {f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions()}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def cpu_features() -> str:
    """The instruction sets beyond its baseline that NumPy uses in this process."""
    found = _numpy_config().get("SIMD Extensions", {}).get("found", [])
    return " ".join(str(name) for name in found) or "none"


def _blas_build() -> str:
    """What NumPy says of the BLAS it was built with."""
    blas = _numpy_config().get("Build Dependencies", {}).get("blas", {})
    return str(blas.get("openblas configuration") or f"{blas.get('name', 'unknown')} {blas.get('version', '')}").strip()


def _numpy_config() -> dict[str, Any]:
    return dict(np.show_config(mode="dicts") or {})


def _unique(facts: Iterable[str]) -> str:
    """NumPy and SciPy may each bring a BLAS; what they have in common is said once."""
    return "; ".join(dict.fromkeys(facts)) or "unknown"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=30, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
