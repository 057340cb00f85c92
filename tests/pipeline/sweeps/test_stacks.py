"""Stacks of cells: which cells share one, and that a stack changes no byte of any cell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import Shown, invoke, sweep_command
from support.configs import config, raw_config
from support.examples import examples
from support.stores import assert_same as assert_same_content
from support.stores import content, empty, opened, uri

from engine.arrays import Array
from engine.network import Network
from engine.optimizers import SGD
from pipeline.config.schedules import Every
from pipeline.paths import PROJECT
from pipeline.reproducibility.hash_chain import HashChain
from pipeline.runs.job import CellJob, prepare_cell
from pipeline.sweeps.stacks import MOST_CELLS, plan_stacks, stack_key, stack_size
from pipeline.tracking.store import download
from pipeline.training.loop import Callbacks, StackCell, train, train_stack
from pipeline.training.prepare import prepare_run
from pipeline.training.records import Record

Links = list[str]
CLIPPING = "clipping@optimizer.clipping"
SHARED = [
    ("data=iris", "architecture.hidden=[5,4]", "activation=tanh", "epochs=1", "batching.size=20"),
    ("data=digits", "architecture=deep", "architecture.depth=4", "architecture.width=6", "activation=relu", "epochs=0"),
    ("data=iris", "architecture.hidden=[6]", "activation=gelu", "dtype=float32", "epochs=1", "batching=full_batch"),
    ("data=diabetes", "cost=half_squared_error", "activation@output=identity", "architecture.hidden=[4]", "epochs=1"),
    ("data=gaussian_noise", "data.source.examples=60", "architecture.hidden=[5,5]", "epochs=2", "batching.size=16"),
    ("data=iris", "architecture.hidden=[5,4]", "activation=selu", "epochs=2", "replicates=3", "batching.size=40"),
]
PROBES = [("probes=standard",), ("probes=exponents", "schedule=every"), ("probes=noise",), ("probes=weights",)]
OPTIMIZERS = [
    ("optimizer=sgd",),
    ("optimizer=momentum",),
    ("optimizer=nesterov", "optimizer.weight_decay=0.01"),
    ("optimizer=sgd", f"{CLIPPING}=global_norm", "optimizer.clipping.max_norm=0.1"),
    ("optimizer=momentum", f"{CLIPPING}=per_layer", "optimizer.clipping.max_norm=0.1"),
    ("optimizer=adam",),
    ("optimizer=adam", "optimizer.weight_decay=0.01", "optimizer.beta1=0"),
    ("optimizer=adam", f"{CLIPPING}=global_norm", "optimizer.clipping.max_norm=0.1"),
]
INITIALISERS = [
    ("init=he_normal",),
    ("init=orthogonal",),
    ("init=gaussian", "init.weights.std=1e30"),
    ("init=matched",),
]


def job(*overrides: str) -> CellJob:
    return prepare_cell(raw_config(*overrides), " ".join(overrides), {}, {})


def alone_and_in_a_stack(jobs: Sequence[CellJob]) -> tuple[list[tuple[list[Record], Links]], ...]:
    """Return the records and the chain's heads of each cell, trained alone and trained in one stack."""
    return [trained([job])[0] for job in jobs], trained(jobs)


def trained(jobs: Sequence[CellJob]) -> list[tuple[list[Record], Links]]:
    chains = [HashChain(job.run, Every(3)) for job in jobs]
    cells = [StackCell(job.run, Callbacks(observer=chain)) for job, chain in zip(jobs, chains, strict=True)]
    records: list[list[Record]] = [[] for _ in jobs]
    for number, record in train_stack(cells):
        records[number].append(record)
    return [(own, chain.heads) for own, chain in zip(records, chains, strict=True)]


def assert_same(alone: tuple[list[Record], Links], stacked: tuple[list[Record], Links]) -> None:
    for a, b in zip(alone[0], stacked[0], strict=True):
        assert (a.step, a.probe, a.layers, a.bins, a.geometric, a.sparse) == (
            b.step, b.probe, b.layers, b.bins, b.geometric, b.sparse,
        )  # fmt: skip
        assert a.values.tobytes() == b.values.tobytes(), (a.step, a.probe)
    assert alone[1] == stacked[1]


EARLY = ("data.validation_fraction=0.25", "schedule@evaluation.schedule=every")


