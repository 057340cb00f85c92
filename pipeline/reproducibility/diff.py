"""Compare two logged runs: config, environment, the first difference, and how the difference grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from pipeline.config.changes import config_changes
from pipeline.errors import ConfigError
from pipeline.reports.figures.style import plot_label
from pipeline.reports.outputs import check_output, parse_output, png, write_output
from pipeline.reproducibility.chain_reader import ChainDifference, common_steps, first_chain_difference
from pipeline.reproducibility.difference_growth import (
    DifferenceSeries,
    GrowthRate,
    Pairs,
    chain_series,
    growth_figure,
    growth_rate,
    record_series,
)
from pipeline.reproducibility.environment import Provenance
from pipeline.reproducibility.environment_diff import changes
from pipeline.reproducibility.record_diff import RecordDifference, common_records, first_record_difference
from pipeline.reproducibility.replay import printable_lines
from pipeline.reproducibility.run_source import ReplayRun, find
from pipeline.tracking.uri import TrackingConfig

DOTS_PER_INCH = 130  # of the figure
TABLE_ROWS = 24  # of the table of growth


@dataclass(frozen=True)
class ReplicatePairing:
    """The replicates that are compared with each other.

    Attributes:
        pairs: Replicate of A, replicate of B.
        description: How they were paired, as text.
    """

    pairs: Pairs
    description: str


def pair_replicates(a: range, b: range) -> ReplicatePairing:
    """Pair replicates by seed; without a common seed, by number.

    Args:
        a: Seeds of A's replicates.
        b: Seeds of B's replicates.
    """
    common = range(max(a.start, b.start), min(a.stop, b.stop))
    if not common:
        pairs = [(k, k) for k in range(min(len(a), len(b)))]
        return ReplicatePairing(pairs, "no common seed: replicates are paired by number")
    pairs = [(seed - a.start, seed - b.start) for seed in common]
    seeds = f"seed {common.start}" if len(common) == 1 else f"seeds {common.start} ... {common.stop - 1}"
    unpaired = len(a) + len(b) - 2 * len(common)
    rest = f"; {unpaired} with other seeds not compared" if unpaired else ""
    return ReplicatePairing(pairs, f"replicates are paired by seed: {seeds}{rest}")


@dataclass(frozen=True)
class TrajectoryComparison:
    """The comparison of two runs' chains and records.

    Attributes:
        chain_difference: The first digest that differs.
        record_difference: The first record that differs.
        steps: Number of common steps of the chains.
        records: Number of common records.
        notes: Other differences.
        is_tampered: Whether one of the chains was changed after it was logged.
        growth: The difference by step.
    """

    chain_difference: ChainDifference | None
    record_difference: RecordDifference | None
    steps: int
    records: int
    notes: tuple[str, ...]
    is_tampered: bool
    growth: tuple[DifferenceSeries, ...]

    @property
    def has_difference(self) -> bool:
        """Return whether a common digest or record differs."""
        return self.chain_difference is not None or self.record_difference is not None

    @property
    def is_identical(self) -> bool:
        """Return whether all common digests and records are equal, and both runs end at the same step."""
        return not (self.has_difference or self.notes or self.is_tampered)

    @property
    def first_step(self) -> int:
        """Return the step of the first difference."""
        return min((d.step for d in (self.chain_difference, self.record_difference) if d is not None), default=0)

    @property
    def rates(self) -> dict[str, GrowthRate | None]:
        """Return the growth rate of each series by its name."""
        return {series.name: growth_rate(series) for series in self.growth}

    def lines(self) -> list[str]:
        """Return the comparison as text, the earlier difference first."""
        notes = [f"different: {note}" for note in self.notes]
        if not self.has_difference:
            return notes or [f"identical: {self.records} common records and {self.steps} common steps of the chain"]
        return [*self._difference_lines(), *notes]

    def _difference_lines(self) -> list[str]:
        record = "" if self.record_difference is None else self.record_difference.describe("A", "B")
        if self.chain_difference is None:
            return [f"first difference: {record}"]
        chain = self.chain_difference.describe("in A", "in B")
        names = f"differ at step {self.chain_difference.step}: {self.chain_difference.all_names()}"
        if self.record_difference is None:
            return [f"first difference: {chain}", names]
        if self.record_difference.step < self.chain_difference.step:
            return [f"first difference: {record}", f"in the chain: {chain}", names]
        return [f"first difference: {chain}", names, f"first different record: {record}"]


@dataclass(frozen=True)
class DiffResult:
    """The comparison of two logged runs.

    Attributes:
        runs: Id and name of A and B.
        circumstances: Differences of config and environment, and signs of tampering; one line each.
        pairing: The replicates that were compared.
        trajectory: The comparison of chains and records.
        figure: The file of the figure; None if none was written.
    """

    runs: tuple[str, str]
    circumstances: tuple[str, ...]
    pairing: ReplicatePairing
    trajectory: TrajectoryComparison
    figure: Path | None

    @property
    def exit_code(self) -> int:
        """Return 0 for identical runs, else 1."""
        return 0 if self.trajectory.is_identical else 1

    def lines(self) -> list[str]:
        """Return everything but the growth as text."""
        runs = [f"{letter} {run}" for letter, run in zip("AB", self.runs, strict=True)]
        return printable_lines([*runs, *self.circumstances, self.pairing.description, *self.trajectory.lines()])

    def table(self) -> Table | None:
        """Return the growth of the difference by step; None for runs without a difference."""
        if not self.trajectory.has_difference:
            return None
        table = Table(title="relative difference of the norms, over layers and replicates", title_justify="left")
        table.add_column("step", justify="right")
        columns = {s.name: dict(zip(s.steps, s.values.tolist(), strict=True)) for s in self.trajectory.growth}
        for name in columns:
            table.add_column(name, justify="right")
        steps = sorted({step for values in columns.values() for step in values if step >= self.trajectory.first_step})
        rows = np.linspace(0, len(steps) - 1, min(TABLE_ROWS, len(steps))).round().astype(int)
        for step in (steps[row] for row in np.unique(rows)):
            table.add_row(str(step), *(f"{values[step]:.2g}" if step in values else "" for values in columns.values()))
        return table

    def growth_lines(self) -> list[str]:
        """Return the growth rates and the figure's file as text; empty for runs without a difference."""
        if not self.trajectory.has_difference:
            return []
        missing = "has too few points between rounding and saturation to fit a growth rate"
        lines = [f"{name} {rate or missing}" for name, rate in self.trajectory.rates.items()]
        return printable_lines([*lines, *([f"wrote {self.figure}"] if self.figure else [])])


