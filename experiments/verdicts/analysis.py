"""Judge networks with planted faults, and count how often the verdict is right."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from experiments.verdicts.planted import CYCLE, Planted, generate
from pipeline.analysis.classes import (
    DEATH,
    DIVERGED,
    EXPLODING,
    HEALTHY,
    SATURATION,
    TOO_HIGH,
    TOO_LOW,
    UNSURE,
    VANISHING,
)
from pipeline.analysis.comparisons import wilson
from pipeline.analysis.estimates import Estimate
from pipeline.analysis.expectation import expect
from pipeline.analysis.summary import Summary
from pipeline.analysis.verdict import Verdict, judge
from pipeline.config.compose import compose_run
from pipeline.config.schema import build
from pipeline.progress import bars
from pipeline.reports.figures.style import STYLE
from pipeline.training.divergence import Divergence
from pipeline.training.loop import Callbacks, train
from pipeline.training.prepare import prepare_run

PAGE = "docs/verdicts.md"
COUNT, SLOW_COUNT = 144, 960  # networks; 48 contain each planted fault in its share
SEED = 2  # seeds 0 and 1 served to develop the rules
CLASSES = (HEALTHY, VANISHING, EXPLODING, DEATH, DIVERGED, SATURATION, TOO_HIGH, TOO_LOW, UNSURE)
FAULTS = (VANISHING, EXPLODING, DEATH, DIVERGED)
MAX_FALSE_ALARMS, MIN_FOUND = 0.02, 0.98  # shares


@dataclass(frozen=True)
class Judged:
    """A planted network and its verdict."""

    planted: Planted
    verdict: Verdict | None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the verdict."""
        return self.verdict.classes if self.verdict else ()

    @property
    def is_found(self) -> bool:
        """Whether the verdict has the planted class. A diverged training also counts as too high a learning rate."""
        kind = self.planted.kind
        return kind in self.classes or (kind == TOO_HIGH and DIVERGED in self.classes)

    @property
    def is_false_alarm(self) -> bool:
        """Whether the verdict names a fault of a healthy network."""
        return self.planted.kind == HEALTHY and not set(self.classes) <= {HEALTHY, UNSURE}


@dataclass(frozen=True)
class Rate:
    """A share of networks.

    Attributes:
        name: The name of the share.
        hits: The number of networks that count.
        trials: The number of networks.
        target: The target in words. Empty if there is none.
        is_met: Whether the target is met. None if there is no target.
    """

    name: str
    hits: int
    trials: int
    target: str = ""
    is_met: bool | None = None

    def __str__(self) -> str:
        low, high = wilson(self.hits, self.trials)
        share = f"{self.hits / self.trials:.1%}" if self.trials else "-"
        return f"{share} [{low:.1%}, {high:.1%}] | {self.hits} of {self.trials}"

    def estimate(self) -> Estimate:
        """Return the share with Wilson's 95% interval."""
        low, high = wilson(self.hits, self.trials)
        share = self.hits / self.trials if self.trials else np.nan
        return Estimate(np.array(share), np.array(low), np.array(high), np.array(0.0))


def collect(slow: bool) -> Sequence[Judged]:
    """Judge the networks of the report, or its first ones."""
    count = SLOW_COUNT if slow else COUNT
    results = []
    with bars(count, quiet=False) as progress, threadpool_limits(1):
        for judged in judge_planted(count, SEED):
            results.append(judged)
            progress.advance()
    return results


def judge_planted(count: int, seed: int) -> Iterator[Judged]:
    """Judge the first planted networks of a seed."""
    for planted in generate(count, seed):
        yield Judged(planted, verdict_of(planted.overrides))


def verdict_of(overrides: Sequence[str]) -> Verdict | None:
    """Train the run with these overrides, without a store, and return its verdict."""
    config = build(compose_run(overrides))
    run = prepare_run(config)
    summary = Summary(hidden_layers=len(run.sizes) - 2)
    divergences: list[Divergence] = []
    for record in train(run, Callbacks(on_divergence=divergences.append)):
        summary.add(record)
    return judge(summary, config, len(divergences), expect(run), run.sizes, run.facts)


def false_alarms(results: Sequence[Judged]) -> Rate:
    """Return the rate of false alarms on healthy networks."""
    healthy = [r for r in results if r.planted.kind == HEALTHY]
    alarms = sum(r.is_false_alarm for r in healthy)
    is_met = alarms <= MAX_FALSE_ALARMS * len(healthy)
    return Rate("false alarms on healthy nets", alarms, len(healthy), "at most 2%", is_met)