@st.composite
def sweeps(draw: st.DrawFn) -> list[tuple[str, ...]]:
    """The overrides of cells that may share a stack: everything may differ that the shapes do not depend on."""
    optimizer = draw(st.sampled_from(OPTIMIZERS))
    early = EARLY if draw(st.booleans()) else ()
    shared = (*draw(st.sampled_from(SHARED)), *draw(st.sampled_from(PROBES)), *optimizer, *early)
    cells = []
    for _ in range(draw(st.integers(2, 4))):
        own = [f"seed={draw(st.integers(0, 3))}", *draw(st.sampled_from(INITIALISERS))]
        own.append(f"optimizer.learning_rate={draw(st.sampled_from([0.0, 0.01, 0.3, 1e30]))}")
        if optimizer[0] in ("optimizer=momentum", "optimizer=nesterov"):
            own.append(f"optimizer.momentum={draw(st.sampled_from([0.5, 0.9]))}")
        if "optimizer.weight_decay=0.01" in optimizer:
            own.append(f"optimizer.weight_decay={draw(st.sampled_from([0.1, 0.001]))}")
        if "optimizer.clipping.max_norm=0.1" in optimizer:
            own.append(f"optimizer.clipping.max_norm={draw(st.sampled_from([1e-3, 1.0]))}")
        if early and draw(st.booleans()):
            own += ["early_stopping=validation", f"early_stopping.patience={draw(st.sampled_from([1, 3]))}"]
        own.append(f"data.standardise={draw(st.booleans())}")
        cells.append((*shared, *own))
    return cells


@settings(max_examples=examples(60), deadline=None)
@given(cells=sweeps())
def test_stack_changes_no_byte_of_any_cell(cells: list[tuple[str, ...]]) -> None:
    jobs = [job(*overrides) for overrides in cells]
    assert len({stack_key(job) for job in jobs}) == 1
    for alone, stacked in zip(*alone_and_in_a_stack(jobs), strict=True):
        assert_same(alone, stacked)


# Which cells share a stack

SMALL = ("data=iris", "architecture.hidden=[5,4]", "epochs=1", "batching.size=20")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("activation=tanh", "activation=relu"),
        ("architecture.hidden=[5,4]", "architecture.hidden=[5,5]"),
        ("cost=cross_entropy activation@output=sigmoid", "cost=log_likelihood"),
        ("batching.size=20", "batching.size=25"),
        ("dtype=float64", "dtype=float32"),
        ("replicates=1", "replicates=2"),
        ("epochs=1", "epochs=2"),
        ("schedule=every", "schedule=first_and_last"),
        ("probes=none", "probes=essential"),
        ("optimizer=sgd", "optimizer=momentum"),
        ("optimizer=momentum", "optimizer=nesterov"),
        ("optimizer=momentum", "optimizer=adam"),
        ("optimizer=adam optimizer.beta1=0.9", "optimizer=adam optimizer.beta1=0.8"),
        ("optimizer=adam optimizer.beta2=0.9", "optimizer=adam optimizer.beta2=0.8"),
        ("optimizer=adam optimizer.epsilon=1e-8", "optimizer=adam optimizer.epsilon=1e-7"),
        ("optimizer=adam optimizer.weight_decay=0", "optimizer=adam optimizer.weight_decay=0.1"),
        ("optimizer.weight_decay=0", "optimizer.weight_decay=0.1"),
        ("optimizer=sgd", f"{CLIPPING}=global_norm optimizer.clipping.max_norm=1"),
        ("divergence.stop=true", "divergence.stop=false"),
    ],
)
def test_cells_with_other_shapes_or_terms_share_no_stack(first: str, second: str) -> None:
    jobs = [job(*(o for o in SMALL if o.partition("=")[0] not in text), *text.split()) for text in (first, second)]
    assert [len(stack) for stack in plan_stacks(jobs)] == [1, 1]


