"""Early stopping on the validation cost: when it stops, and what is measured there."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import invoke, sweep_command
from support.configs import config
from support.examples import examples
from support.stores import opened, uri

from engine.arrays import Array
from engine.network import Network
from pipeline.config.early_stopping import ValidationCost
from pipeline.config.schedules import At
from pipeline.reproducibility.hash_chain import HashChain
from pipeline.training.loop import Callbacks, train
from pipeline.training.patience import Patience
from pipeline.training.prepare import prepare_run
from pipeline.training.records import Record

BASE = (
    "data=iris", "data.validation_fraction=0.25", "architecture.hidden=[4,3]", "probes=weights", "batching.size=10",
    "epochs=3", "schedule@evaluation.schedule=every", "schedule=first_and_last",
)  # fmt: skip
STOP = ("early_stopping=validation", "early_stopping.patience=2")


def stop_of(costs: list[float], patience: int, min_delta: float) -> int | None:
    """Return the place of the evaluation at which a replicate alone stops, or None."""
    lowest, place = math.inf, 0
    for i, cost in enumerate(costs):
        if math.isfinite(cost) and cost < lowest - min_delta:
            lowest, place = cost, i
        elif i - place >= patience if lowest < math.inf else i + 1 >= patience:
            return i
    return None


def trained(*overrides: str) -> list[Record]:
    return list(train(prepare_run(config(*BASE, *overrides))))


def validation_costs(records: list[Record]) -> tuple[list[int], Array]:
    """Return the steps of the evaluations, and the validation costs [evaluations, R]."""
    found = [r for r in records if r.probe == "cost/validation"]
    return [r.step for r in found], np.array([r.values[0] for r in found])


# When


@pytest.mark.parametrize(
    ("costs", "min_delta", "stop"),
    [
        ([3.0, 2.0, 1.0, 0.5, 0.4], 0.0, None),
        ([3.0, 2.0, 2.5, 2.1], 0.0, 3),  # two evaluations after the lowest
        ([3.0, 2.0, 2.5, 1.9, 1.9, 1.9], 0.0, 5),  # an equal cost is no improvement
        ([3.0, 2.95, 2.91, 2.0], 0.1, 2),  # falls of less than min_delta in all
        ([3.0, 2.95, 2.85, 2.8], 0.1, None),  # the third is 0.15 below the lowest
        ([math.nan, math.inf, 1.0], 0.0, 1),
        ([3.0, math.nan, 2.0, math.nan, math.nan], 0.0, 4),
    ],
)
def test_patience_is_over_at_the_evaluation_worked_by_hand(
    costs: list[float], min_delta: float, stop: int | None
) -> None:
    patience, over = Patience(ValidationCost(2, min_delta), 1), []
    for cost in costs:
        patience.add(np.array([cost]))
        over.append(patience.is_over())
    assert over == [stop is not None and i >= stop for i in range(len(costs))]
    assert stop_of(costs, 2, min_delta) == stop


@settings(max_examples=examples(100), deadline=None)
@given(
    costs=st.lists(st.lists(st.sampled_from([0.5, 1.0, 1.1, 2.0, 3.0, math.nan]), min_size=3, max_size=3), max_size=12),
    patience=st.integers(1, 4),
    min_delta=st.sampled_from([0.0, 0.2]),
)
def test_cell_stops_at_the_last_of_the_stops_of_its_replicates(
    costs: list[list[float]], patience: int, min_delta: float
) -> None:
    counter, stop = Patience(ValidationCost(patience, min_delta), 3), None
    for i, row in enumerate(costs):
        counter.add(np.array(row))
        if stop is None and counter.is_over():
            stop = i
        counter = Patience(ValidationCost(patience, min_delta), 3, counter.state())  # as after a checkpoint
    alone = [stop_of([row[k] for row in costs], patience, min_delta) for k in range(3)]
    assert stop == (None if None in alone else max(a for a in alone if a is not None))


@settings(max_examples=examples(12), deadline=None)
@given(
    rate=st.sampled_from([0.3, 2.0, 10.0]),
    patience=st.integers(1, 5),
    min_delta=st.sampled_from([0.0, 0.02]),
    replicates=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_records_are_those_of_the_whole_training_up_to_the_stop(
    rate: float, patience: int, min_delta: float, replicates: int, seed: int
) -> None:
    keys = (f"optimizer.learning_rate={rate}", f"replicates={replicates}", f"seed={seed}", "schedule=every")
    whole = trained(*keys)
    steps, costs = validation_costs(whole)
    alone = [stop_of(costs[:, k].tolist(), patience, min_delta) for k in range(replicates)]
    last = len(steps) - 1
    end = steps[max(last if stop is None else stop for stop in alone)]
    own = trained(*keys, *STOP[:1], f"early_stopping.patience={patience}", f"early_stopping.min_delta={min_delta}")
    expected = [r for r in whole if r.step <= end]
    assert [(r.step, r.probe) for r in own] == [(r.step, r.probe) for r in expected]
    for a, b in zip(own, expected, strict=True):
        is_last_test = a.step == end and a.probe.endswith("/test")
        assert is_last_test or a.values.tobytes() == b.values.tobytes(), (a.step, a.probe)


# What


def test_step_of_the_stop_is_measured_as_the_last_step_is() -> None:
    """The whole test set, the probes that a schedule has at the last step, the chain, and θ before another update."""
    keys = ("optimizer.learning_rate=5", "evaluation.intermediate_test_examples=7")
    run = prepare_run(config(*BASE, *keys, *STOP))
    chain, networks = HashChain(run, At((1,))), list[dict[str, Array]]()

    def on_end(network: Network) -> None:
        networks.append({"theta": network.theta.copy()})

    records = list(train(run, Callbacks(observer=chain, on_end=on_end)))
    end = records[-1].step
    assert 2 <= end < run.length.last_step
    measured = {(r.step, r.probe): r.values for r in records}
    assert {step for step, probe in measured if probe == "weight_norm"} == {0, end}
    tested = measured[end, "accuracy/test"][0, 0] * run.data.test.shape[1]
    assert tested == pytest.approx(round(tested))
    few = measured[end - 1, "accuracy/test"][0, 0] * 7
    assert few == pytest.approx(round(few))
    assert sorted(set(chain.table()["step"])) == [-1, 0, 1, end]
    (last,) = networks
    norms = np.sqrt([np.square(last["theta"][0, part]).sum() for part in (slice(0, 16), slice(16, 28))])
    assert measured[end, "weight_norm"][:2, 0] == pytest.approx(norms)
    shorter = prepare_run(config(*BASE, *keys, "epochs=null", f"steps={end}"))
    same = {(r.step, r.probe): r.values for r in train(shorter)}
    assert same.keys() == measured.keys()
    assert all(same[key].tobytes() == values.tobytes() for key, values in measured.items())


def test_stop_is_told_by_table_verdict_and_tag_and_is_reproduced(tmp_path: Path) -> None:
    keys = (
        *(key for key in BASE if "probes" not in key),
        *STOP[:1],
        "early_stopping.patience=2,500",
        "optimizer.learning_rate=5",
    )
    shown = sweep_command(*keys, f"tracking.uri={uri(tmp_path)}", jobs=1)
    assert shown.code == 0
    runs = opened(tmp_path).search("tags.kind = 'run'")
    stopped = [run for run in runs if "stopped_early_at_step" in run.data.tags]
    assert "2 cells in 1 stack" in shown.text
    assert [run.data.params["early_stopping.patience"] for run in stopped] == ["2"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    step = stopped[0].data.tags["stopped_early_at_step"]
    row = rf"^2 .* {stopped[0].info.run_id[:8]} +at step {step}$"
    assert re.search(row, shown.text, re.MULTILINE)
    sentence = f"Training stopped early at step {step} of 27: the validation cost had not fallen for 2 evaluations."
    assert sentence in stopped[0].data.tags["mlflow.note.content"]
    assert "final_accuracy_validation" in stopped[0].data.metrics
    again = sweep_command(*keys, f"tracking.uri={uri(tmp_path)}", jobs=1)
    assert "2 skipped" in again.text
    assert re.search(row, again.text, re.MULTILINE)
    replay = invoke("reproduce", "--uri", uri(tmp_path), stopped[0].info.run_id)
    assert "identical" in replay.out, replay.out
