"""Summary of a run in progress: equal to the summary of all its records, with bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from support.configs import config

from pipeline.analysis import summary as summaries
from pipeline.analysis.expectation import expect
from pipeline.analysis.summary import JUDGED, EvenSample, RunningSummary, Summary
from pipeline.analysis.verdict import judge
from pipeline.training.loop import train
from pipeline.training.prepare import prepare_run
from pipeline.training.records import Record, non_finite


def record(step: int) -> Record:
    return Record(step, "delta_rms", (1, 2), np.full((2, 1), float(step)), True)


def test_running_summary_has_the_numbers_of_all_records() -> None:
    run = prepare_run(config("data=iris", "replicates=3", "epochs=3", "schedule=every", "schedule.n=1"))
    hidden = len(run.sizes) - 2
    running, whole = RunningSummary(hidden), Summary(hidden)
    for each in train(run):
        running.add(each)
        whole.add(each)
    assert running.headline() == whole.headline() != {}
    records = whole.records
    assert running.last_step == records[-1].step
    assert running.values == sum(r.values.size for r in records)
    assert running.non_finite == non_finite(records)
    for probe in {r.probe for r in records}:
        own = [r for r in records if r.probe == probe]
        assert running.at(probe, 0) is own[0]
        assert running.at(probe, -1) is own[-1]
        assert [id(r) for r in running.series(probe)] == [id(r) for r in own if probe in JUDGED]
    assert running.at("nothing", 0) is None
    assert running.series("nothing") == []


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 12, 99, 1000])
def test_sample_is_bounded_and_evenly_spaced_with_both_ends(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "MOST_SAMPLES", 10)
    sample = EvenSample()
    for step in range(count):
        sample.add(record(step))
    steps = [r.step for r in sample.records()]
    assert steps[0] == 0
    assert steps[-1] == count - 1
    assert len(steps) <= 11
    assert steps == list(range(count)) or len(steps) > 5
    gaps = np.diff(steps)
    assert len(set(gaps[:-1])) <= 1
    assert all(gaps[-1:] <= gaps[:1])


def test_verdict_of_a_long_run_is_that_of_all_records(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = [
        "data=iris",
        "replicates=3",
        "epochs=20",
        "schedule=every",
        "schedule.n=1",
        "architecture.hidden=[9,9]",
    ]
    run = prepare_run(config(*overrides))
    records = list(train(run))
    verdicts = []
    for most in (10**9, 20):
        monkeypatch.setattr(summaries, "MOST_SAMPLES", most)
        summary = RunningSummary(2)
        for each in records:
            summary.add(each)
        verdict = judge(summary, run.config, 0, expect(run), run.sizes)
        assert verdict is not None
        assert (len(summary.series("delta_rms")) > 21) == (most > 20)
        verdicts.append(verdict)
    exact, sampled = verdicts
    assert (sampled.classes, sampled.start, sampled.end) == (exact.classes, exact.start, exact.end)
    assert sampled.start_decades == exact.start_decades
    assert float(sampled.decades.mean) == pytest.approx(float(exact.decades.mean), abs=0.05)
