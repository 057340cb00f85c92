"""The environment that a run is recorded with: code, packages, BLAS, machine."""

from __future__ import annotations

import getpass
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

PACKAGES = ("gradvitals", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "hydra-core", "omegaconf", "mlflow")
NO_COMMIT = "unknown (not a git checkout)"  # code that was installed, or git is missing


@dataclass(frozen=True)
class Provenance:
    """Facts about code, packages and machine.

    Attributes:
        facts: Short facts by name.
        patch: Uncommitted changes of tracked files, as ``git diff`` prints them; "" if there are none.
        packages: Every installed package, one ``name==version`` per line.
    """

    facts: dict[str, str]
    patch: str
    packages: str


def provenance() -> Provenance:
    """Return the present state of code, packages and machine. Code that is not in a git checkout has no commit."""
    top = _git("rev-parse", "--show-toplevel").strip()
    is_repository = bool(top) and Path(top).resolve() == PROJECT  # not a repository that the package is installed in
    commit = _git("rev-parse", "HEAD").strip() if is_repository else ""
    status = _git("status", "--porcelain")
    blas = _engine_blas()
    facts = {
        "git.commit": commit or NO_COMMIT,
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
    facts |= {f"package.{name}": _version(name) for name in PACKAGES}
    return Provenance(facts, _git("diff", "HEAD") if commit else "", _installed_packages())


def user_name() -> str:
    """Return the name of the user who runs this process; "unknown" if the system has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


def _engine_blas() -> list[dict[str, Any]]:
    """Return NumPy's BLAS libraries, which the engine uses; SciPy may load another one."""
    libraries = sorted((p for p in threadpool_info() if p["user_api"] == "blas"), key=lambda p: str(p["filepath"]))
    prefix = str(Path(np.__file__).resolve().parent)  # a BLAS lies inside it, or in the neighbouring numpy.libs
    return [p for p in libraries if str(Path(p["filepath"]).resolve()).startswith(prefix)] or libraries


@cache
def _installed_packages() -> str:
    """Return all packages, one per line; cached, because all runs of a sweep share the process."""
    packages = {f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions()}
    return "\n".join(sorted(packages, key=str.lower)) + "\n"


@cache
def cpu_features() -> str:
    """Return the instruction sets beyond its baseline that NumPy uses in this process."""
    features = _numpy_config().get("SIMD Extensions", {}).get("found", [])
    return " ".join(str(name) for name in features) or "none"


@cache
def _blas_build() -> str:
    blas = _numpy_config().get("Build Dependencies", {}).get("blas", {})
    return str(blas.get("openblas configuration") or f"{blas.get('name', 'unknown')} {blas.get('version', '')}").strip()


def _numpy_config() -> dict[str, Any]:
    return dict(np.show_config(mode="dicts") or {})


def _unique(facts: Iterable[str]) -> str:
    """Join the facts of several libraries; equal facts appear once."""
    return "; ".join(dict.fromkeys(facts)) or "unknown"


@cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


@cache
def _git(*arguments: str) -> str:
    """Return git's output; cached, because a process keeps running the code that it imported."""
    try:
        completed = subprocess.run(
            ["git", *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=30, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return completed.stdout if completed.returncode == 0 else ""


@cache
def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
