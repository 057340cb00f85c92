"""The worked examples: the claims equal independent numbers, and the analysis equals the measured runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from experiments.experiment import EXPERIMENTS, load
from experiments.runner import run_experiment
from pipeline.config.compose import compose_run
from pipeline.training.loop import run

analysis = SimpleNamespace(**load("worked_examples").measured.__globals__)

RIGHT: dict[str, Any] = json.loads((Path(__file__).parents[1] / "engine" / "worked_examples.json").read_text())
EXAMPLES = list(RIGHT["examples"].values())
NAMES = {"delta": "delta", "dW": "grad_W", "z": "z", "a": "a"}


def right(example: dict[str, Any], quantity: str, layer: int) -> np.ndarray[Any, Any]:
    if quantity == "dC_da":  # (W^2)ᵀ δ^2, for the hidden layer
        assert layer == 1
        return np.array(example["WT_delta"], dtype=np.float64)
    return np.array(example[NAMES[quantity]][layer - 1], dtype=np.float64)


@pytest.mark.thorough
def test_all_claims_are_within_their_tolerance(tmp_path: Path) -> None:
    uri = f"tracking.uri=sqlite:///{tmp_path / 'x.db'}"
    done = run_experiment(load("worked_examples"), [uri], False, True)
    assert done.failed == 0
    assert [a.claim.key for a in done.answers if not a.within] == []
    assert len(done.figure.axes) == 2
    done.figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_claims_equal_the_independent_numbers() -> None:
    claimed = {c.key: c.claimed for c in load("worked_examples").description.claims}
    expected = {}
    for number, example in enumerate(EXAMPLES, start=1):
        expected[f"{number}_cost"] = float(example["cost_half_squared"])
        for layer in (1, 2):
            for (i, _), value in np.ndenumerate(right(example, "delta", layer)):
                expected[f"{number}_delta_{layer}_{i + 1}"] = value
            for (i, j), value in np.ndenumerate(right(example, "dW", layer)):
                expected[f"{number}_dW_{layer}_{i + 1}_{j + 1}"] = value
    counts = {k: v for k, v in claimed.items() if k.endswith(("misprints", "wrong_signs"))}
    assert set(claimed) - set(counts) == set(expected)
    for key, value in expected.items():
        assert claimed[key] == pytest.approx(value, abs=1e-15), key


@pytest.mark.parametrize(("number", "wrong", "signs"), [(1, 0, 0), (2, 27, 5)])
def test_misprints_equal_a_count_without_the_engine(number: int, wrong: int, signs: int) -> None:
    printed = yaml.safe_load((EXPERIMENTS / "worked_examples" / "printed.yaml").read_text(encoding="utf-8"))
    off = flipped = 0
    for quantity, by_layer in printed[f"worked_example_{number}"].items():
        if quantity == "decimals":
            continue
        for layer, matrix in by_layer.items():
            printed_values, expected = np.array(matrix), right(EXAMPLES[number - 1], quantity, layer)
            assert printed_values.shape == expected.shape
            off += int((np.abs(printed_values - expected) > 1.5e-4).sum())
            flipped += int((printed_values * expected < 0).sum())
    assert (off, flipped) == (wrong, signs)
    claimed = {c.key: c.claimed for c in load("worked_examples").description.claims}
    assert (claimed[f"{number}_misprints"], claimed[f"{number}_wrong_signs"]) == (wrong, signs)


@pytest.mark.parametrize("number", [1, 2])
def test_passed_network_equals_the_measured_run(number: int) -> None:
    raw_config = compose_run([f"experiment=worked_example_{number}"])
    records = [r for r in run(analysis.configs.build(raw_config)) if r.step == 0]
    (speeds,) = [r.values[:, 0] for r in records if r.probe == "bias_gradient_norm"]
    (weights,) = [r.values[:, 0] for r in records if r.probe == "gradient_norm"]
    for layer, speed, weight in zip(analysis.passed(raw_config).layers, speeds, weights, strict=True):
        assert speed == pytest.approx(np.linalg.norm(layer.delta), rel=1e-13)
        assert weight == pytest.approx(np.linalg.norm(layer.dW), rel=1e-13)
