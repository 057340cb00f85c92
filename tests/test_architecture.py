"""The rules of the house that a machine can check: import directions, circles, heavy imports, private names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
SOURCES = sorted(p for top in ("engine", "pipeline", "experiments") for p in (PROJECT / top).rglob("*.py"))
WINGS = (  # from the top down: a wing imports those below it
    "sweeps",
    "runs",
    "reproducibility",
    "reports",
    "tracking",
    "analysis",
    "training",
    "config",
    "data",
)
SHARED = {"caching", "errors", "paths", "profiling", "progress", "signals", "streams", "threads", "wording"}
PROGRAM = "pipeline.__main__"  # where the program starts, above all packages
LIBRARY = set(sys.stdlib_module_names)


def name_of(path: Path) -> str:
    """Return the dotted name of a module."""
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in SOURCES}


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything that a module imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{a.name}" for a in node.names)


def packages_of(path: Path) -> set[str]:
    """Return the top-level packages that a module imports."""
    return {name.partition(".")[0] for name in imports_of(path)}


def own_imports(path: Path) -> set[str]:
    """Return the modules of this project that a module imports."""
    found = set()
    for name in imports_of(path):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        if name:
            found.add(name)
    return found


def height(module: str) -> int:
    """Return how high in the house a module is: it may import what is not higher."""
    top, _, rest = module.partition(".")
    if top == "engine":
        return 0
    if module == PROGRAM:
        return len(WINGS) + 4
    if top == "experiments":
        return len(WINGS) + 3
    wing = rest.partition(".")[0]
    if wing in SHARED or not rest:
        return 1
    return len(WINGS) - WINGS.index(wing) + 1 if wing in WINGS else len(WINGS) + 2  # api, cli


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards(module: str) -> None:
    up = {other for other in own_imports(MODULES[module]) if height(other) > height(module)}
    assert not up, f"{module} imports {sorted(up)} from above"


def test_every_module_of_the_pipeline_is_in_a_wing() -> None:
    allowed = {*WINGS, *SHARED, "api", "cli", "__main__"}
    assert {m.split(".")[1] for m in MODULES if m.startswith("pipeline.")} <= allowed


def test_imports_form_no_circle() -> None:
    graph = {m: own_imports(p) - {m} for m, p in MODULES.items()}
    while leaves := {m for m, below in graph.items() if not below}:
        graph = {m: below - leaves for m, below in graph.items() if m not in leaves}
    assert not graph, f"these are on a circle of imports, or above one: {sorted(graph)}"


def test_engine_imports_numpy_alone() -> None:
    for module, path in MODULES.items():
        if module.startswith("engine"):
            assert packages_of(path) <= LIBRARY | {"numpy", "engine"}, module


def test_engine_loads_nothing_heavy() -> None:
    code = (
        "import importlib, pkgutil, sys, engine\n"
        "for m in pkgutil.iter_modules(engine.__path__): importlib.import_module('engine.' + m.name)\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & "
        "{'hydra', 'mlflow', 'pandas', 'matplotlib', 'scipy', 'omegaconf', 'pydantic', 'pipeline'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_mlflow_is_imported_in_tracking_only() -> None:
    others = [m for m, p in MODULES.items() if "mlflow" in packages_of(p)]
    assert others
    assert all(m.startswith("pipeline.tracking.") for m in others)


@pytest.mark.parametrize("heavy", ["numpy", "hydra", "mlflow", "pandas", "matplotlib", "rich", "optuna"])
def test_command_line_loads_nothing_heavy(heavy: str) -> None:
    code = f"import sys, pipeline.cli, experiments.command; print({heavy!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_pipeline_does_not_import_experiments() -> None:
    assert all(
        "experiments" not in packages_of(p)
        for m, p in MODULES.items()
        if m != PROGRAM and not m.startswith("experiments")
    )


def test_no_file_names_a_machine_or_a_registry() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False)
    files = [PROJECT / name for name in listed.stdout.split()] or SOURCES
    pattern = re.compile(
        "|".join(["/" + "work/", "/" + "root/", "/" + "home/", "pypi" + r"\.org", "python" + "hosted"])
    )
    for path in files:
        if path.suffix in (".png", ".parquet", ".db") or not path.is_file():
            continue
        found = pattern.search(path.read_text(encoding="utf-8", errors="replace"))
        assert found is None, f"{path}: {found}"


ALL_PYTHON = sorted(
    p
    for top in ("engine", "pipeline", "experiments", "tests", "benchmarks", "tools")
    for p in (PROJECT / top).rglob("*.py")
)
LIBRARIES = {
    "hydra",
    "mlflow",
    "optuna",
    "hypothesis",
    "omegaconf",
    "pebble",
    "tenacity",
    "click",
    "matplotlib",
    "numpy",
}


def test_no_module_imports_a_private_part_of_a_library() -> None:
    for path in ALL_PYTHON:
        for name in imports_of(path):
            parts = name.split(".")
            is_private = parts[0] in LIBRARIES and any(part.startswith("_") for part in parts)
            assert not is_private, f"{path.relative_to(PROJECT)} imports {name}"


def test_every_imported_package_is_declared() -> None:
    described = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    project = described["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["slurm"]]
    declared = {re.split(r"[\[<>=~ ]", text)[0].lower() for text in needed}
    distributions = {"sklearn": "scikit-learn", "yaml": "pyyaml", "hydra": "hydra-core"}
    own = {"engine", "pipeline", "experiments"}
    for module, path in MODULES.items():
        for package in packages_of(path) - LIBRARY - own:
            assert distributions.get(package, package).lower() in declared, f"{module} imports {package}"


def test_only_the_command_line_prints() -> None:
    """Warnings about the store are the exception: they appear on stderr in every process."""
    printing = set()
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                printing.add(module)
    assert printing == {"pipeline.cli", "pipeline.tracking.retry"}
