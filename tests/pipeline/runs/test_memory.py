"""Memory of a run: it does not grow with the number of measurements."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support.commands import NO_FIGURES
from support.configs import raw_config
from support.stores import empty, opened, uri

from pipeline.analysis import summary
from pipeline.paths import PROJECT
from pipeline.runs import record_writer
from pipeline.runs.cell import CellTask
from pipeline.runs.execute import Execution
from pipeline.runs.job import Attempt, CellJob, RunOptions, prepare_cell
from pipeline.tracking import run_logger
from pipeline.tracking.client import Client
from pipeline.tracking.store import Store
from pipeline.training import checkpoints
from pipeline.training.records import Record

LIMITS = (
    (summary, "MOST_SAMPLES", 20),
    (record_writer, "ROWS", 200),
    (checkpoints, "SEGMENT_VALUES", 200),
    (run_logger, "QUEUE", 200),
)
PROBES = ("gradient_norm", "delta_rms", "dead_fraction", "saturated_fraction", "update_to_weight")


def execution_peak(job: CellJob, store: Store, measurements: int) -> int:
    """Return the most memory that one run's execution allocates, bytes."""
    rng = np.random.default_rng(0)
    layers = tuple(range(1, len(job.run.sizes)))
    tracemalloc.start()
    try:
        with Execution(CellTask(job, "new", Attempt(), {}), store, RunOptions(command="x", figures=False)) as execution:
            execution.prepare()
            for number in range(measurements):
                for probe in PROBES:
                    execution.add(Record(10 * number, probe, layers, rng.random((len(layers), 1)), False))
                execution.add(Record(10 * number, "cost/train", (), rng.random((1, 1)), False))
            assert execution.finish({}).status == "FINISHED"
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("seconds", ["60", "null"])
@pytest.mark.thorough
def test_memory_of_a_run_does_not_grow_with_its_measurements(
    seconds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in LIMITS:
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(Client, "log", lambda *arguments: None)  # writing rows takes longest
    raw = raw_config("data=iris", "architecture.hidden=[4,4]", f"checkpoints.seconds={seconds}")
    job = prepare_cell(raw, "long", {}, {})
    empty(uri(tmp_path))
    store = opened(tmp_path)
    execution_peak(job, store, 1)  # MLflow allocates at its first calls
    short, long = (execution_peak(job, store, count) for count in (100, 1000))
    assert long <= 1.25 * short


MEASURE = """
import resource, sys
from pipeline.cli import main
code = main(sys.argv[1:])
print("KiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""
TINY = (
    "data=iris", "architecture.hidden=[4,4]", "batching.size=20", "probes=essential", "schedule=every",
    "schedule.n=10", "schedule@evaluation.schedule=every", "evaluation.schedule.n=10",
)  # fmt: skip


def process_peak(folder: Path, steps: int) -> int:
    """Return the most memory of a process that runs a config, KiB."""
    folder.mkdir()
    argv = ["run", *TINY, NO_FIGURES, f"steps={steps}", f"tracking.uri={empty(uri(folder))}"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *argv], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return int(done.stdout.rpartition("KiB ")[2])


@pytest.mark.thorough
def test_run_of_100_000_steps_needs_at_most_half_as_much_memory_again_as_one_of_1000(tmp_path: Path) -> None:
    short, long = (process_peak(tmp_path / str(steps), steps) for steps in (1_000, 100_000))
    assert long <= 1.5 * short
