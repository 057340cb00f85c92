"""Comparison of two logged runs: their configs, their environments, and each quantity that both measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from engine.arrays import Array
from pipeline.analysis.comparisons import (
    PairedDifference,
    UnpairedDifference,
    paired,
    replicates_needed,
    unpaired,
    wilson,
)
from pipeline.analysis.summary import Summary
from pipeline.config.changes import config_changes
from pipeline.errors import ConfigError
from pipeline.tracking.logged_run import LoggedRun
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.tracking.tags import CONFIG_FILE, RECORDS_FILE
from pipeline.training.records import Record

FINAL = {"accuracy/test": "test accuracy, final", "r2/test": "test R², final", "cost/test": "test cost, final"}
DECADES = {0: "decades of δ lost per layer, start", -1: "decades of δ lost per layer, end"}
ENVIRONMENT = ("git.commit", "python", "machine", "package.numpy", "blas", "blas.core_type")
MOST = 10**9  # replicates; larger numbers are all out of reach
SAME = 1e-12  # a spread this small relative to the values is rounding


@dataclass(frozen=True)
class Reading:
    """One measured quantity of a run.

    Attributes:
        step: Step of the measurement.
        values: [R], one for each replicate.
    """

    step: int
    values: Array


@dataclass(frozen=True)
class ComparedRun:
    """The part of a logged run that is compared.

    Attributes:
        raw_config: The resolved config.
        provenance: Versions of code, packages and machine, by name.
        seed: Seed of replicate 0; replicate k has seed + k.
        readings: Measurements by the name of the quantity.
    """

    run_id: str
    name: str
    raw_config: Mapping[str, Any]
    provenance: Mapping[str, str]
    seed: int
    replicates: int
    readings: Mapping[str, Reading]

    def seeds(self) -> range:
        """Return the seeds of the replicates."""
        return range(self.seed, self.seed + self.replicates)

    def values(self, quantity: str, seeds: range) -> Array:
        """Return the values of a quantity for the replicates with these seeds."""
        return self.readings[quantity].values[seeds.start - self.seed : seeds.stop - self.seed]


@dataclass(frozen=True)
class Comparison:
    """One quantity of two runs.

    Attributes:
        a: Values of A, one for each replicate. Entry i of a and b has the same seed if the difference is paired.
        b: Values of B.
        notes: Caveats, such as different steps.
    """

    quantity: str
    a: Array
    b: Array
    difference: PairedDifference | UnpairedDifference
    notes: tuple[str, ...]

    def means(self) -> tuple[float, float]:
        """Return the means of A and B over the finite pairs, or over the finite values of each if there are none."""
        kept = np.isfinite(self.a), np.isfinite(self.b)
        if isinstance(self.difference, PairedDifference) and self.difference.n:
            with np.errstate(all="ignore"):
                kept = (np.isfinite(self.b - self.a),) * 2
        return _mean(self.a[kept[0]]), _mean(self.b[kept[1]])

    @property
    def rounding(self) -> float:
        """Largest difference that is rounding error for values of this size."""
        return SAME * max([abs(x) for x in self.means() if math.isfinite(x)], default=0.0)

    def interval(self) -> str:
        """Return the difference with its interval; without the interval if the values do not spread."""
        d = self.difference
        has_interval = not math.isnan(d.low) and d.spread > self.rounding
        return _number(d.mean) + (f" [{d.low:.3g}, {d.high:.3g}]" if has_interval else "")

    def sample(self) -> str:
        """Return what the difference is computed from: 'paired over 5 seeds'."""
        d = self.difference
        if isinstance(d, PairedDifference):
            return f"paired over {d.n} {'seed' if d.n == 1 else 'seeds'}"
        return f"unpaired (Welch), {d.n[0]} against {d.n[1]} replicates"

    def replicates_for(self, precision: float | None) -> str:
        """Return how many replicates an interval needs.

        Args:
            precision: Half width of the interval; None for a tenth of the difference.
        """
        half = precision if precision is not None else abs(self.difference.mean) / 10
        spread = self.difference.spread
        if not (self.rounding < spread < math.inf and 0 < half < math.inf):
            return "–"
        if spread / half > math.sqrt(MOST):
            return f"over {MOST:,}"
        return f"{replicates_needed(spread, half):,}"

    def sentence(self) -> str:
        """State the difference and its certainty in one sentence."""
        d = self.difference
        if not math.isfinite(d.mean):
            return "no difference can be computed: there are no finite values to compare"
        by = f"B is {'higher' if d.mean > 0 else 'lower'} by {abs(d.mean):.3g}"
        statement = "B is equal to A" if abs(d.mean) <= self.rounding else by
        if math.isnan(d.low):
            return f"no interval can be computed, {self.sample()} where two are needed; {statement}"
        if d.spread <= self.rounding:
            return f"{statement}, {self.sample()}; the values do not vary, so there is no interval"
        if d.low <= 0 <= d.high:
            return f"no significant difference: B − A is {self.interval()}, {self.sample()}"
        low, high = sorted((abs(d.low), abs(d.high)))
        return f"{by} [{low:.3g}, {high:.3g}], {self.sample()}"


@dataclass(frozen=True)
class ComparedRuns:
    """The differences between two logged runs.

    Attributes:
        quantities: A comparison for each quantity that both runs have.
        precision: Half width of the interval to plan replicates for; None for a tenth of each difference.
    """

    a: ComparedRun
    b: ComparedRun
    quantities: tuple[Comparison, ...]
    precision: float | None

    def lines(self) -> list[str]:
        """Return the two runs, the changes of config and environment, and how replicates are paired."""
        runs = [
            f"{letter}: run {run.run_id[:8]} {run.name}, seeds {_range(run.seeds())}"
            for letter, run in (("A", self.a), ("B", self.b))
        ]
        changes = [*config_changes(self.a.raw_config, self.b.raw_config), *environment_changes(self.a, self.b)]
        return [*runs, *(f"  {change}" for change in changes), pairing(self.a, self.b)]

    def table(self) -> Table:
        """Return a row for each quantity: means, difference with its interval, replicates needed."""
        target = "±|B − A|/10" if self.precision is None else f"±{self.precision:g}"
        table = Table(title="means over replicates; B − A with its 95% interval", title_justify="left")
        for head in ("quantity", "A", "B", "B − A", "method", f"replicates for {target}"):
            table.add_column(head, justify="left" if head in ("quantity", "method") else "right")
        for c in self.quantities:
            a, b = c.means()
            method, needed = c.difference.method, c.replicates_for(self.precision)
            table.add_row(c.quantity, _number(a), _number(b), c.interval(), method, needed)
        return table

    def conclusions(self) -> list[str]:
        """Return a sentence for each quantity, and a warning if there are several."""
        sentences = [f"{c.quantity}: {'; '.join([c.sentence(), *c.notes])}" for c in self.quantities]
        if len(sentences) > 1:
            sentences.append(
                "The intervals are not corrected for multiple comparisons: of 20 quantities that do not differ, about "
                "one will seem to."
            )
        return sentences


def compare(a: str, b: str, precision: float | None, tracking: TrackingConfig) -> ComparedRuns:
    """Compare two logged runs.

    Runs that share seeds are compared pair by pair over these seeds, other runs as independent groups (Welch).

    Args:
        a: Id of run A, or its first 8 or more characters.
        b: Id of run B.
        precision: Half width of the interval to plan replicates for; None for a tenth of each difference.
        tracking: The store.

    Raises:
        ConfigError: If a run or its records are missing, no quantity is shared, or the precision is not positive.
    """
    if precision is not None and not 0 < precision < math.inf:
        raise ConfigError(f"precision={precision}: must be a number > 0")
    tracking.existing_uri()
    store = Store.open(tracking)
    first, second = load(store, a), load(store, b)
    return ComparedRuns(first, second, tuple(comparisons(first, second)), precision)


def load(store: Store, run_id: str) -> ComparedRun:
    """Load a run with the quantities that are compared.

    Raises:
        ConfigError: If the run, its config or its records are missing.
    """
    run = LoggedRun.from_store(store, store.find(run_id), ["delta_rms", *FINAL]).require(CONFIG_FILE, RECORDS_FILE)
    raw_config = run.raw_config()
    try:
        measured = readings(run.records)
    except (OSError, ValueError, TypeError, KeyError) as unreadable:
        raise ConfigError(f"{RECORDS_FILE} of run {run_id}: is not a readable table of records") from unreadable
    seed, replicates = raw_config.get("seed"), raw_config.get("replicates")
    if not (isinstance(seed, int) and isinstance(replicates, int)):
        raise ConfigError(f"{CONFIG_FILE} of run {run_id}: seed and replicates must be integers")
    if any(len(r.values) != replicates for r in measured.values()):
        raise ConfigError(f"{RECORDS_FILE} of run {run_id}: has not the {replicates} replicates of its config")
    return ComparedRun(run.run_id, run.name, raw_config, run.provenance, seed, replicates, measured)


def readings(table: pd.DataFrame) -> dict[str, Reading]:
    """Return the quantities in a table of records; decades lost only with two hidden layers or more.

    A single measurement of δ counts as the start, not as the end.
    """
    found: dict[str, Reading] = {}
    for index, name in DECADES.items():
        record = _record(table, "delta_rms", index)
        if record is None or record.step in [r.step for r in found.values()]:
            continue
        summary = Summary(hidden_layers=len(record.layers) - 1)
        summary.add(record)
        lost = summary.decades_lost(record.probe, 0)
        if lost is not None:
            found[name] = Reading(record.step, lost / (summary.hidden_layers - 1))
    for probe, name in FINAL.items():
        record = _record(table, probe, -1)
        if record is not None:
            found[name] = Reading(record.step, record.values[0])
    return found


def _record(table: pd.DataFrame, probe: str, index: int) -> Record | None:
    """Return the probe's first (0) or last (−1) record."""
    rows = table[table["probe"] == probe]
    if rows.empty:
        return None
    step = int(rows["step"].min() if index == 0 else rows["step"].max())
    rows = rows[rows["step"] == step]
    layers = tuple(sorted(int(layer) for layer in rows["layer"].dropna().unique()))
    in_order = rows.sort_values(["layer", "replicate"])["value"].to_numpy(dtype=np.float64)
    return Record(step, probe, layers, in_order.reshape(len(layers) or 1, -1), geometric=probe == "delta_rms")


