"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*PROJECT.glob("engine/**/*.py"), *PROJECT.glob("pipeline/**/*.py")])


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


def test_the_engine_stands_on_numpy_alone() -> None:
    allowed = set(sys.stdlib_module_names) | {"numpy", "engine"}
    for path in PROJECT.glob("engine/**/*.py"):
        assert imported(path) <= allowed, path


def test_importing_the_engine_loads_nothing_heavy() -> None:
    code = (
        "import importlib, pkgutil, sys, engine\n"
        "for m in pkgutil.iter_modules(engine.__path__): importlib.import_module('engine.' + m.name)\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & "
        "{'hydra', 'mlflow', 'pandas', 'matplotlib', 'scipy', 'omegaconf', 'pydantic', 'pipeline'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_mlflow_is_imported_in_one_place() -> None:
    assert [p.name for p in SOURCES if "mlflow" in imported(p)] == ["tracking.py"]


def test_the_command_line_answers_without_mlflow() -> None:
    code = "import sys, pipeline.__main__, pipeline.single, pipeline.sweep; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_nothing_imports_the_experiments() -> None:
    assert all("experiments" not in imported(p) for p in SOURCES)


def test_no_machine_or_registry_in_any_file() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False
    ).stdout.split()
    files = [PROJECT / name for name in tracked] or SOURCES
    pattern = re.compile(
        "|".join(["/" + "work/", "/" + "root/", "/" + "home/", "pypi" + r"\.org", "python" + "hosted"])
    )
    for path in files:
        if path.suffix in (".png", ".parquet") or not path.is_file():
            continue
        found = pattern.search(path.read_text(encoding="utf-8", errors="replace"))
        assert found is None, f"{path}: {found}"