@pytest.mark.parametrize(
    "changes",
    [
        ["seed=0", "seed=7"],
        ["optimizer.learning_rate=0.1", "optimizer.learning_rate=0.2"],
        ["init=he_normal", "init=orthogonal"],
        ["data.subset=40", "data.subset=80"],
        ["data.standardise=true", "data.standardise=false"],
        ["optimizer.weight_decay=0.1", "optimizer.weight_decay=0.2"],
        ["evaluation.train_examples=20", "evaluation.train_examples=30"],
    ],
    ids=lambda changes: changes[0].partition("=")[0],
)
def test_cells_with_equal_shapes_share_a_stack_and_keep_their_numbers(changes: list[str]) -> None:
    length = ("epochs=null", "steps=5") if "subset" in changes[0] else ()
    base = [o for o in SMALL if not (length and o.startswith("epochs"))]
    jobs = [job(*base, *length, "probes=standard", change) for change in changes]
    assert plan_stacks(jobs) == [jobs]
    for alone, stacked in zip(*alone_and_in_a_stack(jobs), strict=True):
        assert_same(alone, stacked)


def test_costly_probe_has_a_stack_of_its_own() -> None:
    jobs = [job(*SMALL, "+probe@probes.sharpness=sharpness", f"seed={seed}") for seed in (0, 1)]
    assert [len(stack) for stack in plan_stacks(jobs)] == [1, 1]


def test_stacks_are_bounded_and_every_cell_is_in_one() -> None:
    jobs = [job(*SMALL, f"optimizer.learning_rate={0.001 * (k + 1):g}", f"seed={k % 3}") for k in range(70)]
    for processes in (1, 2, 3):
        stacks = plan_stacks(jobs, processes)
        assert sorted(id(job) for stack in stacks for job in stack) == sorted(map(id, jobs))
        assert max(map(len, stacks)) <= MOST_CELLS
        assert len(stacks) >= processes
    large = replace(jobs[0], run=prepare_run(config("architecture.hidden=[2000,2000]", "data=iris")))
    assert stack_size(large.run) == 1
    assert stack_size(jobs[0].run) == MOST_CELLS


def test_cells_that_draw_the_same_batches_come_together() -> None:
    jobs = [job(*SMALL, f"optimizer.learning_rate={rate}", f"seed={seed}") for rate in (0.1, 0.2) for seed in (0, 1)]
    assert [[j.run.config.seed for j in stack] for stack in plan_stacks(jobs, processes=2)] == [[0, 0], [1, 1]]


# A stack in the store

PARTS = """
import engine.initializers

CALLS = []

class Once(engine.initializers.Gaussian):
    def sample(self, rng, parameter):
        CALLS.append(parameter)
        if len(CALLS) > 3:  # the check draws the three layers once
            raise ValueError("boom")
        return super().sample(rng, parameter)
"""
SWEPT = (*SMALL, "optimizer.learning_rate=0.1,0.2", "seed=0,1", "schedule=every", "schedule.n=3")


def swept(folder: Path, *overrides: str, **options: Any) -> Shown:
    folder.mkdir(exist_ok=True)
    return sweep_command(*overrides, f"tracking.uri={uri(folder)}", **options)


@pytest.mark.thorough
def test_store_does_not_depend_on_stacks(tmp_path: Path) -> None:
    stacked = swept(tmp_path / "stacked", *SWEPT, jobs=1)
    alone = swept(tmp_path / "alone", *SWEPT, jobs=1, is_stacked=False)
    assert "4 cells in 1 stack, sweep" in stacked.text
    assert "4 cells, sweep" in alone.text
    assert_same_content(content(tmp_path / "stacked"), content(tmp_path / "alone"))
    again = swept(tmp_path / "alone", *SWEPT, jobs=1)
    assert "4 skipped" in again.text
    runs = opened(tmp_path / "stacked").search("tags.kind = 'run'")
    for run in runs:
        log = download(opened(tmp_path / "stacked"), run.info.run_id, "run.log", tmp_path).read_text()
        assert log.count("layers [4, 5, 4, 3]") == 1, "only its own messages"


def test_replay_of_a_cell_of_a_stack_is_identical(tmp_path: Path) -> None:
    swept(tmp_path, *SWEPT, jobs=1)
    run = opened(tmp_path).search("tags.kind = 'run'")[-1]
    assert "identical" in invoke("reproduce", "--uri", uri(tmp_path), run.info.run_id).out


def test_only_the_cell_at_fault_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stackparts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    target = "init.weights._target_=engine.initializers.Gaussian,stackparts.Once"
    result = swept(tmp_path / "store", *SMALL, "init=gaussian", target, jobs=1)
    sys.modules.pop("stackparts", None)
    assert "2 cells in 1 stack" in result.text
    assert result.code == 1
    assert sorted(r.info.status for r in opened(tmp_path / "store").search("tags.kind = 'run'")) == [
        "FAILED",
        "FINISHED",
    ]
    assert "boom" in result.text
    assert "2 trained" in result.text


