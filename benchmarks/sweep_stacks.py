"""Time training in stacks against each cell alone, and stacks of every size, without a store."""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.sweep_commands import FASHION, FULL_GRID, QUICK_GRID, require_fashion_mnist
from benchmarks.sweep_page import Goal, Outcome, markdown_table
from pipeline.config.compose import compose_sweep
from pipeline.runs.job import CellJob, Stack
from pipeline.sweeps.plan import prepare_cells
from pipeline.sweeps.stacks import MOST_CELLS, STACK_BYTES, bytes_of_cell, describe_stacks, plan_stacks, stack_size
from pipeline.training.loop import StackCell, train_stack
from pipeline.training.prepare import PreparedRun
from pipeline.training.records import Record
from pipeline.training.timing import Timer

DIGITS_5 = ["architecture.hidden=[30,30,30,30,30]"]  # 64-30x5-10
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Training:
    """The training of some cells.

    Attributes:
        step_seconds: Processor time of the training steps.
        seconds: Processor time of the whole training.
        digests: A digest of the records of each cell.
    """

    step_seconds: float
    seconds: float
    digests: list[str]


def prepared_jobs(overrides: Sequence[str]) -> list[CellJob]:
    """Return the cells of a sweep, ready to train."""
    return prepare_cells(compose_sweep(overrides), "benchmark", {}, quiet=True)


def train_together(runs: Sequence[PreparedRun]) -> Training:
    """Train cells in one stack."""
    records: list[list[Record]] = [[] for _ in runs]
    gc.collect()
    timer = Timer(time.process_time)
    for number, record in train_stack([StackCell(run) for run in runs], timer):
        records[number].append(record)
        timer.mark("records")
    seconds = sum(timer.seconds.values()) - timer.seconds.get("records", 0.0)
    return Training(timer.seconds.get("step", 0.0), seconds, [digest(own) for own in records])


def digest(records: Sequence[Record]) -> str:
    """Return a digest of records, with every byte of their values."""
    result = hashlib.sha256()
    for record in records:
        facts = (record._replace(values=np.empty(0)), record.values.shape, record.values.dtype.str)
        result.update(repr(facts).encode())
        result.update(record.values.tobytes())
    return result.hexdigest()


@dataclass(frozen=True)
class Comparison:
    """Cells trained in stacks and alone.

    Attributes:
        step_ratios: Time of the training steps alone over that in stacks, by round.
        ratios: The same ratio of the whole training.
        different: The number of cells whose records are not the same, byte by byte.
        cells: The number of cells.
    """

    step_ratios: list[float]
    ratios: list[float]
    different: int
    cells: int


def compare_stacks(stacks: Sequence[Stack], rounds: int) -> Comparison:
    """Train the cells of some stacks in these stacks and alone, in turns.

    Args:
        stacks: The stacks.
        rounds: The number of rounds. The side that begins changes from round to round.
    """
    step_ratios, ratios, different = [], [], 0
    together = [[job.run for job in stack] for stack in stacks]
    sides = {"stacks": together, "alone": [[run] for stack in together for run in stack]}
    for _ in range(rounds):
        sides = dict(reversed(sides.items()))
        done = {name: [train_together(runs) for runs in groups] for name, groups in sides.items()}
        step, whole = (
            {name: sum(getattr(training, field) for training in own) for name, own in done.items()}
            for field in ("step_seconds", "seconds")
        )
        step_ratios.append(step["alone"] / step["stacks"])
        ratios.append(whole["alone"] / whole["stacks"])
        first, second = ([one for training in own for one in training.digests] for own in done.values())
        different = max(different, sum(a != b for a, b in zip(first, second, strict=True)))
    return Comparison(step_ratios, ratios, different, sum(len(stack) for stack in stacks))


def stack_goals(net: str, least: float) -> tuple[Goal, ...]:
    """Return the goals of a comparison.

    Args:
        net: The name of the network.
        least: The least ratio of the steps' time alone to their time in stacks.
    """
    return (
        Goal(f"{net}: training steps alone / in stacks", least=least),
        Goal(f"{net}: whole training alone / in stacks"),
        Goal(f"{net}: cells with other records in a stack", most=0, unit="cells"),
    )


FASHION_GOALS = stack_goals("784-30-30-10", 1.5)
DIGITS_GOALS = stack_goals("64-30×5-10", 2.0)


def time_fashion_stacks(quick: bool) -> Outcome:
    """Compare stacks of 784-30-30-10 on Fashion-MNIST."""
    require_fashion_mnist()
    return _time_stacks(FASHION, FASHION_GOALS, quick)


def time_digits_stacks(quick: bool) -> Outcome:
    """Compare stacks of 64-30x5-10 on the digits."""
    return _time_stacks(DIGITS_5, DIGITS_GOALS, quick)


