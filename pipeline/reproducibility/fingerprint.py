"""The fingerprint of a cell: its scientific config, its data, and the code that turns both into records.

Code that only displays or stores results is not part of it. The relevant modules are those that training imports,
directly or indirectly, and those that the config names.
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
SourceFiles = tuple[tuple[str, Path], ...]  # name and file of each module


def fingerprint(raw_config: Mapping[str, Any], data_digest: str, code: str | None = None) -> str:
    """Return the SHA-256 of a resolved config's scientific part, the code it runs, and its data.

    Args:
        raw_config: The resolved config.
        data_digest: Digest of the data.
        code: Digest of the code, if it is known.
    """
    parts = {"config": configs.digest(raw_config), "code": code or code_digest(raw_config), "data": data_digest}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cell_key(cell_id: str) -> str:
    """Return a tag key that only runs of this cell have.

    Stores index tag keys but not tag values, so a search by this key is fast.
    """
    return f"mlflow.cell.{cell_id[:32]}"


def code_digest(raw_config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the source of every module that training with this config imports."""
    return digest_of_files(code_files(raw_config))


def code_files(raw_config: Mapping[str, Any]) -> SourceFiles:
    """Return the files of every module that training with this config imports, by module name."""
    return source_files(frozenset({ROOT, *targets(configs.scientific(raw_config))}))


def targets(value: object) -> Iterator[str]:
    """Yield the module of every ``_target_`` in a config or a part of one."""
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield value["_target_"].rpartition(".")[0]
        for inner in value.values():
            yield from targets(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from targets(inner)


@lru_cache(maxsize=64)
def source_files(roots: frozenset[str]) -> SourceFiles:
    """Return the files of these modules and of all they import. The result is cached, see :func:`digest_of_files`."""
    return tuple(sorted(modules(roots).items()))


@lru_cache(maxsize=64)
def digest_of_files(files: SourceFiles) -> str:
    """Return the SHA-256 of modules and their sources.

    The result is cached: a process keeps running the code that it imported, even if the files change. Files that have
    the same digest import the same modules, so another process need not search for these again.
    """
    total = hashlib.sha256()
    for name, path in files:
        total.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def modules(roots: Collection[str]) -> dict[str, Path]:
    """Return the files of these modules and of all they import, by module name.

    Installed packages are left out, except those that contain a root.
    """
    packages = {name.partition(".")[0] for name in roots} | configs.OWN_PACKAGES
    files: dict[str, Path] = {}
    remaining = sorted(roots)
    while remaining:
        name = remaining.pop()
        package = name.partition(".")[0]
        if name in files or (package not in packages and is_installed(package)):
            continue
        path = _file(name)
        if path is None:
            continue
        files[name] = path
        remaining += [".".join(name.split(".")[:n]) for n in range(1, name.count(".") + 1)]  # enclosing packages
        if path.suffix == ".py":
            remaining += _imports(path, name)
    return files


@cache
def is_installed(package: str) -> bool:
    """Return whether a top-level module belongs to Python or to an installed package, or does not exist."""
    if package in sys.stdlib_module_names:
        return True
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, AttributeError, ValueError):
        return True
    locations = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or [])]
    return not any(location and not _is_within(Path(location), library_folders()) for location in locations)


@cache
def library_folders() -> list[Path]:
    """Return the folders of Python's own modules, and those on the path in which packages are installed."""
    folders = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [Path(folder) for folder in sys.path if any(Path(folder).glob("*.dist-info"))]
    return [folder.resolve() for folder in folders]


def _is_within(path: Path, folders: Collection[Path]) -> bool:
    return any(path.resolve().is_relative_to(folder) for folder in folders)


def _file(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


def _imports(path: Path, module: str) -> list[str]:
    """Return the names that a module imports, anywhere in its source; ``from a import b`` may mean a.b."""
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
