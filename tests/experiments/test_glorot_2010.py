"""Standard and normalised uniform weights: claims from few networks, and the analysis by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.published import answered, outcome
from support.stores import empty

from experiments.experiment import load
from experiments.runner import Result
from pipeline.analysis.summary import Summary
from pipeline.training.records import Record

analysis = SimpleNamespace(**load("glorot_2010").measured.__globals__)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return "tracking.uri=" + empty(f"sqlite:///{tmp_path_factory.mktemp('store') / 'x.db'}")


def claims(*prefixes: str) -> set[str]:
    return {c.key for c in load("glorot_2010").description.claims if c.key.startswith(prefixes)}


def test_delta_and_gradients(store: str, tmp_path: Path) -> None:
    """Half the width and a quarter of the networks: chance is √8 times that of the claims, up to 1% a factor."""
    done = outcome(
        "glorot_2010",
        store,
        ["glorot_2010"],
        "replicates=5",
        "architecture.width=150",
        "architecture.outputs=150",
        "data.source.inputs=150",
        "data.source.classes=150",
    )
    found = answered(done)
    assert set(found) == claims("delta", "gradients")
    assert found["delta_linear_standard"] == pytest.approx(3**-0.5, rel=0.01)
    assert found["delta_linear_normalised"] == pytest.approx(1, rel=0.01)
    assert found["delta_tanh_standard"] == pytest.approx(3**-0.5, rel=0.015)
    assert found["delta_tanh_normalised"] == pytest.approx(0.8685, rel=0.015)
    assert found["delta_lost"] == pytest.approx(3**-4.5, rel=0.09)
    assert found["gradients_linear_standard"] == pytest.approx(1, abs=0.08)
    assert found["gradients_tanh_standard"] == pytest.approx(1.0272, abs=0.08)
    assert found["gradients_tanh_normalised"] == pytest.approx(1.1673, abs=0.1)
    assert found["delta_tanh_standard_whole"] == pytest.approx(0.5589, rel=0.015)
    assert len(done.figure.axes) == 4
    done.figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_singular_values(store: str) -> None:
    """They depend on n Var[W] and the slopes, not on n: layers of 250 on inputs of the same length and size."""
    done = outcome(
        "glorot_2010",
        store,
        ["glorot_2010_jacobian"],
        "replicates=1",
        "architecture.width=250",
        "data.source.inputs=250",
    )
    found = answered(done)
    assert set(found) == claims("jacobian")
    assert found["jacobian_circle"] == pytest.approx(8 / (3 * np.pi) / np.sqrt(3), rel=0.03)
    assert found["jacobian_standard"] == pytest.approx(0.48, abs=0.03)
    assert 0.72 < found["jacobian_normalised"] < 0.85


def test_the_sigmoid_net_shuts_its_top_layer(store: str) -> None:
    found = answered(outcome("glorot_2010", store, ["glorot_2010_sigmoid"], "replicates=2", "epochs=14"))
    assert set(found) == {"top_0", "top_2000", "accuracy_2000"}
    assert found["top_0"] == pytest.approx(0.5, abs=0.03)
    assert found["top_2000"] == pytest.approx(0.15, abs=0.03)
    assert found["accuracy_2000"] == pytest.approx(0.1, abs=0.05)


def test_the_end_of_training_is_answered_and_drawn() -> None:
    summary = Summary(2)
    for step, top, accuracy in ((0, 0.5, 0.1), (2000, 0.25, 0.125), (16000, 0.125, 0.5)):
        summary.add(Record(step, "activation_mean", (1, 2, 3), np.array([[0.75], [top], [0.0625]]), False))
        summary.add(Record(step, "accuracy/test", (), np.array([[accuracy]]), False))
    results = [Result("glorot_2010_sigmoid", {}, {}, summary)]
    found = {key: float(e.mean) for key, e in analysis.measured(results).items()}
    assert claims("top", "accuracy") <= set(found)
    assert [found[f"top_{step}"] for step in (0, 2000, 16000)] == [0.5, 0.25, 0.125]
    assert found["accuracy_16000"] == 0.5
    assert analysis.figure(results).axes[3].lines


@pytest.mark.parametrize(
    ("variance", "delta", "gradients"),
    [(1 / 3, "delta_tanh_standard_whole", "gradients_tanh_standard"),
     (1.0, "delta_tanh_normalised", "gradients_tanh_normalised")],
)  # fmt: skip
def test_the_claims_about_tanh_by_quadrature(variance: float, delta: str, gradients: str) -> None:
    """δ^l/δ^{l+1} = √(v E tanh'(√q z)²), a² = E tanh(√q z)², q ↦ v a²; ‖∂C/∂W^l‖ is as δ^l times a^{l−1}."""
    z = np.linspace(-9, 9, 100_001)
    density = np.exp(-np.square(z) / 2)
    density /= density.sum()
    q, below, ratios = variance, [1.0], []
    for _ in range(9):
        a = np.tanh(np.sqrt(q) * z)
        ratios.append(np.sqrt(variance * float(density @ np.square(1 - np.square(a)))))
        below.append(np.sqrt(float(density @ np.square(a))))
        q = variance * below[-1] ** 2
    errors = np.cumprod([1.0, *ratios[::-1]])[::-1]
    claimed = {c.key: c.claimed for c in load("glorot_2010").description.claims}
    assert errors[0] ** (1 / 9) == pytest.approx(claimed[delta], abs=5e-5)
    sizes = errors * np.array(below)
    assert sizes.max() / sizes.min() == pytest.approx(claimed[gradients], abs=5e-5)


def test_the_quarter_circle_of_the_figure_has_the_mean_of_the_claim() -> None:
    s = np.linspace(0, 2, 100_001)
    density = np.sqrt(4 - np.square(s)) / np.pi
    assert np.trapezoid(density, s) == pytest.approx(1, abs=1e-5)
    assert np.trapezoid(density * s, s) == pytest.approx(8 / (3 * np.pi), abs=1e-6)
    uniform = np.random.default_rng(0).uniform(-1, 1, (400, 400)) / 20  # U(±1/√n): its variance is 1/(3n)
    values = np.linalg.svd(uniform, compute_uv=False)
    assert values.mean() == pytest.approx(8 / (3 * np.pi) / np.sqrt(3), rel=0.01)


def test_factor_and_extremes() -> None:
    values = np.array([[1.0, 4.0], [2.0, 4.0], [4.0, 1.0]])
    assert float(analysis.factor(values).mean) == pytest.approx((1 / 4 * 4) ** 0.25)
    assert float(analysis.largest_over_smallest(values).mean) == pytest.approx(np.sqrt(8) / 2)
