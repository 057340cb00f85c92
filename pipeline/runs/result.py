"""The result of one run, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine.arrays import Array
from pipeline.analysis.estimates import Estimate, show
from pipeline.analysis.explanation import advice
from pipeline.analysis.remedies import Remedy
from pipeline.analysis.summary import RunningSummary, Summary
from pipeline.analysis.verdict import Verdict
from pipeline.tracking.tags import LAST_STEPS_FILE, RECORDS_FILE
from pipeline.training.divergence import Divergence
from pipeline.training.prepare import PreparedRun
from pipeline.training.records import Record
from pipeline.wording import command, counted

ERROR_TAG = "error"
UNTRACKED = "none"  # in place of the run id of a result that no store has


@dataclass(frozen=True)
class RunResult:
    """The result of one run: from its records, as it was trained or as it was logged.

    Attributes:
        swept: Value of each swept key, as text.
        status: FINISHED, FAILED, KILLED (pruned) or NOT RUN.
        error: The last line of the traceback of a failed run.
        pruned: Why the run was stopped early (:mod:`pipeline.runs.early_stopping`).
        headline: Final numbers by metric name, with intervals.
        values: Final numbers of each replicate, [R].
        profile: δ of each layer at the start.
        verdict: The verdict on a run that was just trained; None if it measured too little.
        verdict_words: The classes of the verdict; "" without a verdict.
        explanation: The verdict in plain words.
        remedies: The changes that it proposes.
        divergences: Replicates that diverged in a run that was just trained. Such a run is a result, not a failure.
        diverged_fraction: Share of the replicates that diverged.
        diverged_replicates: Their number.
        diverged_at: The first step at which a value of one of them was not finite.
        stopped_at: The step at which early stopping ended the training; None if it did not.
        summary: All records of a run that was just trained, if the options keep them.
    """

    name: str
    run_id: str
    swept: Mapping[str, str]
    status: str
    error: str | None = None
    pruned: str | None = None
    headline: Mapping[str, Estimate] = field(default_factory=dict)
    values: Mapping[str, Array] = field(default_factory=dict)
    profile: Record | None = None
    verdict: Verdict | None = None
    verdict_words: str = ""
    explanation: str = ""
    remedies: Sequence[Remedy] = ()
    divergences: Sequence[Divergence] = ()
    diverged_fraction: float = 0.0
    diverged_replicates: int = 0
    diverged_at: int | None = None
    stopped_at: int | None = None
    summary: Summary | None = field(default=None, repr=False)

    @property
    def paragraph(self) -> str:
        """The verdict in plain words, the changes that it proposes, and the command that tries them."""
        sentences = [self.explanation, advice(self.remedies)]
        if self.remedies and self.run_id != UNTRACKED:
            sentences.append(f"`{command('prescribe', run=self.run_id)}` tries them.")
        return " ".join(sentence for sentence in sentences if sentence)

    def with_records(self, summary: RunningSummary) -> RunResult:
        """Return this result with the numbers that follow from the records."""
        return replace(
            self,
            headline=summary.headline(),
            values=summary.final_values(),
            profile=summary.at("delta_rms", 0),
        )

    def with_divergences(self, divergences: Sequence[Divergence], replicates: int) -> RunResult:
        """Return this result with the replicates that diverged."""
        return replace(
            self,
            divergences=tuple(divergences),
            diverged_fraction=len(divergences) / replicates,
            diverged_replicates=len(divergences),
            diverged_at=min((d.finding.step for d in divergences), default=None),
        )


def to_markdown(result: RunResult, run: PreparedRun, non_finite: int) -> str:
    """Return the description at the top of the run's page in MLflow."""
    rows = "\n".join(f"| {name.replace('_', ' ')} | {show(value)} |" for name, value in result.headline.items())
    table = f"\n\n| quantity | mean [95% interval] |\n|---|---|\n{rows}" if rows else ""
    warning = f"\n\n{non_finite} recorded values are not finite; `{RECORDS_FILE}` keeps them." if non_finite else ""
    config = run.config
    if result.divergences:
        findings = "\n".join(f"- {d.finding.sentence()}" for d in result.divergences)
        warning = (
            f"\n\n**{len(result.divergences)} of {config.replicates} replicates diverged**; means and intervals are of "
            f"the others.\n\n{findings}\n\nThe steps before it: `{LAST_STEPS_FILE}`.{warning}"
        )
    verdict = f"**Verdict: {result.verdict_words}.** {result.paragraph}\n\n" if result.verdict else ""
    pruned = f"**Pruned**, training was stopped early: {result.pruned}.\n\n" if result.pruned else ""
    length = counted(config.epochs or 0, "epoch") if config.steps is None else counted(config.steps, "step")
    return (pruned + verdict) + (
        f"**{result.name}**: layers {'-'.join(map(str, run.sizes))}, {type(config.activation).__name__} then "
        f"{type(config.output).__name__}, {type(config.cost).__name__}, {length}, "
        f"{counted(config.replicates, 'replicate')} from seed {config.seed}.{table}{warning}\n\n"
        "Decades lost: log₁₀ of the norm in the last hidden layer over the first; positive means that it vanishes "
        f"towards the input.\n\nRun it again: `{command('reproduce', run=result.run_id)}`"
    )
