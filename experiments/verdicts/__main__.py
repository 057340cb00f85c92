"""Judges networks with planted faults and counts how often the verdict is right."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from threadpoolctl import threadpool_limits

from experiments.verdicts.planted import CYCLE, Planted, generate
from pipeline.analysis.comparisons import wilson
from pipeline.analysis.expectation import expect
from pipeline.analysis.summary import Summary
from pipeline.analysis.verdict import (
    DEATH,
    DIVERGED,
    EXPLODING,
    HEALTHY,
    SATURATION,
    TOO_HIGH,
    TOO_LOW,
    UNSURE,
    VANISHING,
    Verdict,
    judge,
)
from pipeline.config.compose import compose_run
from pipeline.config.schema import build
from pipeline.training.divergence import Divergence
from pipeline.training.loop import Callbacks, train
from pipeline.training.prepare import prepare_run

COUNT, SEED = 960, 2
CLASSES = (HEALTHY, VANISHING, EXPLODING, DEATH, DIVERGED, SATURATION, TOO_HIGH, TOO_LOW, UNSURE)
FAULTS = (VANISHING, EXPLODING, DEATH, DIVERGED)
FALSE_ALARMS, FOUND = 0.02, 0.98  # at most, at least
COMMAND = "python -m experiments.verdicts"


@dataclass(frozen=True)
class Judged:
    """A planted network and what the verdict says."""

    planted: Planted
    verdict: Verdict | None

    @property
    def classes(self) -> tuple[str, ...]:
        """The verdict's."""
        return self.verdict.classes if self.verdict else ()

    @property
    def found(self) -> bool:
        """Whether the planted class is among them; too high a rate is found as well where training diverged."""
        kind = self.planted.kind
        return kind in self.classes or (kind == TOO_HIGH and DIVERGED in self.classes)

    @property
    def false_alarm(self) -> bool:
        """Whether a healthy network is said to have a fault."""
        return self.planted.kind == HEALTHY and not set(self.classes) <= {HEALTHY, UNSURE}


class Rate(NamedTuple):
    """A share of networks; ``met`` is None where nothing is aimed at."""

    name: str
    hits: int
    trials: int
    target: str = ""
    met: bool | None = None

    @property
    def words(self) -> str:
        """Share, interval and counts."""
        low, high = wilson(self.hits, self.trials)
        share = f"{self.hits / self.trials:.1%}" if self.trials else "-"
        return f"{share} [{low:.1%}, {high:.1%}] | {self.hits} of {self.trials}"


def verdict_of(overrides: Sequence[str]) -> Verdict | None:
    """The verdict on the run with these overrides, made as a run makes it, without a tracker."""
    config = build(compose_run(overrides))
    run = prepare_run(config)
    summary = Summary(hidden_layers=len(run.sizes) - 2)
    divergences: list[Divergence] = []
    for record in train(run, Callbacks(on_divergence=divergences.append)):
        summary.add(record)
    return judge(summary, config, len(divergences), expect(run), len(run.sizes) - 1)


def judged(count: int, seed: int, extra: Sequence[str] = ()) -> Iterator[Judged]:
    """The first ``count`` planted networks with their verdicts.

    Args:
        extra: overrides for all of them.
    """
    for planted in generate(count, seed):
        yield Judged(planted, verdict_of([*planted.overrides, *extra]))


def rates(results: Sequence[Judged]) -> list[Rate]:
    """How often the verdict is right."""
    by_kind = {kind: [r for r in results if r.planted.kind == kind] for kind in CYCLE}
    healthy = by_kind[HEALTHY]
    alarms = sum(r.false_alarm for r in healthy)
    faults = [r for kind in FAULTS for r in by_kind[kind]]
    found = sum(r.found for r in faults)
    return [
        Rate("false alarms on healthy nets", alarms, len(healthy), "at most 2%", alarms <= FALSE_ALARMS * len(healthy)),
        Rate(f"found: {', '.join(FAULTS)}", found, len(faults), "at least 98%", found >= FOUND * len(faults)),
        Rate(f"healthy nets with {UNSURE}", sum(UNSURE in r.classes for r in healthy), len(healthy)),
        *(Rate(f"found: {k}", sum(r.found for r in by_kind[k]), len(by_kind[k])) for k in CYCLE if k != HEALTHY),
    ]


def markdown(results: Sequence[Judged], command: str, date: str) -> str:
    """The report."""
    lines = [
        "# Is the verdict right?",
        "",
        f"Written by `{command}` on {date}. Do not edit; run it again.",
        "",
        f"{len(results)} small networks of which it is known beforehand what is wrong with them "
        "([how](../experiments/verdicts/README.md)), each trained, measured and judged as any run is.",
        "",
        "## Rates, with Wilson's 95% intervals",
        "",
        "| | share | networks | aim | |",
        "|---|---|---|---|---|",
    ]
    for rate in rates(results):
        outcome = "" if rate.met is None else "met" if rate.met else "**missed**"
        lines.append(f"| {rate.name} | {rate.words} | {rate.target} | {outcome} |")
    lines += [
        "",
        f"A false alarm is any class but *{HEALTHY}* for a healthy network; *{UNSURE}* is counted by itself. A "
        f"fault is found if its class is among the verdict's; too high a learning rate also where training {DIVERGED}.",
        "",
        "## Planted against found",
        "",
        "How many networks of each row have the column's class in their verdict. A network may have several, rightly: "
        "saturated ones often explode.",
        "",
        f"| planted | networks | {' | '.join(CLASSES)} |",
        f"|---|---|{'---|' * len(CLASSES)}",
    ]
    for kind in CYCLE:
        row = [r for r in results if r.planted.kind == kind]
        counts = (sum(name in r.classes for r in row) or "" for name in CLASSES)
        lines.append(f"| {kind} | {len(row)} | {' | '.join(map(str, counts))} |")
    wrong = [r for r in results if not r.found]
    lines += ["", f"## The {len(wrong)} that were not found", ""]
    for r in wrong:
        decades = "" if r.verdict is None else _interval(r.verdict)
        lines += [
            f"{r.planted.number}. Planted *{r.planted.kind}* ({r.planted.why}), found *{' + '.join(r.classes)}*, "
            f"{decades} decades:",
            f"   `{' '.join(r.planted.overrides)}`",
        ]
    return "\n".join(lines) + "\n"


def _interval(verdict: Verdict) -> str:
    d = verdict.decades
    return f"{float(d.mean):.2f} [{float(d.low):.2f}, {float(d.high):.2f}]"


def main() -> int:
    """Print the report; 1 if an aim was missed."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help=f"how many networks (default: {COUNT})")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the networks (default: {SEED})")
    parser.add_argument("--replicates", type=int, help="of every network (default: 3 to 5, each its own)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the report to this Markdown file")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="the date to write (default: today)")
    options = parser.parse_args()
    extra = [] if options.replicates is None else [f"replicates={options.replicates}"]
    with threadpool_limits(1):
        networks = judged(options.count, options.seed, extra)
        results = list(track(networks, "judging", options.count, console=Console(stderr=True), transient=True))
    chosen = (("count", COUNT), ("seed", SEED), ("replicates", None), ("write", None))
    given = [f"--{name} {value}" for name, default in chosen if (value := getattr(options, name)) != default]
    report = markdown(results, " ".join([COMMAND, *given]), options.date)
    sys.stdout.write(report)
    if options.write:
        options.write.write_text(report, encoding="utf-8")
    return int(any(rate.met is False for rate in rates(results)))


if __name__ == "__main__":
    sys.exit(main())