def test_cell_that_diverges_ends_and_the_others_train_on(tmp_path: Path) -> None:
    rates = "optimizer.learning_rate=0.1,1e80"
    kind = ("activation=relu", "init=gaussian", "init.weights.std=1.0")
    swept(tmp_path, *SMALL, *kind, rates, jobs=1)
    runs = opened(tmp_path).search("tags.kind = 'run'")
    assert sorted(run.data.tags["diverged"] for run in runs) == ["false", "true"]
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.thorough
def test_probe_of_one_number_is_right_in_a_stack_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's probe that ignores the ensemble would measure all cells at once: its cells are repeated alone."""
    text = "import numpy as np\n\ndef total(layer):\n    return np.linalg.norm(layer.dW)\n"
    (tmp_path / "sloppyparts.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = ("+probes.total._target_=sloppyparts.total", "+probes.total._partial_=true", "seed=0,1")
    for name, stacked in (("stacked", True), ("alone", False)):
        assert swept(tmp_path / name, *SMALL, *own, jobs=1, is_stacked=stacked).code == 0
    sys.modules.pop("sloppyparts", None)
    stacked_content, alone = content(tmp_path / "stacked"), content(tmp_path / "alone")
    for name, (_, _, records, *_) in alone.items():
        pd.testing.assert_frame_equal(stacked_content[name][2], records, check_exact=True)


def test_optimizer_of_the_users_own_keeps_its_numbers() -> None:
    """Its class may not know arrays of hyperparameters: it gets its own floats, which are equal in a stack."""

    @dataclass(frozen=True)
    class Signs(SGD):
        def propose(self, network: Network, state: Array, step: int, total_steps: int) -> Array:
            return np.multiply(np.sign(network.grad), -self.learning_rate, out=network.update)

    runs = []
    for seed in (0, 1, 2):
        base = config(*SMALL, f"seed={seed}", "dtype=float32", "replicates=3")
        own = Signs(0.01, 0.0, False, 0.0, None, base.optimizer.learning_rate_schedule)
        runs.append(prepare_run(replace(base, optimizer=own)))
    together: list[list[Record]] = [[] for _ in runs]
    for number, record in train_stack([StackCell(run) for run in runs]):
        together[number].append(record)
    for run, own_records in zip(runs, together, strict=True):
        alone = list(train(run))
        assert [r.values.tobytes() for r in own_records] == [r.values.tobytes() for r in alone]


def test_same_cell_twice_is_trained_once_and_skipped_once(tmp_path: Path) -> None:
    result = swept(tmp_path, *SMALL, "optimizer.learning_rate=0.1,0.10,0.2", jobs=1)
    assert "another process" not in result.text
    assert "2 trained, 1 skipped" in result.text


def test_failed_stack_leaves_no_run_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stackparts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    target = "init.weights._target_=stackparts.Once,engine.initializers.Gaussian"
    result = swept(tmp_path / "store", *SMALL, "init=gaussian", target, "seed=0,1", jobs=1, fail_fast=True)
    sys.modules.pop("stackparts", None)
    assert result.code == 1
    runs = opened(tmp_path / "store").search("tags.kind = 'run'")
    assert "RUNNING" not in {run.info.status for run in runs}
    log = download(opened(tmp_path / "store"), runs[0].info.run_id, "run.log", tmp_path).read_text()
    assert "the stack failed; its cells are repeated one by one" in log


@pytest.mark.thorough
def test_interrupted_stack_leaves_no_folder_and_prints_nothing_of_its_runs(tmp_path: Path) -> None:
    temporary = tmp_path / ("t" * 100)  # longer than a socket's address
    temporary.mkdir()
    command = [sys.executable, "-m", "pipeline", "sweep", "--jobs", "2", *SMALL[:2], "epochs=null", "steps=1000000"]
    command += ["seed=0,1", "optimizer.learning_rate=0.1,0.2,0.3", f"tracking.uri={empty(uri(tmp_path))}"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not list(temporary.glob("gradvitals-run-*")):
            time.sleep(0.2)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (143, "")
    assert not list(temporary.glob("gradvitals-run-*"))
