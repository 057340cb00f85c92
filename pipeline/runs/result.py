"""How a run ended, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.arrays import Array
from pipeline.analysis.estimates import Estimate
from pipeline.analysis.summary import Summary, show
from pipeline.analysis.verdict import Verdict
from pipeline.config.schema import Config
from pipeline.tracking.tags import LAST_STEPS_FILE, RECORDS_FILE
from pipeline.training.divergence import Divergence
from pipeline.training.records import Record


@dataclass
class RunResult:
    """How one run ended.

    Attributes:
        status: FINISHED, FAILED, or KILLED if it was pruned.
        headline: its final numbers by metric name, with intervals.
        error: the last line of the traceback of a failed run.
        pruned: why it was ended early, if it was (:mod:`pipeline.runs.early_stopping`).
        profile: δ of each layer at the start, if it was recorded.
        divergences: what was found of replicates that diverged. Such a run is a result, not a failure.
        diverged_replicates, diverged_at: how many of them, and the first step at which one was not finite.
        verdict, paragraph: what is wrong, if the run measured enough to tell; and the same in plain words.
        verdict_words: the verdict's classes; "" if there is none.
        values: the final numbers replicate by replicate, [R] each.
        diverged_fraction: share of its replicates that diverged.
        summary: its records, of a finished run.
    """

    name: str
    run_id: str
    swept: Mapping[str, str]
    status: str = "RUNNING"
    headline: dict[str, Estimate] = field(default_factory=dict)
    error: str | None = None
    pruned: str | None = None
    profile: Record | None = None
    divergences: list[Divergence] = field(default_factory=list)
    diverged_replicates: int = 0
    diverged_at: int | None = None
    verdict: Verdict | None = None
    verdict_words: str = ""
    paragraph: str = ""
    values: Mapping[str, Array] = field(default_factory=dict)
    diverged_fraction: float = 0.0
    summary: Summary | None = field(default=None, repr=False)


def to_markdown(outcome: RunResult, config: Config, sizes: list[int], lost: int) -> str:
    """The Markdown at the top of the run's page."""
    rows = "\n".join(f"| {name.replace('_', ' ')} | {show(value)} |" for name, value in outcome.headline.items())
    table = f"\n\n| quantity | mean [95% interval] |\n|---|---|\n{rows}" if rows else ""
    warning = f"\n\n{lost} recorded values are not finite; `{RECORDS_FILE}` keeps them." if lost else ""
    if outcome.divergences:
        count = len(outcome.divergences)
        told = "\n".join(f"- {d.finding.sentence()}" for d in outcome.divergences)
        warning = (
            f"\n\n**{count} of {config.replicates} replicates diverged**; means and intervals are of the others."
            f"\n\n{told}\n\nThe steps before it: `{LAST_STEPS_FILE}`.{warning}"
        )
    verdict = f"**Verdict: {outcome.verdict.words}.** {outcome.paragraph}\n\n" if outcome.verdict else ""
    pruned = f"**Pruned**, the rest of its training was not done: {outcome.pruned}.\n\n" if outcome.pruned else ""
    return (pruned + verdict) + (
        f"**{outcome.name}**: layers {'-'.join(map(str, sizes))}, {type(config.activation).__name__} then "
        f"{type(config.output).__name__}, {type(config.cost).__name__}, {config.epochs} epochs, "
        f"{config.replicates} replicates from seed {config.seed}.{table}{warning}\n\n"
        "Decades lost: log₁₀ of the norm in the last hidden layer over the first; positive means it vanishes towards "
        f"the input.\n\nRun it again: `make reproduce RUN={outcome.run_id}`"
    )
