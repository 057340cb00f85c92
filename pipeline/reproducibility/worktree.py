"""How to run again with the very code that recorded a run: the commands, exactly."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pipeline.paths import PROJECT
from pipeline.tracking.uri import redact

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def commands(tags: Mapping[str, str], patch: str, run: str, uri: str | None) -> list[str]:
    """Shell commands, with comments where something is left to do by hand; none if the commit is not known.

    Args:
        tags: of the run.
        patch: what was not committed.
        run: its id, or the folder it was exported to.
        uri: of the store it is in, None for a folder.
    """
    commit = tags.get("git.commit", "")
    if not COMMIT.fullmatch(commit):  # it goes into a command line
        return []
    tree = f"../gradvitals-{commit[:8]}"
    lines = [] if known(commit) else ["# this repository does not have the commit: git fetch it first"]
    lines.append(f"git worktree add {shlex.quote(tree)} {commit}")
    if patch:
        store = f" --uri {shlex.quote(redact(uri))}" if uri else ""
        read = f".venv/bin/python -m pipeline reproduce {shlex.quote(run)}{store} --patch"
        lines.append(f"{read} | git -C {shlex.quote(tree)} apply  # the patch is code: read it first")
    elif tags.get("git.dirty") == "true":
        lines.append("# files that git did not know were there as well; they are not recorded")
    place = f" ARGS={_quoted('--uri ' + shlex.quote(redact(uri)))}" if uri else ""
    lines.append(f"make -C {shlex.quote(tree)} reproduce RUN={_quoted(run)}{place}")
    return lines


def _quoted(text: str) -> str:
    """For the shell, and for make after it."""
    return shlex.quote(text.replace("$", "$$"))


def known(commit: str) -> bool:
    """Whether this repository has the commit."""
    try:
        asked = subprocess.run(
            ["git", "cat-file", "-e", f"{commit}^{{commit}}"],
            cwd=PROJECT,
            capture_output=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def absolute(run: str, place: Path | None) -> str:
    """A run as it is named from anywhere."""
    return run if place is None else str(place.absolute())