def comparisons(a: ComparedRun, b: ComparedRun) -> list[Comparison]:
    """Compare every quantity that both runs have.

    Raises:
        ConfigError: If they share no quantity.
    """
    shared = [name for name in (*DECADES.values(), *FINAL.values()) if name in a.readings and name in b.readings]
    if not shared:
        has = [f"{run.run_id[:8]} has {', '.join(run.readings) or 'none'}" for run in (a, b)]
        raise ConfigError(f"the runs share no quantity to compare: {'; '.join(has)}")
    seeds = common(a.seeds(), b.seeds())
    compared = []
    for name in shared:
        x, y = a.values(name, seeds or a.seeds()), b.values(name, seeds or b.seeds())
        difference = paired(x, y) if seeds else unpaired(x, y)
        compared.append(Comparison(name, x, y, difference, tuple(_notes(name, a, b, x, y))))
    return compared


def common(a: range, b: range) -> range:
    """Return the seeds in both ranges."""
    return range(max(a.start, b.start), min(a.stop, b.stop))


def _notes(quantity: str, a: ComparedRun, b: ComparedRun, x: Array, y: Array) -> Iterator[str]:
    """Yield the caveats: different steps, different cost functions, replicates left out as not finite."""
    steps = a.readings[quantity].step, b.readings[quantity].step
    if steps[0] != steps[1]:
        yield f"A at step {steps[0]}, B at step {steps[1]}"
    if quantity == FINAL["cost/test"] and a.raw_config.get("cost") != b.raw_config.get("cost"):
        yield "but these are two different cost functions"
    for letter, values in (("A", x), ("B", y)):
        lost = int(np.count_nonzero(~np.isfinite(values)))
        if lost:
            low, high = wilson(lost, values.size)
            share = f"{lost / values.size:.0%} [{low:.0%}, {high:.0%}] (Wilson)"
            yield f"left out, as not finite: {lost} of {values.size} in {letter}, {share}"