def found_faults(results: Sequence[Judged]) -> Rate:
    """Return the rate of found faults."""
    faults = [r for r in results if r.planted.kind in FAULTS]
    found = sum(r.is_found for r in faults)
    is_met = found >= MIN_FOUND * len(faults)
    return Rate(f"found: {', '.join(FAULTS)}", found, len(faults), "at least 98%", is_met)


def rates(results: Sequence[Judged]) -> list[Rate]:
    """Return how often the verdict is right, as a whole and by planted class."""
    by_kind = {kind: [r for r in results if r.planted.kind == kind] for kind in CYCLE}
    healthy = by_kind.pop(HEALTHY)
    return [
        false_alarms(results),
        found_faults(results),
        Rate(f"healthy nets with {UNSURE}", sum(UNSURE in r.classes for r in healthy), len(healthy)),
        *(Rate(f"found: {kind}", sum(r.is_found for r in of_kind), len(of_kind)) for kind, of_kind in by_kind.items()),
    ]


def counts(results: Sequence[Judged], kind: str) -> list[int]:
    """Return how many networks with a planted class have each class in their verdict [classes]."""
    return [sum(name in r.classes for r in results if r.planted.kind == kind) for name in CLASSES]


def measured(results: Sequence[Judged]) -> Mapping[str, Estimate]:
    """Return the two rates that have a target."""
    return {"false_alarms": false_alarms(results).estimate(), "found": found_faults(results).estimate()}


def figure(results: Sequence[Judged]) -> Figure:
    """Draw the share of networks with each planted class that have each class in their verdict."""
    sizes = [sum(r.planted.kind == kind for r in results) for kind in CYCLE]
    shares = np.array([counts(results, kind) for kind in CYCLE]) / np.maximum(sizes, 1)[:, None]
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        drawn = Figure(figsize=(8.5, 5))
        axes = drawn.subplots()
        image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for (row, column), share in np.ndenumerate(shares):
            if share > 0:
                colour = "black" if share > 0.5 else "white"
                axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=35, ha="right")
        axes.set_yticks(range(len(CYCLE)), [f"{kind} ({n})" for kind, n in zip(CYCLE, sizes, strict=True)])
        axes.set(xlabel="in the verdict", ylabel="planted (networks)", title="Share of networks with each class")
        drawn.colorbar(image)
    return drawn


def pages(results: Sequence[Judged], command: str) -> Mapping[str, str | Figure]:
    """Return the report."""
    return {PAGE: markdown(results, command, time.strftime("%Y-%m-%d"))}


def markdown(results: Sequence[Judged], command: str, date: str) -> str:
    """Return the report as Markdown."""
    missed = [r for r in results if not r.is_found]
    lines = [
        "# Is the verdict right?",
        "",
        f"Written by `{command}` on {date}. Do not edit; run it again.",
        "",
        f"{len(results)} small networks with a known condition ([how](../experiments/verdicts/README.md)). Each is "
        "trained, measured and judged like any run.",
        "",
        "## Rates, with Wilson's 95% intervals",
        "",
        *_rate_table(results),
        "",
        f"A false alarm is any class except *{HEALTHY}* for a healthy network; *{UNSURE}* is counted separately. A "
        "fault is found if the verdict has its class. Too high a learning rate is also found if training "
        f"{DIVERGED}.",
        "",
        "## Planted against found",
        "",
        "How many networks of each row have the column's class in their verdict. A network may rightly have several: "
        "saturated networks often explode.",
        "",
        *_count_table(results),
        "",
        f"## The {len(missed)} that were not found",
        "",
    ]
    for r in missed:
        lines += [
            f"{r.planted.number}. Planted *{r.planted.kind}* ({r.planted.why}), found *{' + '.join(r.classes)}*, "
            f"{_decades(r.verdict)} decades:",
            f"   `{' '.join(r.planted.overrides)}`",
        ]
    return "\n".join(lines) + "\n"


def _rate_table(results: Sequence[Judged]) -> list[str]:
    lines = ["| | share | networks | target | |", "|---|---|---|---|---|"]
    for rate in rates(results):
        status = "" if rate.is_met is None else "met" if rate.is_met else "**missed**"
        lines.append(f"| {rate.name} | {rate} | {rate.target} | {status} |")
    return lines


def _count_table(results: Sequence[Judged]) -> list[str]:
    lines = [f"| planted | networks | {' | '.join(CLASSES)} |", f"|---|---|{'---|' * len(CLASSES)}"]
    for kind in CYCLE:
        size = sum(r.planted.kind == kind for r in results)
        lines.append(f"| {kind} | {size} | {' | '.join(str(n or '') for n in counts(results, kind))} |")
    return lines


def _decades(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    d = verdict.decades
    return f"{float(d.mean):.2f} [{float(d.low):.2f}, {float(d.high):.2f}]"
