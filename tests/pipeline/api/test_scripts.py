"""The Python interface in a plain script: several processes without a guard, and a process that stays as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import NO_FIGURES
from support.stores import empty, uri

from pipeline.paths import PROJECT

STATE = """
import os, signal, sys
import matplotlib, numpy
from threadpoolctl import threadpool_info

def state():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    blas = [p["num_threads"] for p in threadpool_info() if "numpy" in p["filepath"]]
    threads = {k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS")}
    return [signal.getsignal(n) for n in numbers], list(sys.path), matplotlib.get_backend(), blas, threads, os.getcwd()

"""
SCRIPT = """
from pipeline import run, sweep

print("the script runs")
before = state()
result = sweep("experiment=smoke", "seed=0,1", "optimizer=sgd,momentum", "{figures}", "tracking.uri={uri}", jobs=2)
print(sorted(r.status for r in result.results))
run("experiment=smoke", "activation=relu", track=False).figure().savefig("figure.png")
print(before == state())
"""


def execute(code: str, folder: Path) -> str:
    """Run a script in a folder of its own, and return what it prints."""
    (folder / "script.py").write_text(code)
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")} | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_untracked_run_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    lines = SCRIPT.splitlines()
    without_sweep = "\n".join(line for line in lines if "result" not in line)
    assert execute(STATE + without_sweep, tmp_path) == "the script runs\nTrue\n"


@pytest.mark.thorough
def test_script_without_a_guard_uses_several_processes_and_stays_as_it_was(tmp_path: Path) -> None:
    """Without a guard, Python would run the script in each process, which would start processes in turn."""
    script = SCRIPT.format(figures=NO_FIGURES, uri=empty(uri(tmp_path)))
    assert execute(STATE + script, tmp_path) == f"the script runs\n{['FINISHED'] * 8}\nTrue\n"