def diff(a: str, b: str, tracking: TrackingConfig, to: Path | None, force: bool = False) -> DiffResult:
    """Compare two logged runs.

    Args:
        a: The id of a run in the store, or a folder that a run was exported to.
        b: The other run.
        tracking: The store.
        to: The file to draw the growth of the difference to, .png; None draws nothing.
        force: Whether to replace a file that was not written here.

    Raises:
        ConfigError: There is no such run, or it cannot be read.
    """
    if to is not None:
        to = parse_output(to)
        if to.suffix.lower() != ".png" or not to.parent.is_dir():
            raise ConfigError(f"TO={to}: must be a file .png in a folder that exists")
        check_output(to, force)
    first, second = (find(run, tracking) for run in (a, b))
    raw_configs = first.raw_config(), second.raw_config()
    circumstances = _circumstances(first, second, raw_configs)
    pairing = pair_replicates(_seeds(first, raw_configs[0]), _seeds(second, raw_configs[1]))
    trajectory = compare_trajectories(first, second, pairing.pairs)
    figure = to if trajectory.has_difference else None
    if figure is not None:
        title = f"A {plot_label(first.name)}, B {plot_label(second.name)}"
        write_output(png(growth_figure(trajectory.growth, title, trajectory.rates), DOTS_PER_INCH), figure, force)
    runs = (f"{first.run_id} {first.name}", f"{second.run_id} {second.name}")
    return DiffResult(runs, circumstances, pairing, trajectory, figure)


def _circumstances(
    a: ReplayRun, b: ReplayRun, raw_configs: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> tuple[str, ...]:
    environments = [Provenance(dict(run.provenance), run.patch, run.packages) for run in (a, b)]
    differences = [c for c in changes(*environments) if not c.what.startswith("config")]
    return (
        *(f"config: {line}" for line in config_changes(*raw_configs)),
        *(f"{c.what}: {c.was} → {c.now}" for c in differences),
        *(
            f"tampered: the chain of {letter} was changed after it was logged: {error}"
            for letter, run in (("A", a), ("B", b))
            for error in run.integrity_errors
        ),
    )


def _seeds(run: ReplayRun, raw_config: Mapping[str, Any]) -> range:
    seed, replicates = raw_config.get("seed"), raw_config.get("replicates")
    if not (isinstance(seed, int) and isinstance(replicates, int) and seed >= 0 and replicates >= 1):
        raise ConfigError(f"run {run.run_id}: its config has no valid seed and replicates")
    if run.chain is not None and run.chain.replicates != replicates:
        raise ConfigError(f"run {run.run_id}: its chain has {run.chain.replicates} replicates, its config {replicates}")
    return range(seed, seed + replicates)


def compare_trajectories(a: ReplayRun, b: ReplayRun, pairs: Pairs) -> TrajectoryComparison:
    """Compare the chains and the records of two runs.

    Args:
        a: Run A.
        b: Run B.
        pairs: Replicate of A, replicate of B.
    """
    notes, chain_difference, steps = [], None, 0
    growth: list[DifferenceSeries] = []
    common = common_records(a.records, b.records, pairs)
    if a.chain is not None and b.chain is not None:
        if a.chain.names != b.chain.names:
            notes.append("the networks have different depths")
        else:
            steps = len(common_steps(a.chain, b.chain))
            chain_difference = first_chain_difference(a.chain, b.chain, pairs)
            growth += [chain_series(a.chain, b.chain, pairs, quantity) for quantity in ("W", "dW")]
    last_steps = [_last_step(run) for run in (a, b)]
    if last_steps[0] != last_steps[1]:
        notes.append(f"A ends at step {last_steps[0]}, B at step {last_steps[1]}")
        common = _without_last_test_scores(common[0], last_steps), _without_last_test_scores(common[1], last_steps)
    if not steps and common[0].empty:
        notes.append("the runs have no record and no step of the chain in common")
    delta = record_series(*common, "delta_rms")
    growth += [delta] if delta is not None else []
    return TrajectoryComparison(
        chain_difference,
        first_record_difference(*common),
        steps,
        len(common[0]),
        tuple(notes),
        bool(a.integrity_errors or b.integrity_errors),
        tuple(growth),
    )


def _without_last_test_scores(records: pd.DataFrame, last_steps: Sequence[int]) -> pd.DataFrame:
    """Leave out the test scores at the shorter run's last step: only there do they cover the whole test set."""
    is_last_score = records["probe"].str.endswith("/test") & (records["step"] == min(last_steps))
    return records[~is_last_score].reset_index(drop=True)


def _last_step(run: ReplayRun) -> int:
    recorded = [int(run.records["step"].max())] if len(run.records) else []
    return max([*recorded, *(run.chain.steps[-1:] if run.chain else ())], default=0)
