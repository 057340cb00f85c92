"""Whole runs at the limits of the number types: sixty sigmoid layers, and updates lost to rounding."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from support.commands import run_command
from support.configs import records


def chi_of_sigmoid() -> float:
    """χ = σ_w² ∫ σ'(√q z)² Dz at q = σ_w² ∫ σ(√q z)² Dz, by the trapezoidal rule, σ_w = 1 and no biases."""
    z = np.linspace(-9, 9, 20_001)
    weight = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    q = 1.0
    for _ in range(100):
        q = float((weight / (1 + np.exp(-math.sqrt(q) * z)) ** 2).sum())
    a = 1 / (1 + np.exp(-math.sqrt(q) * z))
    return float((weight * (a * (1 - a)) ** 2).sum())


@pytest.mark.thorough
def test_gradients_of_sixty_sigmoid_layers_vanish_as_theory_predicts(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'x.db'}"
    overrides = [
        "experiment=vanish_60",
        "replicates=5",
        "architecture.width=150",
        "data.subset=400",
        "tracking.metrics=[random_cotangent_delta_rms]",
        f"tracking.uri={uri}",
    ]
    assert run_command(*overrides).code == 0
    with sqlite3.connect(tmp_path / "x.db") as database:
        measured = dict(database.execute("select key, value from latest_metrics where key like 'log10_random_cot%'"))
        gradient = dict(
            database.execute("select key, value from latest_metrics where key like 'Gradient norm log10/%'")
        )
    logs = [measured[f"log10_random_cotangent_delta_rms/layer_{i:02d}"] for i in range(1, 61)]
    assert logs[0] < -35
    assert all(math.isfinite(v) for v in gradient.values())
    assert len(gradient) == 61
    assert min(gradient.values()) < -35
    factor = 10 ** (2 * (logs[50] - logs[10]) / 40)  # of ⟨‖δ‖²⟩ per layer, upwards, away from both ends
    assert factor == pytest.approx(1 / chi_of_sigmoid(), rel=0.02)


@pytest.mark.parametrize(("dtype", "low", "high"), [("float32", 0.5, 1.0), ("float64", 0.0, 1e-3)])
def test_float32_loses_most_updates_of_the_first_layer(dtype: str, low: float, high: float) -> None:
    measured = records("experiment=lost_updates", "replicates=3", "epochs=1", f"dtype={dtype}")
    shares = np.mean([values for (_, name), (_, values) in measured.items() if name == "lost_updates"], axis=(0, 2))
    assert low <= shares[0] <= high
    assert shares[-1] < 1e-3