def _time_stacks(net: Sequence[str], goals: Sequence[Goal], quick: bool) -> Outcome:
    grid, rounds = (QUICK_GRID, 1) if quick else (FULL_GRID, 5)
    stacks = plan_stacks(prepared_jobs([*net, *grid.overrides()]))
    # The first stacks share their batches, the last ones do not.
    chosen = [stacks[place] for place in sorted({0, len(stacks) // 2, len(stacks) - 1})]
    compared = compare_stacks(chosen, rounds)
    values = (compared.step_ratios, compared.ratios, compared.different)
    plan = describe_stacks(stacks, processes=1)
    section = f"""\
## Stacks and cells alone: {goals[0].quantity.partition(":")[0]}

A sweep trains {plan}, {grid.steps} steps each. The first, the middle and the last stack are timed,
{compared.cells} cells in all, against the same cells alone. The records of both sides are compared byte by byte."""
    return Outcome(dict(zip((goal.quantity for goal in goals), values, strict=True)), [section])


@dataclass(frozen=True)
class StackNet:
    """A network whose stacks are timed in every size.

    Attributes:
        name: The name in the table.
        overrides: The overrides of one cell.
        own_batches: Whether each cell draws batches of its own.
    """

    name: str
    overrides: Sequence[str]
    own_batches: bool = False


STACK_NETS = (
    StackNet("784-30-30-10, shared batches", FASHION),
    StackNet("784-30-30-10, own batches", FASHION, own_batches=True),
    StackNet("64-30×5-10", DIGITS_5),
    StackNet("64-10×20-10", ["architecture=deep", "architecture.depth=20", "architecture.width=10"]),
)
UNMEASURED = ["activation=tanh", "probes=none", "schedule@evaluation.schedule=first_and_last"]
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class SizeTimes:
    """The times of stacks of one network.

    Attributes:
        net: The network.
        bytes_of_cell: The bytes that ``stack_size`` counts for a cell.
        planned: The size of stacks in a sweep.
        seconds: Time per cell and step, by the size of the stack.
    """

    net: StackNet
    bytes_of_cell: int
    planned: int
    seconds: dict[int, float]

    @property
    def loss(self) -> float:
        """The time with the planned size, or the largest if it is larger, over that with the fastest."""
        return self.seconds[min(self.planned, max(self.seconds))] / min(self.seconds.values())

    def cell(self, size: int) -> str:
        """Return the time of a size as text."""
        if size not in self.seconds:
            return "-"
        text = f"{self.seconds[size] * 1e6:.1f} ({size * self.bytes_of_cell / MEBIBYTE:.1f})"
        return f"**{text}**" if size == self.planned else text


def time_sizes(net: StackNet, sizes: Sequence[int], rounds: int, cell_steps: int) -> SizeTimes:
    """Time the training steps of stacks of several sizes.

    Args:
        net: The network.
        sizes: The sizes. The size that a sweep plans is added if it is smaller than the largest.
        rounds: The number of rounds. All sizes alternate.
        cell_steps: The steps of all cells of a stack in one turn, but at least 20 steps a cell.
    """
    runs = _runs_of(net, max(sizes))
    planned = stack_size(runs[0])
    times: dict[int, list[float]] = {size: [] for size in sorted({*sizes, min(planned, len(runs))})}
    for _ in range(rounds):
        for size, seconds in times.items():
            steps = max(20, cell_steps // size)
            training = train_together([_with_steps(run, steps) for run in runs[:size]])
            seconds.append(training.step_seconds / size / steps)
    medians = {size: float(np.median(seconds)) for size, seconds in times.items()}
    return SizeTimes(net, bytes_of_cell(runs[0]), planned, medians)


def _runs_of(net: StackNet, cells: int) -> list[PreparedRun]:
    """Return cells that share a stack."""
    own = f"seed=range(0,{cells})"
    shared = f"optimizer.learning_rate={','.join(f'{1e-4 * (1 + n):.4f}' for n in range(cells))}"
    return [job.run for job in prepared_jobs([*net.overrides, *UNMEASURED, own if net.own_batches else shared])]


def _with_steps(run: PreparedRun, steps: int) -> PreparedRun:
    return replace(run, length=replace(run.length, last_step=steps - 1))  # the last step only measures


def size_goal(net: StackNet) -> Goal:
    """Return the quantity that the part of a network measures. It has no limit."""
    return Goal(f"{net.name}: time with the planned stacks / with the fastest")


def time_stack_sizes(net: StackNet) -> Callable[[bool], Outcome]:
    """Return the function that times the stacks of a network.

    Args:
        net: The network.
    """

    def measure(quick: bool) -> Outcome:
        if net.overrides == FASHION:
            require_fashion_mnist()
        times = time_sizes(net, (1, 2), 1, 0) if quick else time_sizes(net, SIZES, 5, 4000)
        sizes = sorted(times.seconds)
        section = f"""\
## Stacks of {net.name}

Microseconds of the training steps per cell and step; in brackets the MiB that `stack_size` counts. A sweep trains
{times.planned} cells in a stack (bold): `STACK_BYTES` is {STACK_BYTES / MEBIBYTE:g} MiB, and a stack has at most
{MOST_CELLS} cells."""
        table = markdown_table(["cells", *map(str, sizes)], [["µs (MiB)", *(times.cell(size) for size in sizes)]])
        return Outcome({size_goal(net).quantity: times.loss}, [section, table])

    return measure
