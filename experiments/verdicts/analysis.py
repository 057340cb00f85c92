"""Judge networks with planted conditions; check the theory, the remedies and the sentences of the verdicts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.verdicts.judging import Judged, compare_number, judge_number, use_one_thread
from experiments.verdicts.kinds import CYCLE, KINDS, Kind
from experiments.verdicts.planted import Planted
from experiments.verdicts.sentences import split
from experiments.verdicts.theory import Compared
from experiments.verdicts.trials import Trial, try_first_remedy
from pipeline.analysis.classes import HEALTHY, UNSURE
from pipeline.analysis.comparisons import wilson
from pipeline.analysis.estimates import Estimate
from pipeline.progress import bars
from pipeline.reports.figures.style import STYLE

PAGE = "docs/verdicts.md"
MIN_NAMED, MAX_ALARMS, MIN_INSIDE, MIN_WORKING = 0.95, 0.02, 0.93, 0.90  # shares
T = TypeVar("T")


@dataclass(frozen=True)
class Size:
    """The number of networks.

    Attributes:
        planted: Networks with a planted condition.
        compared: Networks that are compared with theory.
        trials: Faults whose first remedy is tried.
    """

    planted: int
    compared: int
    trials: int


QUICK, SLOW = Size(2 * len(CYCLE), 40, 6), Size(56 * len(CYCLE), 500, 200)


@dataclass(frozen=True)
class Results:
    """Everything that the page shows."""

    judged: Sequence[Judged]
    compared: Sequence[Compared]
    trials: Sequence[Trial]


@dataclass(frozen=True)
class Rate:
    """A share of networks.

    Attributes:
        hits: The number of networks that count.
        trials: The number of networks.
    """

    hits: int
    trials: int

    @property
    def share(self) -> float:
        """The share; NaN without networks."""
        return self.hits / self.trials if self.trials else np.nan

    def __str__(self) -> str:
        if not self.trials:
            return "- | 0"
        low, high = wilson(self.hits, self.trials)
        return f"{self.share:.1%} [{low:.1%}, {high:.1%}] | {self.hits} of {self.trials}"

    def estimate(self) -> Estimate:
        """Return the share with Wilson's 95% interval."""
        low, high = wilson(self.hits, self.trials)
        return Estimate(np.array(self.share), np.array(low), np.array(high), np.array(0.0))


def collect(slow: bool) -> Sequence[Results]:
    """Judge the networks of the report, or its first ones."""
    size = SLOW if slow else QUICK
    with bars(size.planted + size.compared + size.trials, quiet=False) as progress:

        def finished(results: Iterable[T]) -> Iterator[T]:
            for result in results:
                progress.advance()
                yield result

        with ProcessPoolExecutor(mp_context=get_context("forkserver"), initializer=use_one_thread) as pool:
            judged = list(finished(pool.map(judge_number, range(size.planted), chunksize=4)))
            stated = (c for c in pool.map(compare_number, range(2 * size.compared), chunksize=4) if c.is_stated)
            compared = list(finished(islice(stated, size.compared)))
            faults = (j.planted for j in judged if j.remedies)
            tried = (t for t in pool.map(try_first_remedy, islice(faults, size.trials), chunksize=2) if t is not None)
            return [Results(judged, compared, list(finished(tried)))]


def named(judged: Sequence[Judged], kind: Kind) -> Rate:
    """Return how many networks of a kind have a verdict that names it."""
    own = [j for j in judged if j.planted.kind.name == kind.name]
    return Rate(sum(j.is_named for j in own), len(own))


def _named_faults(results: Results) -> Rate:
    faults = [j for j in results.judged if j.planted.kind.is_fault]
    return Rate(sum(j.is_named for j in faults), len(faults))


def _false_alarms(results: Results) -> Rate:
    healthy = [j for j in results.judged if not j.planted.kind.is_fault]
    return Rate(sum(j.is_false_alarm for j in healthy), len(healthy))


def _inside(results: Results) -> Rate:
    return Rate(sum(c.is_inside for c in results.compared), len(results.compared))


def _working(results: Results) -> Rate:
    return Rate(sum(t.works for t in results.trials), len(results.trials))


def _true_sentences(results: Results) -> Rate:
    sentences = [len(split(j.text)) for j in results.judged]
    return Rate(sum(sentences) - sum(len(j.errors) for j in results.judged), sum(sentences))


RATES: Mapping[str, Callable[[Results], Rate]] = {
    "found": _named_faults,
    "false_alarms": _false_alarms,
    "inside_band": _inside,
    "remedies": _working,
    "sentences": _true_sentences,
}
SAYS = {
    "found": f"faults whose class and cause are named; at least {MIN_NAMED:.0%} of each kind",
    "false_alarms": f"healthy networks with a fault or a remedy; at most {MAX_ALARMS:.0%}",
    "inside_band": f"decades at the start in theory's band; at least {MIN_INSIDE:.0%}",
    "remedies": f"first remedies that work; at least {MIN_WORKING:.0%}",
    "sentences": "sentences whose numbers are computed again; all",
}


