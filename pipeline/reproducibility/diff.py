"""Two logged runs held against each other: config, circumstances, where they part, and how their difference grows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from pipeline.config.changes import config_changes
from pipeline.errors import ConfigError
from pipeline.reports.figures.style import words
from pipeline.reproducibility.chain_reader import FirstDifference, common_steps, first_chain_difference
from pipeline.reproducibility.difference_growth import DifferenceSeries, Pairs, of_records, of_trails, picture, rate
from pipeline.reproducibility.environment import Provenance
from pipeline.reproducibility.environment_diff import changes
from pipeline.reproducibility.record_diff import Difference
from pipeline.reproducibility.replay import Say
from pipeline.reproducibility.run_source import ReplayRun, find
from pipeline.tracking.uri import TrackingConfig
from pipeline.training.records import COLUMNS

ROWS = 24  # of the table of growth
KEYS = ["step", "probe", "layer", "replicate", "bin"]


@dataclass(frozen=True)
class Pairing:
    """Which replicate is held against which, and in what words.

    Attributes:
        pairs: replicate of A, replicate of B.
    """

    pairs: Pairs
    words: str


def diff(a: str, b: str, tracking: TrackingConfig, to: Path | None, console: Console) -> int:
    """Print how two runs differ; returns 0 if they are identical in what both have, 1 if not.

    Args:
        a, b: ids of runs in the store, or folders that runs were exported to.
        to: a file for the picture of growth, .png.

    Raises:
        ConfigError: no such run, or one that cannot be read.
    """
    if to is not None and (to.suffix.lower() != ".png" or not to.parent.is_dir()):
        raise ConfigError(f"TO={to}: must be a file .png in a folder that exists")
    one, two = (find(run, tracking) for run in (a, b))
    say = Say(console)
    for letter, run in (("A", one), ("B", two)):
        say(f"{letter} {run.run_id} {run.name}")
    nodes = one.raw_config(), two.raw_config()
    for line in _circumstances(one, two, nodes):
        say(line)
    paired = pairing(*(_seeds(run, node) for run, node in zip((one, two), nodes, strict=True)))
    say(paired.words)
    found = compare(one, two, paired.pairs)
    for line in found.lines():
        say(line)
    if found.parted or found.difference:
        _show_growth(found, one, two, to, console, say)
    return 0 if found.identical else 1


def _circumstances(a: ReplayRun, b: ReplayRun, nodes: tuple[Mapping[str, Any], Mapping[str, Any]]) -> list[str]:
    then, now = (Provenance(dict(run.tags), run.patch, run.packages) for run in (a, b))
    differ = [c for c in changes(then, now) if not c.what.startswith("config")]
    return [
        *(f"config: {line}" for line in config_changes(*nodes)),
        *(f"{c.what}: {c.was} → {c.now}" for c in differ),
        *(
            f"tampered: the chain of {name} is not as it was logged: {f}"
            for name, r in (("A", a), ("B", b))
            for f in r.integrity_errors
        ),
    ]


def _seeds(run: ReplayRun, node: Mapping[str, Any]) -> range:
    seed, replicates = node.get("seed"), node.get("replicates")
    if not (isinstance(seed, int) and isinstance(replicates, int) and seed >= 0 and replicates >= 1):
        raise ConfigError(f"RUN={run.run_id}: its config has no seed and number of replicates")
    if run.chain is not None and run.chain.replicates != replicates:
        raise ConfigError(f"RUN={run.run_id}: its chain is not of {replicates} replicates, as its config says")
    return range(seed, seed + replicates)


def pairing(a: range, b: range) -> Pairing:
    """Replicates of the same seed; without any, those of the same number."""
    common = range(max(a.start, b.start), min(a.stop, b.stop))
    if not common:
        pairs = [(k, k) for k in range(min(len(a), len(b)))]
        return Pairing(pairs, "no seed in common: replicates are held against each other by number")
    pairs = [(seed - a.start, seed - b.start) for seed in common]
    told = f"seed {common.start}" if len(common) == 1 else f"seeds {common.start} ... {common.stop - 1}"
    alone = len(a) + len(b) - 2 * len(common)
    rest = f"; {alone} with other seeds left out" if alone else ""
    return Pairing(pairs, f"replicates of {told} held against each other{rest}")


@dataclass(frozen=True)
class Found:
    """What two runs have in common and where they part.

    Attributes:
        parted, difference: the first digest and the first record that differ.
        steps: how many steps of the chain both have.
        records: how many records both have.
        notes: what else is not the same.
        faulty: whether one of the chains was tampered with.
        growth: of the difference.
    """

    parted: FirstDifference | None
    difference: Difference | None
    steps: int
    records: int
    notes: tuple[str, ...]
    faulty: bool
    growth: tuple[DifferenceSeries, ...]

    @property
    def identical(self) -> bool:
        """Whether nothing that both have differs, and neither goes on where the other has ended."""
        return not (self.parted or self.difference or self.notes or self.faulty)

    @property
    def first_step(self) -> int:
        """Where they part."""
        return min((part.step for part in (self.parted, self.difference) if part is not None), default=0)

    def lines(self) -> list[str]:
        """In words, the earlier of the two differences first."""
        have = f"{self.records} records and {self.steps} steps of the chain that both have"
        notes = [f"different: {note}" for note in self.notes]
        if self.parted is None and self.difference is None:
            return notes or [f"identical: {have}"]
        chain = [self.parted.told("in A", "in B"), f"differ there: {self.parted.all_names()}"] if self.parted else []
        record = [self.difference.told("A", "B")] if self.difference else []
        if self.parted and (self.difference is None or self.parted.step <= self.difference.step):
            told = [f"they part: {chain[0]}", chain[1], *(f"first of the records: {r}" for r in record)]
        else:
            told = [f"they part: {record[0]}", *(f"in the chain: {c}" for c in chain[:1]), *chain[1:]]
        return [*told, *notes]


def compare(a: ReplayRun, b: ReplayRun, pairs: Pairs) -> Found:
    """Hold the chains and the records against each other."""
    notes, parted, steps = [], None, 0
    growth: list[DifferenceSeries] = []
    both = joined(a.records, b.records, pairs)
    if a.chain is not None and b.chain is not None:
        if a.chain.names != b.chain.names:
            notes.append("the networks are not of the same depth")
        else:
            steps = len(common_steps(a.chain, b.chain))
            parted = first_chain_difference(a.chain, b.chain, pairs)
            growth += [of_trails(a.chain, b.chain, pairs, quantity) for quantity in ("W", "dW")]
    ends = [_end(run) for run in (a, b)]
    if ends[0] != ends[1]:
        notes.append(f"A ends at step {ends[0]}, B at step {ends[1]}")
    if not steps and both.empty:
        notes.append("there is nothing that both have recorded")
    delta = of_records(both, "delta_rms")
    growth += [delta] if delta is not None else []
    faulty = bool(a.integrity_errors or b.integrity_errors)
    return Found(parted, first_record(both), steps, len(both), tuple(notes), faulty, tuple(growth))


def _end(run: ReplayRun) -> int:
    recorded = [int(run.records["step"].max())] if len(run.records) else []
    return max([*recorded, *(run.chain.steps[-1:] if run.chain else ())], default=0)


def joined(a: pd.DataFrame, b: pd.DataFrame, pairs: Pairs) -> pd.DataFrame:
    """Records that both have, in A's order and with A's replicates: ``value_a``, ``value_b``."""
    to_a = {kb: ka for ka, kb in pairs}
    b = b[b["replicate"].isin(list(to_a))].assign(replicate=lambda t: t["replicate"].map(to_a))
    a = a[a["replicate"].isin([ka for ka, _ in pairs])]
    try:
        one, two = (t[list(COLUMNS)].astype({"layer": "Int64", "bin": "Int64", "value": "float64"}) for t in (a, b))
        return one.merge(two, on=KEYS, how="left", suffixes=("_a", "_b"), indicator=True).query("_merge == 'both'")
    except (ValueError, TypeError) as broken:
        raise ConfigError("records.parquet: has values of another kind than records have") from broken


def first_record(both: pd.DataFrame) -> Difference | None:
    """The first record that differs in a bit, NaN equal to NaN."""
    a, b = (both[c].to_numpy(np.float64) for c in ("value_a", "value_b"))
    differ = np.flatnonzero((a.view(np.int64) != b.view(np.int64)) & ~(np.isnan(a) & np.isnan(b)))
    if not differ.size:
        return None
    row = both.iloc[int(differ[0])]
    layer = None if pd.isna(row["layer"]) else int(row["layer"])
    return Difference(
        int(row["step"]), str(row["probe"]), layer, int(row["replicate"]), float(row["value_a"]), float(row["value_b"])
    )


def _show_growth(found: Found, a: ReplayRun, b: ReplayRun, to: Path | None, console: Console, say: Say) -> None:
    """The table, the rates and the picture."""
    growth = found.growth
    rates = {series.name: rate(series) for series in growth}
    shown = Table(title="relative difference of the norms, over layers and replicates", title_justify="left")
    shown.add_column("step", justify="right")
    values = {series.name: dict(zip(series.steps, series.values.tolist(), strict=True)) for series in growth}
    for name in values:
        shown.add_column(name, justify="right")
    steps = sorted({step for column in values.values() for step in column if step >= found.first_step})
    steps = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, min(ROWS, len(steps))).round().astype(int))]
    for step in steps:
        shown.add_row(str(step), *(f"{column[step]:.2g}" if step in column else "" for column in values.values()))
    console.print(shown)
    for name, fitted in rates.items():
        say(f"{name} {fitted if fitted else 'has too few points between rounding and unlikeness to tell a rate'}")
    if to is not None:
        figure = picture(growth, f"A {words(a.name)}, B {words(b.name)}", rates)
        figure.savefig(to, dpi=130)
        say(f"wrote {to}")
