"""Train cells without a store: records, verdict and network stay in memory, and nothing is written."""

from __future__ import annotations

from dataclasses import dataclass

from threadpoolctl import threadpool_limits

from engine.network import Network
from pipeline.analysis.expectation import expect
from pipeline.analysis.summary import Summary
from pipeline.progress import Bars
from pipeline.runs.conclusion import conclude
from pipeline.runs.job import CellJob, Stack
from pipeline.runs.result import UNTRACKED, RunResult
from pipeline.tracking.artifact_parsers import Theory, parse_theory
from pipeline.tracking.metrics import log10_mean
from pipeline.training.divergence import Divergence
from pipeline.training.loop import Callbacks, StackCell, train_stack
from pipeline.training.parameter_file import parameters_of
from pipeline.training.prepare import PreparedRun, blocks_of


@dataclass(frozen=True)
class TrainedCell:
    """A cell that was trained without a store.

    Attributes:
        job: The cell.
        result: Its numbers, verdict and explanation.
        summary: Its records.
        theory: The theoretical prediction; None if there is none.
        network: The trained network [R].
    """

    job: CellJob
    result: RunResult
    summary: Summary
    theory: Theory | None
    network: Network


def train_untracked(stack: Stack, bars: Bars) -> list[TrainedCell]:
    """Train the cells of a stack together and return them."""
    cells = [_Cell(job) for job in stack]
    name = stack[0].name if len(stack) == 1 else f"{len(stack)} cells"
    with threadpool_limits(1), bars.run(name, stack[0].run.length.last_step) as show_step:
        callbacks = [Callbacks(show_step, c.divergences.append, on_end=c.keep) for c in cells]
        parts = [StackCell(job.run, own) for job, own in zip(stack, callbacks, strict=True)]
        for number, record in train_stack(parts):
            cells[number].summary.add(record)
        return [cell.conclude() for cell in cells]


class _Cell:
    """A cell in training."""

    network: Network

    def __init__(self, job: CellJob) -> None:
        self.job = job
        self.summary = Summary(len(job.run.sizes) - 2)
        self.divergences: list[Divergence] = []

    def keep(self, network: Network) -> None:
        self.network = copy_of(network, self.job.run)

    def conclude(self) -> TrainedCell:
        job = self.job
        expectation = expect(job.run)
        result = RunResult(job.name, UNTRACKED, job.swept, "FINISHED")
        result = conclude(result, job.run, self.summary, self.divergences, expectation)
        theory = None
        if expectation is not None and result.profile is not None:
            theory = parse_theory(expectation.as_json(log10_mean(result.profile)))
        return TrainedCell(job, result, self.summary, theory, self.network)


def copy_of(network: Network, run: PreparedRun) -> Network:
    """Return a copy of a run's network with its own parameters and state."""
    copy = Network(blocks_of(run), network.ensemble, network.dtype)
    for own, source in zip(parameters_of(copy).values(), parameters_of(network).values(), strict=True):
        own[...] = source
    return copy
