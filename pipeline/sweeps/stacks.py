"""Stacks: group the cells of a sweep that can train as one array program.

Cells share a stack if they have the same shapes: architecture, activations, cost, batch sizes, number of steps, probes,
measured steps, and the same terms of the optimizer. Seed, learning rate, momentum, weight decay, clipping bound,
initialisation, data and early stopping may differ; β₁, β₂ and ε of Adam may not. A stack changes no number: see
:func:`pipeline.training.loop.train_stack`.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.blocks import flatten
from engine.probes import traits_of
from pipeline.caching import cached
from pipeline.config.schedules import Schedule, TrainingLength
from pipeline.config.schema import Config, scientific
from pipeline.data.batching import Batching
from pipeline.runs.job import CellJob, Stack
from pipeline.training.prepare import PreparedRun, blocks_of
from pipeline.training.trainer import is_stackable
from pipeline.wording import counted

STACK_BYTES = 24 * 2**20  # of a training step; `python -m benchmarks.sweep --rows stack_size` measures other sizes
MOST_CELLS = 64  # a stack that fails is repeated cell by cell
FREE_KEYS = (
    *("seed", "init", "data", "optimizer", "schedule", "probe_schedules", "evaluation", "early_stopping"),
    *("epochs", "steps"),
)


def plan_stacks(jobs: Sequence[CellJob], processes: int = 1) -> list[Stack]:
    """Return the jobs in stacks. Cells that draw the same batches come into the same stack where possible.

    Args:
        jobs: The cells of a sweep, in order.
        processes: The number of stacks that run at the same time; none of them stays idle if there are enough cells.
    """
    groups: dict[str, list[CellJob]] = defaultdict(list)
    firsts: dict[str, CellJob] = {}
    for job in jobs:
        firsts.setdefault(job.cell_id, job)
    for job in firsts.values():
        groups[stack_key(job)].append(job)
    stacks: list[Stack] = []
    for group in groups.values():
        size = min(stack_size(group[0].run), max(1, len(group) // processes))
        by_batches: dict[str, list[CellJob]] = defaultdict(list)
        for job in group:
            by_batches[_batches_key(job)].append(job)
        rest: list[CellJob] = []
        for same in by_batches.values():
            whole = len(same) // size * size
            stacks += _cut(same[:whole], size)
            rest += same[whole:]
        stacks += _cut(rest, size)
    repeats = [[job] for job in jobs if firsts[job.cell_id] is not job]  # a cell that occurs twice is skipped later
    return [*stacks, *repeats]


def describe_stacks(stacks: Sequence[Stack], processes: int) -> str:
    """Return how the cells are trained, such as "256 cells in 8 stacks on 2 processes"."""
    cells, count = sum(len(stack) for stack in stacks), len(stacks)
    text = counted(cells, "cell") + (f" in {counted(count, 'stack')}" if count < cells else "")
    return text + (f" on {processes} processes" if processes > 1 else "")


def _cut(jobs: Sequence[CellJob], size: int) -> list[Stack]:
    return [jobs[start : start + size] for start in range(0, len(jobs), size)]


def stack_size(run: PreparedRun) -> int:
    """Return the most cells of a stack: its arrays fit the cache.

    Args:
        run: One of the cells.
    """
    return max(1, min(MOST_CELLS, STACK_BYTES // bytes_of_cell(run)))


def bytes_of_cell(run: PreparedRun) -> int:
    """Return the bytes that a cell adds to the arrays of a training step."""
    config = run.config
    batch = config.batching.largest(run.facts.train_examples)
    blocks = list(flatten(blocks_of(run)))
    numbers = sum(int(np.prod(shape)) for block in blocks for shape in block.buffers(batch).values())
    parameters = sum(int(np.prod(p.shape)) for block in blocks for p in block.parameters)
    return config.replicates * (numbers + 3 * parameters) * np.dtype(config.dtype).itemsize  # θ, ∇C, Δθ


def stack_key(job: CellJob) -> str:
    """Return a text that is the same for cells that may share a stack.

    A cell with a costly probe has a stack of its own: the probe takes most of the time, and memory for each cell.
    """
    run, config = job.run, job.run.config
    if any(traits_of(probe).costly for probe in config.probes.values()):
        return job.cell_id
    shared = {key: value for key, value in scientific(job.raw_config).items() if key not in FREE_KEYS}
    schedules = {name: config.probe_schedules.get(name, config.schedule) for name in config.probes}
    facts = [
        run.sizes,
        run.length.last_step,
        run.facts.classes is None,
        _batch_sizes(config.batching, run.facts.train_examples),
        {name: _digest_of_steps(schedule, run.length) for name, schedule in schedules.items()},
        _optimizer_terms(config, job.raw_config["optimizer"]),
    ]
    if any(traits_of(probe).of_step for probe in config.probes.values()):  # such a probe may pass over these examples
        facts.append(min(config.evaluation.train_examples, run.facts.train_examples))
    return json.dumps([shared, facts], sort_keys=True)


def _optimizer_terms(config: Config, raw_optimizer: Mapping[str, Any]) -> Any:
    """Return the optimizer's config without the numbers that may differ. A class of the user's own keeps all."""
    optimizer = config.optimizer
    if not is_stackable(optimizer):
        return raw_optimizer
    terms = {**raw_optimizer, "learning_rate": None}
    terms |= {name: bool(getattr(optimizer, name)) for name in optimizer.per_member_names if name != "learning_rate"}
    if optimizer.clipping is not None:
        terms["clipping"] = type(optimizer.clipping).__name__
    return terms


@cached(maxsize=1000)
def _digest_of_steps(schedule: Schedule, length: TrainingLength) -> str:
    return hashlib.sha256(np.array(schedule.steps(length), dtype=np.int64).tobytes()).hexdigest()


@cached(maxsize=1000)
def _batch_sizes(batching: Batching, train_count: int) -> tuple[int, ...]:
    """Return the size of each batch of an epoch; one number if all are equal."""
    batches = batching.batches(train_count, np.random.default_rng(0))
    sizes = tuple(len(next(batches)) for _ in range(batching.steps_per_epoch(train_count)))
    return sizes if len(set(sizes)) > 1 else sizes[:1]


def _batches_key(job: CellJob) -> str:
    """Return a text that is the same for cells that draw the same batches from the same data."""
    return json.dumps([job.raw_config[key] for key in ("seed", "data", "batching", "evaluation")], sort_keys=True)
