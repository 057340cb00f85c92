"""The environment of the tasks, compared with the driver's: the same code, packages and Python.

``python -m pipeline.sweeps.slurm.environment`` prints the environment of a process as JSON. The driver starts it as the
tasks will be started, before it submits any.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.paths import PROJECT
from pipeline.reproducibility.environment import Provenance, provenance
from pipeline.reproducibility.environment_diff import changes
from pipeline.reproducibility.fingerprint import SourceFiles, digest_of_files
from pipeline.threads import VARIABLES

CODE = "code.sha256"
CODE_FACTS = ("git.commit", "git.dirty")
MOST_SHOWN = 5  # differences


def task_variables() -> dict[str, str]:
    """Return the variables that tasks need besides those that Slurm copies: where the code is, and one BLAS thread."""
    folders = [str(PROJECT), str(Path.cwd()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(folders)), **{v: os.environ.get(v, "1") for v in VARIABLES}}


def own_environment(files: SourceFiles) -> Provenance:
    """Return the environment of this process, with the digest of the code that training runs."""
    found = provenance()
    return replace(found, facts=found.facts | {CODE: digest_of_files(files)})


def with_code_of(driver: Provenance, node: Provenance) -> Provenance:
    """Return a node's environment with the commit and the patch of the driver, whose code it was compared with."""
    return replace(node, facts=node.facts | {name: driver.facts[name] for name in CODE_FACTS}, patch=driver.patch)


def difference(driver: Provenance, node: Provenance) -> str:
    """Return how code, packages and Python of a node differ from the driver's, in one line; "" if they are the same."""
    kinds = ("package ", "Python")
    found = [str(change) for change in changes(driver, node) if change.what.startswith(kinds)]
    if driver.facts[CODE] != node.facts[CODE]:
        found.insert(0, "the code differs")
    more = [f"and {len(found) - MOST_SHOWN} more"] if len(found) > MOST_SHOWN else []
    return "; ".join(found[:MOST_SHOWN] + more)


def check_environment(driver: Provenance, files: SourceFiles, variables: Mapping[str, str]) -> None:
    """Check that a process which starts as the tasks do has the driver's code and packages.

    Args:
        driver: The driver's environment.
        files: The files of the code.
        variables: Variables of the tasks.

    Raises:
        ConfigError: They differ, or no process can be started.
    """
    command = [sys.executable, "-m", "pipeline.sweeps.slurm.environment"]
    paths = json.dumps([[name, str(path)] for name, path in files])
    done = subprocess.run(
        command, input=paths, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    try:
        node = Provenance(**json.loads(done.stdout))
    except (ValueError, TypeError):
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        raise ConfigError(f"executor=slurm: a task's Python does not start: {last}") from None
    if text := difference(driver, node):
        raise ConfigError(f"executor=slurm: the tasks would not run what this command runs: {text}")


def _describe() -> None:
    files = tuple((str(name), Path(path)) for name, path in json.load(sys.stdin))
    found = own_environment(files)
    json.dump({"facts": found.facts, "patch": found.patch, "packages": found.packages}, sys.stdout)


if __name__ == "__main__":
    _describe()
