"""The trace of the worked examples and of any small network."""

from __future__ import annotations

import pytest

from pipeline.cli import main


def test_trace_of_worked_examples_lists_wrong_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace"]) == 0
    first, second = capsys.readouterr().out.split("worked_example_2")
    assert (
        first.index("section 1") < first.index("First world:") < first.index("Second world:") < first.index("x = a^0")
    )
    assert "∂C₀/∂a^(L−1) = 2(a−y) σ'(z) w, not ∂C₀/∂b^(L)" in second
    assert "As printed in the derivation" in first
    assert "[2×1] = [2×2][2×1] + [2×1]" in first
    assert "-0.014951" in first
    assert "delta^1 [2, 1]: printed -0.0226, correct 0.0252 (the sign is wrong)" in second
    assert "z^1 [1, 1]: printed 0.24, correct 0.2300" in second
    assert "\n  a^1 [2, 1]" not in second  # the derivation prints this number correctly


def test_trace_of_any_config_agrees_in_both_worlds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "data=iris", "architecture.hidden=[3]", "activation=tanh"]) == 0
    out = capsys.readouterr().out
    assert "where cost and σ collapse" in out
    difference = float(out.split("largest difference between the two worlds:")[1].split()[0])
    assert difference < 1e-12


def test_trace_rejects_large_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "data=digits"]) == 2
    assert capsys.readouterr().err.startswith("error: architecture: layers [64, 30, 30, 10] are too large to print")