def measured(results: Sequence[Results]) -> Mapping[str, Estimate]:
    """Return the rates of the claims."""
    return {key: rate(results[0]).estimate() for key, rate in RATES.items()}


def figure(results: Sequence[Results]) -> Figure:
    """Draw the share of the networks of each kind whose verdict names it, with Wilson's intervals."""
    judged = results[0].judged
    rates = [named(judged, kind) for kind in KINDS]
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(8, 8.5))
        axes = drawn.subplots()
        for place, (kind, rate) in enumerate(zip(KINDS, rates, strict=True)):
            if rate.trials:
                low, high = wilson(rate.hits, rate.trials)
                colour = "tab:red" if kind.is_fault else "tab:green"
                axes.plot([low, high], [place, place], color=colour, linewidth=2)
                axes.plot(rate.share, place, "o", color=colour, markersize=5)
        axes.axvline(MIN_NAMED, color="grey", linestyle=":", linewidth=1)
        axes.set_yticks(range(len(KINDS)), [kind.name for kind in KINDS])
        axes.invert_yaxis()
        axes.set(xlabel="share whose verdict is right (red: faults, green: healthy)", title="Is the verdict right?")
    return drawn


def pages(results: Sequence[Results], command: str) -> Mapping[str, str | Figure]:
    """Return the report."""
    return {PAGE: markdown(results[0], command, time.strftime("%Y-%m-%d"))}


def markdown(results: Results, command: str, date: str) -> str:
    """Return the report as Markdown."""
    missed = [j for j in results.judged if not j.is_named]
    wrong = [(j, error) for j in results.judged for error in j.errors]
    outside = [c for c in results.compared if not c.is_inside]
    failed = [t for t in results.trials if not t.works]
    return (
        "\n".join(
            [
                "# Is the verdict right?",
                "",
                f"Written by `{command}` on {date}. Do not edit; run it again.",
                "",
                f"{len(results.judged)} small networks with a known condition of {len(KINDS)} kinds "
                "([how](../experiments/verdicts/README.md)) are trained, measured and judged like any run.",
                "",
                "## Rates, with Wilson's 95% intervals",
                "",
                "| | share | networks |",
                "|---|---|---|",
                *(f"| {SAYS[key]} | {rate(results)} |" for key, rate in RATES.items()),
                "",
                "## By kind",
                "",
                "A fault is named if the verdict has its class and the explanation its cause. A healthy network is "
                f"judged right if it is *{HEALTHY}* or there is *{UNSURE}*, and no remedy is proposed.",
                "",
                "| planted | right | networks | classes in the verdicts |",
                "|---|---|---|---|",
                *(f"| {kind.name} | {named(results.judged, kind)} | {_classes(results, kind)} |" for kind in KINDS),
                "",
                f"## The {len(missed)} that were judged wrong",
                "",
                *(line for j in missed for line in _item(j.planted, f"found *{' + '.join(j.classes)}*")),
                "",
                "## Theory",
                "",
                "Single networks at the start: any activation and initialiser that theory covers, 2 to 60 hidden "
                "layers of 10 to 500 units, Gaussian and real data. "
                f"{len(outside)} of {len(results.compared)} lie outside the band:",
                "",
                *(f"- {c.measured:.2f}, band {c.low:.2f} to {c.high:.2f}: `{' '.join(c.overrides)}`" for c in outside),
                "",
                "## Remedies",
                "",
                "The first remedy works if the paired 95% interval of its gain, less that of a random change, is above "
                f"0. {len(failed)} of {len(results.trials)} do not:",
                "",
                *(
                    line
                    for t in failed
                    for line in _item(
                        t.planted,
                        f"`{t.remedy}` gains [{t.low:.3g}, {t.high:.3g}] over chance, in {t.measure}",
                    )
                ),
                "",
                "## Sentences",
                "",
                "Each number of each sentence is computed again from the table of records by other code. "
                f"{len(wrong)} are wrong:",
                "",
                *(line for j, error in wrong for line in _item(j.planted, error)),
            ]
        ).rstrip()
        + "\n"
    )


def _classes(results: Results, kind: Kind) -> str:
    found = Counter(name for j in results.judged if j.planted.kind.name == kind.name for name in j.classes)
    return ", ".join(f"{name} {count}" for name, count in found.most_common())


def _item(planted: Planted, text: str) -> list[str]:
    return [
        f"- {planted.number}, {planted.kind.name} ({planted.why}): {text}",
        f"   `{' '.join(planted.overrides)}`",
    ]
