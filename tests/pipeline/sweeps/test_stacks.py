"""Stacks of cells: which cells share one, and that a stack changes no byte of any cell."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from support.configs import raw_config
from support.examples import examples

from pipeline.config.schedules import Every
from pipeline.reproducibility.hash_chain import HashChain
from pipeline.runs.job import CellJob, prepare_cell
from pipeline.sweeps.stacks import stack_key
from pipeline.training.loop import Callbacks, StackCell, train_stack
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


@st.composite
def sweeps(draw: st.DrawFn) -> list[tuple[str, ...]]:
    """The overrides of cells that may share a stack: everything may differ that the shapes do not depend on."""
    optimizer = draw(st.sampled_from(OPTIMIZERS))
    shared = (*draw(st.sampled_from(SHARED)), *draw(st.sampled_from(PROBES)), *optimizer)
    cells = []
    for _ in range(draw(st.integers(2, 4))):
        own = [f"seed={draw(st.integers(0, 3))}", *draw(st.sampled_from(INITIALISERS))]
        own.append(f"optimizer.learning_rate={draw(st.sampled_from([0.0, 0.01, 0.3, 1e30]))}")
        if "optimizer=sgd" not in optimizer:
            own.append(f"optimizer.momentum={draw(st.sampled_from([0.5, 0.9]))}")
        if "optimizer.weight_decay=0.01" in optimizer:
            own.append(f"optimizer.weight_decay={draw(st.sampled_from([0.1, 0.001]))}")
        if len(optimizer) == 3:
            own.append(f"optimizer.clipping.max_norm={draw(st.sampled_from([1e-3, 1.0]))}")
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
