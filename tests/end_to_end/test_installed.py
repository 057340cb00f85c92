"""The wheel in an environment of its own, outside the checkout: configs come along, the store is in the current folder.

Nothing is downloaded: the environment sees the libraries of this one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from support.configs import require

from pipeline.paths import PROJECT

SOURCES = ("engine", "pipeline", "experiments", "conf", "pyproject.toml", "setup.py", "README.md", "LICENSE")
TINY = ("experiment=smoke", "activation=relu", "tracking.figures=false")

pytestmark = [pytest.mark.thorough, pytest.mark.xdist_group("installed")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel of this source, and return the environment's folder of programs."""
    folder = tmp_path_factory.mktemp("installed")
    for name in SOURCES:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / "source" / name)
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    paths = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    libraries = Path(sysconfig.get_path("purelib", vars=paths))
    (libraries / "present.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    done = execute([str(python), "-m", "pip", "install", *options, str(folder / "source")], folder)
    require(done.returncode == 0, f"the wheel cannot be installed: {done.stderr[-300:]}")
    return python.parent


def execute(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, without the paths by which this checkout could be imported."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"CI": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder in a repository that has nothing to do with the code."""
    author = ["-c", "user.name=me", "-c", "user.email=me@here"]
    for words in (["init", "--quiet"], [*author, "commit", "--quiet", "--allow-empty", "--message", "mine"]):
        assert execute(["git", *words], tmp_path).returncode == 0
    return tmp_path


def test_installed_command_trains_and_replays_with_a_store_in_the_current_folder(
    installed: Path, elsewhere: Path
) -> None:
    program = str(installed / "gradvitals")
    trained = execute([program, "run", *TINY], elsewhere)
    assert trained.returncode == 0, trained.stderr
    assert (elsewhere / "store" / "mlflow.db").is_file()
    run_id = trained.stdout.partition("gradvitals reproduce ")[2].split()[0]
    replayed = execute([program, "reproduce", run_id], elsewhere)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert "identical" in replayed.stdout


def test_installed_code_has_the_digest_of_the_checkout_and_no_commit(installed: Path, elsewhere: Path) -> None:
    code = (
        "from pipeline.config.compose import compose_run\n"
        "from pipeline.reproducibility.environment import provenance\n"
        "from pipeline.reproducibility.fingerprint import code_digest\n"
        "print(provenance().facts['git.commit'], code_digest(compose_run(['activation=relu'])), sep='\\n')\n"
    )
    here = execute([sys.executable, "-c", code], PROJECT)
    there = execute([str(installed / "python"), "-c", code], elsewhere)
    assert there.returncode == 0, there.stderr
    commit, digest = there.stdout.splitlines()
    assert commit == "unknown (not a git checkout)"
    assert digest == here.stdout.splitlines()[1]


def test_three_lines_of_python_work_outside_a_checkout(installed: Path, elsewhere: Path) -> None:
    code = (
        "from pipeline import load, run\n"
        f"result = run(*{TINY!r})\n"
        "print(load(result.run_id).predict([[0.0] * 64]).shape)\n"
    )
    done = execute([str(installed / "python"), "-c", code], elsewhere)
    assert done.stdout == "(2, 1)\n", done.stderr
    assert (elsewhere / "store" / "mlflow.db").is_file()


def test_every_config_is_installed(installed: Path, elsewhere: Path) -> None:
    there = execute([str(installed / "python"), "-c", "from pipeline.paths import CONF; print(CONF)"], elsewhere)
    folder = Path(there.stdout.strip())

    def texts(root: Path) -> dict[Path, bytes]:
        return {path.relative_to(root): path.read_bytes() for path in root.rglob("*.yaml")}

    assert texts(folder) == texts(PROJECT / "conf")
