"""What a cell is: its scientific config, its data, and the code that turns the two into records.

Code that only shows or stores results is not part of it: what counts are the modules that training reaches by imports,
and those that the config names.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
import sysconfig
from collections.abc import Collection, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from pipeline.config import schema as configs

ROOT = "pipeline.training.loop"


def fingerprint(node: Mapping[str, Any], data_digest: str) -> str:
    """SHA-256 of a resolved config's scientific part, the code it runs, and its data."""
    parts = {"config": configs.digest(node), "code": code_digest(node), "data": data_digest}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def fingerprint_tags(cell: str) -> dict[str, str]:
    """How a run says which cell it is, and the key by which the store finds it in no time."""
    return {"cell": cell, cell_key(cell): "1"}


def cell_key(cell: str) -> str:
    """A tag's key that only runs of this cell have; stores look keys up by an index, values they do not."""
    return f"mlflow.cell.{cell[:32]}"


def code_digest(node: Mapping[str, Any]) -> str:
    """SHA-256 of the source of every module that training with this config reaches."""
    return _digest_of(frozenset({ROOT, *targets(configs.scientific(node))}))


def targets(node: object) -> Iterator[str]:
    """The modules of all ``_target_`` in a config."""
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"].rpartition(".")[0]
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from targets(value)


@lru_cache(maxsize=64)
def _digest_of(roots: frozenset[str]) -> str:
    """Computed once a process: what has been imported stays, whatever happens to the files."""
    total = hashlib.sha256()
    for name, path in sorted(modules(roots).items()):
        total.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def modules(roots: Collection[str]) -> dict[str, Path]:
    """The files of these modules and of all they import, however deep; of installed packages only the roots' own."""
    packages = {name.partition(".")[0] for name in roots} | configs.OWN_PACKAGES
    found: dict[str, Path] = {}
    left = sorted(roots)
    while left:
        name = left.pop()
        top = name.partition(".")[0]
        if name in found or (top not in packages and _installed(top)):
            continue
        path = _file(name)
        if path is None:
            continue
        found[name] = path
        left += [".".join(name.split(".")[:n]) for n in range(1, name.count(".") + 1)]  # the packages it lies in
        if path.suffix == ".py":
            left += _imported(path, name)
    return found


@cache
def _installed(top: str) -> bool:
    """Whether a top-level module is Python's or an installed package's; so is what cannot be found."""
    if top in sys.stdlib_module_names:
        return True
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, AttributeError, ValueError):
        return True
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or [])]
    libraries = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return not any(place and not _within(Path(place), libraries) for place in places)


def _within(path: Path, folders: Collection[Path]) -> bool:
    return any(path.resolve().is_relative_to(folder) for folder in folders)


def _file(name: str) -> Path | None:
    """The module's file; None for a name that is no module, or has none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


def _imported(path: Path, module: str) -> list[str]:
    """Names of what a module imports, wherever in it; ``from a import b`` may mean a.b."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names
