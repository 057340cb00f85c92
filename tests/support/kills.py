"""Commands in processes that are killed again and again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pipeline.paths import PROJECT
from support.commands import NO_FIGURES
from support.stores import empty, uri

SCRIPT = Path(__file__).with_name("faults.py")


def killed(
    folder: Path,
    kills: int,
    seed: int,
    longest: float,
    *argv: str,
    what: str = "driver",
    at: str = "",
    made: bool = False,
) -> float:
    """Run a command that is killed so many times before it may end, each time within ``longest`` seconds.

    Returns how long it took when it was left alone at last. ``at`` is the store's address, by default that of an sqlite
    store in the folder; which is ``made`` before, or by the command.
    """
    folder.mkdir()
    if made:
        empty(uri(folder))
    command = [sys.executable, str(SCRIPT), what, str(kills), str(seed), str(longest)]
    watch = "" if at else str(folder / "store-checkpoints")
    done = subprocess.run(
        [*command, watch, str(folder / "output"), *argv, NO_FIGURES, f"tracking.uri={at or uri(folder)}"],
        env={**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}", "CI": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    output = (folder / "output").read_text()
    assert done.returncode == 0, output + done.stderr
    assert "Traceback" not in output, output
    times, seconds = done.stdout.split()
    assert int(times) == kills
    return float(seconds)
