"""Two logged runs side by side: what differs in their configs and, with an interval each, in what they measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
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
MOST = 10**9  # replicates; beyond, the number says no more than "out of reach"
SAME = 1e-12  # a spread this small beside the values themselves is rounding


@dataclass(frozen=True)
class Reading:
    """A quantity of a run.

    Attributes:
        step: when it was measured.
        values: [R], one a replicate.
    """

    step: int
    values: Array


@dataclass(frozen=True)
class Logged:
    """A logged run as it is compared.

    Attributes:
        node: its resolved config.
        tags: what it was run with.
        seed: of replicate 0; replicate k has seed + k.
        readings: by the name of the quantity.
    """

    run_id: str
    name: str
    node: Mapping[str, Any]
    tags: Mapping[str, str]
    seed: int
    replicates: int
    readings: Mapping[str, Reading]

    def seeds(self) -> range:
        """The seeds of its replicates."""
        return range(self.seed, self.seed + self.replicates)

    def values(self, quantity: str, seeds: range) -> Array:
        """The quantity of the replicates with these seeds."""
        return self.readings[quantity].values[seeds.start - self.seed : seeds.stop - self.seed]


@dataclass(frozen=True)
class Comparison:
    """One quantity of two runs.

    Attributes:
        a, b: the values compared, one a replicate; entry i of both is of one seed if the difference is paired.
        notes: what to bear in mind.
    """

    quantity: str
    a: Array
    b: Array
    difference: PairedDifference | UnpairedDifference
    notes: tuple[str, ...]

    def means(self) -> tuple[float, float]:
        """Means of A and of B over what the difference is taken over; if nothing is, over what is finite in each."""
        kept = np.isfinite(self.a), np.isfinite(self.b)
        if isinstance(self.difference, PairedDifference) and self.difference.n:
            with np.errstate(all="ignore"):
                kept = (np.isfinite(self.b - self.a),) * 2
        return _mean(self.a[kept[0]]), _mean(self.b[kept[1]])

    @property
    def rounding(self) -> float:
        """What is so small beside the values that it is nothing."""
        return SAME * max([abs(x) for x in self.means() if math.isfinite(x)], default=0.0)

    def interval(self) -> str:
        """The difference with its interval; alone, where the values do not spread and the interval would be a point."""
        d = self.difference
        bare = math.isnan(d.low) or d.spread <= self.rounding
        return _number(d.mean) + ("" if bare else f" [{d.low:.3g}, {d.high:.3g}]")

    def over(self) -> str:
        """What the difference is taken over."""
        d = self.difference
        if isinstance(d, PairedDifference):
            return f"paired over {d.n} {'seed' if d.n == 1 else 'seeds'}"
        return f"unpaired (Welch), {d.n[0]} against {d.n[1]} replicates"

    def needed(self, precision: float | None) -> str:
        """How many replicates the wanted half width would take: by default a tenth of the difference."""
        half = precision if precision is not None else abs(self.difference.mean) / 10
        spread = self.difference.spread
        if not (self.rounding < spread < math.inf and 0 < half < math.inf):
            return "–"
        if spread / half > math.sqrt(MOST):
            return f"over {MOST:,}"
        return f"{replicates_needed(spread, half):,}"

    def sentence(self) -> str:
        """How sure it is, in plain words."""
        d = self.difference
        if not math.isfinite(d.mean):
            return "no difference can be given: there is nothing finite to take it of"
        by = f"B is {'higher' if d.mean > 0 else 'lower'} by {abs(d.mean):.3g}"
        said = "B is equal to A" if abs(d.mean) <= self.rounding else by
        if math.isnan(d.low):
            return f"no interval can be given, {self.over()} where two are needed; {said}"
        if d.spread <= self.rounding:
            return f"{said}, {self.over()}; these do not spread, so that no interval says how sure it is"
        if d.low <= 0 <= d.high:
            return f"no difference can be told: B − A is {self.interval()}, {self.over()}"
        low, high = sorted((abs(d.low), abs(d.high)))
        return f"{by} [{low:.3g}, {high:.3g}], {self.over()}"


def compare(a: str, b: str, precision: float | None, tracking: TrackingConfig, console: Console) -> int:
    """Print what differs between two logged runs, and how sure it is; returns 0.

    Runs that share seeds are compared pair by pair over these seeds, others as independent groups (Welch).

    Args:
        a, b: ids of runs, or their first 8 or more characters.
        precision: the half width of the interval to say the number of replicates for; by default a tenth of each
            difference.

    Raises:
        ConfigError: no such run, no records, no quantity in both, a precision that is not positive.
    """
    if precision is not None and not 0 < precision < math.inf:
        raise ConfigError(f"precision={precision}: must be a number > 0")
    tracking.existing_uri()
    store = Store.open(tracking)
    one, two = load(store, a), load(store, b)
    found = comparisons(one, two)
    for letter, run in (("A", one), ("B", two)):
        _say(console, f"{letter}: run {run.run_id[:8]} {run.name}, seeds {_range(run.seeds())}")
    for line in [*config_changes(one.node, two.node), *environment_changes(one, two)]:
        _say(console, f"  {line}")
    _say(console, pairing(one, two))
    console.print(_table(found, precision))
    for c in found:
        _say(console, f"{c.quantity}: {'; '.join([c.sentence(), *c.notes])}")
    if len(found) > 1:
        _say(console, "Each interval stands alone: of 20 differences that are not there, about one will seem to be.")
    return 0


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def load(store: Store, run_id: str) -> Logged:
    """A run with the quantities that are compared.

    Raises:
        ConfigError: no such run, or one without a config or records.
    """
    run = LoggedRun.from_store(store, store.find(run_id), ["delta_rms", *FINAL]).require(CONFIG_FILE, RECORDS_FILE)
    node = run.raw_config()
    try:
        found = readings(run.records)
    except (OSError, ValueError, TypeError, KeyError) as broken:
        raise ConfigError(f"{RECORDS_FILE} of run {run_id}: is not a readable table of records") from broken
    seed, replicates = node.get("seed"), node.get("replicates")
    if not (isinstance(seed, int) and isinstance(replicates, int)):
        raise ConfigError(f"{CONFIG_FILE} of run {run_id}: seed and replicates must be integers")
    if any(len(r.values) != replicates for r in found.values()):
        raise ConfigError(f"{RECORDS_FILE} of run {run_id}: has not the {replicates} replicates of its config")
    return Logged(run.run_id, run.name, node, run.tags, seed, replicates, found)


def readings(table: pd.DataFrame) -> dict[str, Reading]:
    """The quantities that a table of records has; decades lost only with two hidden layers or more.

    What was measured once is at the start, not at the end too.
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
    """The probe's first (0) or last (−1) record, from its rows."""
    rows = table[table["probe"] == probe]
    if rows.empty:
        return None
    step = int(rows["step"].min() if index == 0 else rows["step"].max())
    rows = rows[rows["step"] == step]
    layers = tuple(sorted(int(layer) for layer in rows["layer"].dropna().unique()))
    in_order = rows.sort_values(["layer", "replicate"])["value"].to_numpy(dtype=np.float64)
    return Record(step, probe, layers, in_order.reshape(len(layers) or 1, -1), geometric=probe == "delta_rms")


