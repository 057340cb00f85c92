"""The shell commands that reproduce a run with the code that recorded it."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pipeline.paths import PROJECT
from pipeline.tracking.uri import redact

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def commands(facts: Mapping[str, str], patch: str, run: str, uri: str | None) -> list[str]:
    """Return shell commands that check out a run's commit and reproduce the run there.

    Args:
        facts: The facts about the code that recorded the run.
        patch: The changes that were not committed.
        run: The run's id, or the folder it was exported to.
        uri: The store's URI; None for a folder.

    Returns:
        Commands, and comments for steps to do by hand; empty if the commit is unknown.
    """
    commit = facts.get("git.commit", "")
    if not COMMIT.fullmatch(commit):  # a fact is untrusted, and this one becomes part of a command line
        return []
    tree = f"../gradvitals-{commit[:8]}"
    lines = [] if has_commit(commit) else ["# this repository does not have the commit: git fetch it first"]
    lines.append(f"git worktree add {shlex.quote(tree)} {commit}")
    if patch:
        store = f" --uri {shlex.quote(redact(uri))}" if uri else ""
        read_patch = f".venv/bin/python -m pipeline reproduce {shlex.quote(run)}{store} --patch"
        lines.append(f"{read_patch} | git -C {shlex.quote(tree)} apply  # the patch is code: read it first")
    elif facts.get("git.dirty") == "true":
        lines.append("# the run was recorded with untracked files, whose content was not logged")
    arguments = f" ARGS={_quote('--uri ' + shlex.quote(redact(uri)))}" if uri else ""
    lines.append(f"make -C {shlex.quote(tree)} reproduce RUN={_quote(run)}{arguments}")
    return lines


def _quote(text: str) -> str:
    """Quote for the shell, and for make, which expands the value after the shell."""
    return shlex.quote(text.replace("$", "$$"))


def has_commit(commit: str) -> bool:
    """Return whether this repository has the commit."""
    try:
        completed = subprocess.run(
            ["git", "cat-file", "-e", f"{commit}^{{commit}}"],
            cwd=PROJECT,
            capture_output=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return completed.returncode == 0


def absolute_name(run: str, folder: Path | None) -> str:
    """Return a name of the run that is valid in any working directory: its id, or its folder's absolute path."""
    return run if folder is None else str(folder.absolute())
