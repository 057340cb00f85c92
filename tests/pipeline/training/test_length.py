"""The length of the training in epochs or in steps."""

from __future__ import annotations

import dataclasses

import pytest
from support.configs import config, raw_config, records

from pipeline.config.changes import config_changes
from pipeline.config.compose import compose_run, compose_sweep
from pipeline.config.schema import build, digest, scientific
from pipeline.errors import ConfigError
from pipeline.runs.result import RunResult, to_markdown
from pipeline.tracking.artifact_parsers import parse_config
from pipeline.training.prepare import prepare_run

TINY = ("data=iris", "architecture.hidden=[5,4]", "batching.size=50", "batching.last=keep", "schedule=every")
DIGESTS = {  # computed before the key ``steps`` existed
    (): "e0a5f7230b3bed0f26ef9998339d8dc6548e0c54122714742e134f2d082d9309",
    ("experiment=depth",): "230b94143fef1154847173daf61766012ae3f38fad2dcb482effc6d90ab1f94d",
    ("experiment=smoke",): "d0266f5e92c37d026e1689a47cff92b7bcf34f5d668f247f94b22d111e1e32eb",
}


def test_seven_steps_are_the_first_seven_of_ten_epochs() -> None:
    base = (*TINY, "schedule@evaluation.schedule=every", "optimizer=momentum", "replicates=2")
    short, long = records(*base, "steps=7"), records(*base, "epochs=10")
    assert {step for step, _ in short} == set(range(8))
    expected = {key: values for key, values in long.items() if key[0] <= 7}
    assert set(short) == set(expected)
    for key, (_, values) in short.items():
        assert values.tobytes() == expected[key][1].tobytes(), key


def test_last_step_within_an_epoch_is_measured_and_evaluated() -> None:
    run = prepare_run(config(*TINY, "steps=7"))
    assert (run.length.last_step, run.length.steps_per_epoch) == (7, 3)
    measured = records(*TINY, "schedule=each_epoch", "steps=7")
    for probe in ("delta_rms", "cost/train", "accuracy/test"):
        assert [step for step, name in measured if name == probe] == [0, 3, 6, 7]


def test_whole_epochs_in_steps_are_those_epochs() -> None:
    assert _bytes("steps=6") == _bytes("epochs=2")


def test_zero_steps_measure_at_initialisation_only() -> None:
    assert _bytes("steps=0") == _bytes("epochs=0")
    assert {step for step, _ in records(*TINY, "steps=0")} == {0}


def _bytes(*overrides: str) -> dict[tuple[int, str], bytes]:
    return {key: values.tobytes() for key, (_, values) in records(*TINY, *overrides).items()}


@pytest.mark.parametrize("schedule", ["cosine", "warm_up", "step"])
def test_learning_rate_schedules_use_the_number_of_steps(schedule: str) -> None:
    rate = f"learning_rate_schedule@optimizer.learning_rate_schedule={schedule}"
    assert _bytes(rate, "steps=6") == _bytes(rate, "epochs=2")
    if schedule == "cosine":
        assert _bytes(rate, "steps=6") != {k: v for k, v in _bytes(rate, "steps=9").items() if k[0] <= 6}


@pytest.mark.parametrize("overrides", DIGESTS, ids=" ".join)
def test_digest_without_steps_is_that_of_older_versions(overrides: tuple[str, ...]) -> None:
    new = compose_run([*overrides, "evaluation.train_examples=10000"])  # the value of those versions
    del new["evaluation"]["intermediate_test_examples"]
    assert (new["steps"], new["data"]["validation_fraction"]) == (None, 0.0)
    old = {key: value for key, value in new.items() if key != "steps"}
    old["data"] = {key: value for key, value in new["data"].items() if key != "validation_fraction"}
    assert digest(new) == digest(old) == DIGESTS[overrides]
    assert build(old) == build(new)
    assert "steps" not in scientific(new)
    assert "validation_fraction" not in scientific(new)["data"]
    assert config_changes(old, new) == ["the configs are the same"]


def test_length_of_the_command_replaces_the_other_key() -> None:
    composed = compose_run(["experiment=depth", "steps=5"])
    assert (composed["epochs"], composed["steps"]) == (None, 5)
    assert (raw_config("epochs=3")["epochs"], raw_config("epochs=3")["steps"]) == (3, None)
    assert [cell.config["epochs"] for cell in compose_sweep(["steps=1,2"])] == [None, None]
    assert [cell.config["steps"] for cell in compose_sweep(["steps=1,2"])] == [1, 2]
    assert digest(composed) != digest(compose_run(["experiment=depth"]))


def test_both_lengths_are_refused_in_a_sweep_and_in_python() -> None:
    with pytest.raises(ConfigError, match=r"epochs=1, steps=5: give one of them; the other must be null"):
        build(compose_sweep(["epochs=1,2", "steps=5"])[0].config)
    with pytest.raises(ValueError, match=r"epochs=10, steps=5: give one"):
        dataclasses.replace(config(), steps=5)


@pytest.mark.parametrize("logged", ["epochs: 10\nseed: 0\n", "epochs: 10\nsteps: null\nseed: 0\n"])
def test_change_of_a_logged_config_replaces_the_length(logged: str) -> None:
    changed = parse_config(logged, ["steps=5"])
    assert (changed["epochs"], changed["steps"]) == (None, 5)
    assert parse_config(logged, ["seed=1"]).get("steps") is None
    assert parse_config(logged, ["epochs=3"])["epochs"] == 3
    assert parse_config("epochs: null\nsteps: 5\n", ["epochs=3"]) == {"epochs": 3, "steps": None}


def test_description_says_steps_when_steps_were_given() -> None:
    for given, text in (("steps=7", ", 7 steps, "), ("epochs=2", ", 2 epochs, ")):
        run = prepare_run(config(*TINY, given))
        assert text in to_markdown(RunResult("own", "id", {}, "FINISHED"), run, 0)