def comparisons(a: Logged, b: Logged) -> list[Comparison]:
    """Every quantity that both runs have.

    Raises:
        ConfigError: there is none.
    """
    shared = [name for name in (*DECADES.values(), *FINAL.values()) if name in a.readings and name in b.readings]
    if not shared:
        has = [f"{run.run_id[:8]} has {', '.join(run.readings) or 'none'}" for run in (a, b)]
        raise ConfigError(f"the runs share no quantity to compare: {'; '.join(has)}")
    seeds = common(a.seeds(), b.seeds())
    found = []
    for name in shared:
        x, y = a.values(name, seeds or a.seeds()), b.values(name, seeds or b.seeds())
        difference = paired(x, y) if seeds else unpaired(x, y)
        found.append(Comparison(name, x, y, difference, tuple(_notes(name, a, b, x, y))))
    return found


def common(a: range, b: range) -> range:
    """The seeds in both."""
    return range(max(a.start, b.start), min(a.stop, b.stop))


def _notes(quantity: str, a: Logged, b: Logged, x: Array, y: Array) -> Iterator[str]:
    """Other steps, other costs, replicates left out because they are not finite."""
    steps = a.readings[quantity].step, b.readings[quantity].step
    if steps[0] != steps[1]:
        yield f"A at step {steps[0]}, B at step {steps[1]}"
    if quantity == FINAL["cost/test"] and a.node.get("cost") != b.node.get("cost"):
        yield "but these are two different cost functions"
    for letter, values in (("A", x), ("B", y)):
        lost = int(np.count_nonzero(~np.isfinite(values)))
        if lost:
            low, high = wilson(lost, values.size)
            share = f"{lost / values.size:.0%} [{low:.0%}, {high:.0%}] (Wilson)"
            yield f"left out, as not finite: {lost} of {values.size} in {letter}, {share}"


def pairing(a: Logged, b: Logged) -> str:
    """What is compared with what, and why."""
    seeds = common(a.seeds(), b.seeds())
    if not seeds:
        return "no seed in both: compared as independent groups (Welch)"
    alone = len(a.seeds()) + len(b.seeds()) - 2 * len(seeds)
    rest = f"; {alone} {'replicate' if alone == 1 else 'replicates'} with other seeds left out" if alone else ""
    return f"seeds in both: {_range(seeds)}, compared pair by pair{rest}"


def environment_changes(a: Logged, b: Logged) -> list[str]:
    """Code, packages, machine or (with one config for the data) data that were not the same."""
    same_data = a.node.get("data") == b.node.get("data") and a.seeds() == b.seeds()
    keys = [*ENVIRONMENT, *(["data.sha256"] if same_data else [])]
    changed = [key for key in keys if a.tags.get(key) != b.tags.get(key)]
    return [f"{key}: {a.tags.get(key, 'not logged')} → {b.tags.get(key, 'not logged')}" for key in changed]


def _table(found: Sequence[Comparison], precision: float | None) -> Table:
    wanted = "±|B − A|/10" if precision is None else f"±{precision:g}"
    shown = Table(title="means over replicates; B − A with its 95% interval", title_justify="left")
    for head in ("quantity", "A", "B", "B − A", "method", f"replicates for {wanted}"):
        shown.add_column(head, justify="left" if head in ("quantity", "method") else "right")
    for c in found:
        a, b = c.means()
        cells = (c.quantity, _number(a), _number(b), c.interval(), c.difference.method, c.needed(precision))
        shown.add_row(*map(escape, cells))
    return shown


def _mean(finite: Array) -> float:
    with np.errstate(over="ignore"):
        return float(finite.mean()) if finite.size else math.nan


def _number(x: float) -> str:
    return f"{x:.3g}" if math.isfinite(x) else "not finite"


def _range(seeds: range) -> str:
    return str(seeds.start) if len(seeds) == 1 else f"{seeds.start} ... {seeds.stop - 1}"
