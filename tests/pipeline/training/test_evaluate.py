"""Evaluation: which examples it uses, and that it costs little with the default schedule."""

from __future__ import annotations

import time

import numpy as np
import pytest
from support.configs import REGRESSION, config, first_step, records

from pipeline.training.evaluate import evaluate
from pipeline.training.loop import train
from pipeline.training.prepare import prepare_run
from pipeline.training.timing import Timer

BASE = ("data=iris", "architecture.hidden=[5,4]", "epochs=2", "schedule@evaluation.schedule=each_epoch")


def test_last_evaluation_uses_the_whole_test_set_and_others_a_part() -> None:
    few = records(*BASE, "evaluation.intermediate_test_examples=7")
    whole = records(*BASE, "evaluation.intermediate_test_examples=null")
    last = max(step for step, _ in whole)
    for (step, name), (_, values) in whole.items():
        same = few[step, name][1].tobytes() == values.tobytes()
        assert same == (step == last or not name.endswith("/test")), (step, name)
    accuracy = few[0, "accuracy/test"][1][0, 0]
    assert float(accuracy * 7) == pytest.approx(round(accuracy * 7))


def test_every_evaluation_uses_the_whole_validation_set() -> None:
    keys = (*BASE, "data.validation_fraction=0.25")
    few = records(*keys, "evaluation.intermediate_test_examples=7")
    whole = records(*keys, "evaluation.intermediate_test_examples=null")
    steps = [step for step, name in whole if name == "accuracy/validation"]
    assert len(steps) == 3
    for step in steps:
        value = few[step, "accuracy/validation"][1]
        assert value.tobytes() == whole[step, "accuracy/validation"][1].tobytes()
        assert float(value[0, 0] * 30) == pytest.approx(round(float(value[0, 0] * 30)))


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("overrides", [(), (*REGRESSION, "data=diabetes")], ids=["classes", "regression"])
def test_cost_and_score_match_the_definition(overrides: tuple[str, ...], part: str) -> None:
    keys = (*(o for o in BASE if not (overrides and o.startswith("data"))), *overrides, "epochs=0")
    run = prepare_run(config(*keys, "data.validation_fraction=0.2"))
    trainer = first_step(run)
    measured = {record.probe: record.values[0, 0] for record in evaluate(trainer, [0])[0]}
    data, network = run.data, trainer.cell_network(0)
    rows = getattr(data, part)[0]
    y = data.y[rows].T
    a = network.forward(data.x[rows].T, training=False)[0]
    cost = np.mean(network.cost(y[None], run.config.cost))
    if data.classes is None:
        score = 1 - np.sum((a - y) ** 2) / np.sum((y - y.mean(axis=1, keepdims=True)) ** 2)
        assert measured[f"r2/{part}"] == pytest.approx(score)
    else:
        assert measured[f"accuracy/{part}"] == pytest.approx(np.mean(a.argmax(axis=0) == y.argmax(axis=0)))
    assert measured[f"cost/{part}"] == pytest.approx(cost)


@pytest.mark.parametrize("value", ["0", "-3"])
def test_number_of_examples_is_positive(value: str) -> None:
    with pytest.raises(Exception, match=f"evaluation.intermediate_test_examples={value}: must be >= 1, or null"):
        config(f"evaluation.intermediate_test_examples={value}")


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_default_schedule_costs_at_most_a_quarter_of_the_steps(activation: str) -> None:
    """The least of several ratios: other work on the machine only adds to it."""
    run = prepare_run(config("architecture=deep", "architecture.depth=5", f"activation={activation}", "epochs=4"))
    ratios = []
    for _ in range(3):
        timer = Timer(time.process_time)
        for _ in train(run, timer=timer):
            pass
        ratios.append(timer.seconds["evaluation"] / timer.seconds["step"])
    assert min(ratios) <= 0.25