def pairing(a: ComparedRun, b: ComparedRun) -> str:
    """State which replicates are compared, and why."""
    seeds = common(a.seeds(), b.seeds())
    if not seeds:
        return "no seed in both: compared as independent groups (Welch)"
    alone = len(a.seeds()) + len(b.seeds()) - 2 * len(seeds)
    rest = f"; {alone} {'replicate' if alone == 1 else 'replicates'} with other seeds left out" if alone else ""
    return f"seeds in both: {_range(seeds)}, compared pair by pair{rest}"


def environment_changes(a: ComparedRun, b: ComparedRun) -> list[str]:
    """Return the changes of code, packages and machine, and of the data if its config is the same."""
    same_data = a.raw_config.get("data") == b.raw_config.get("data") and a.seeds() == b.seeds()
    keys = [*ENVIRONMENT, *(["data.sha256"] if same_data else [])]
    first, second = a.provenance, b.provenance
    changed = [key for key in keys if first.get(key) != second.get(key)]
    return [f"{key}: {first.get(key, 'not logged')} → {second.get(key, 'not logged')}" for key in changed]


def _mean(finite: Array) -> float:
    with np.errstate(over="ignore"):
        return float(finite.mean()) if finite.size else math.nan


def _number(x: float) -> str:
    return f"{x:.3g}" if math.isfinite(x) else "not finite"


def _range(seeds: range) -> str:
    return str(seeds.start) if len(seeds) == 1 else f"{seeds.start} ... {seeds.stop - 1}"
