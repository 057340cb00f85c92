"""Conclude a run: final numbers, divergences, verdict and explanation, from its records. A pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.analysis.expectation import Expectation
from pipeline.analysis.explanation import explain, learning_sentence
from pipeline.analysis.remedies import remedies
from pipeline.analysis.summary import RunningSummary, Summary
from pipeline.analysis.verdict import judge
from pipeline.runs.result import RunResult
from pipeline.training.divergence import Divergence
from pipeline.training.prepare import PreparedRun


def conclude(
    result: RunResult,
    run: PreparedRun,
    summary: RunningSummary,
    divergences: Sequence[Divergence],
    expectation: Expectation | None,
) -> RunResult:
    """Return a result with everything that follows from the records.

    Args:
        result: Name, run id and status.
        run: The checked config.
        summary: The records.
        divergences: The replicates that diverged.
        expectation: What mean-field theory expects of the run.
    """
    config = run.config
    summary.has_diverged = len(divergences) == config.replicates
    result = result.with_records(summary).with_divergences(divergences, config.replicates)
    if isinstance(summary, Summary):
        result = replace(result, summary=summary)
    verdict = judge(summary, config, len(divergences), expectation, run.sizes, run.facts)
    if verdict is None:
        return result
    text = explain(verdict, config, expectation, summary.hidden_layers)
    return replace(
        result,
        verdict=verdict,
        verdict_words=verdict.words,
        explanation=f"{text} {_learning(result, run)}".rstrip(),
        remedies=tuple(remedies(verdict, config, expectation)),
    )


def _learning(result: RunResult, run: PreparedRun) -> str:
    """Return a sentence if the network was trained and does no better than a guess."""
    data, accuracy = run.facts.description, result.headline.get("final_accuracy_test")
    if data is None or data.baseline is None or accuracy is None or not run.length.last_step:
        return ""
    examples = data.test_examples * run.config.replicates
    return learning_sentence(float(accuracy.mean), data.baseline, examples)
