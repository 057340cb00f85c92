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
from pipeline.wording import counted


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
    if (
        config.early_stopping
        and not (result.pruned or summary.has_diverged)
        and summary.last_step < run.length.last_step
    ):
        result = replace(result, stopped_at=summary.last_step)
    verdict = judge(summary, config, len(divergences), expectation, run.sizes, run.facts)
    if verdict is None:
        return result
    text = explain(verdict, config, expectation, summary.hidden_layers)
    sentences = [text, _learning(result, run), _stop(result, run)]
    return replace(
        result,
        verdict=verdict,
        verdict_words=verdict.words,
        explanation=" ".join(sentence for sentence in sentences if sentence),
        remedies=tuple(remedies(verdict, config, expectation)),
    )


def _stop(result: RunResult, run: PreparedRun) -> str:
    """Return a sentence if the training was stopped early."""
    if result.stopped_at is None or run.config.early_stopping is None:
        return ""
    return (
        f"Training stopped early at step {result.stopped_at} of {run.length.last_step}: the validation cost had not "
        f"fallen for {counted(run.config.early_stopping.patience, 'evaluation')}."
    )


def _learning(result: RunResult, run: PreparedRun) -> str:
    """Return a sentence if the network was trained and does no better than a guess."""
    data, accuracy = run.facts.description, result.headline.get("final_accuracy_test")
    if data is None or data.baseline is None or accuracy is None or not run.length.last_step:
        return ""
    examples = data.test_examples * run.config.replicates
    return learning_sentence(float(accuracy.mean), data.baseline, examples)
