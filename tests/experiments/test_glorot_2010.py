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

pytestmark = pytest.mark.xdist_group("glorot_2010")

analysis = SimpleNamespace(**load("glorot_2010").measured.__globals__)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return "tracking.uri=" + empty(f"sqlite:///{tmp_path_factory.mktemp('store') / 'x.db'}")


def claims(*prefixes: str) -> set[str]:
    return {c.key for c in load("glorot_2010").description.claims if c.key.startswith(prefixes)}


@pytest.mark.thorough
def test_narrower_networks_follow_the_claims(store: str, tmp_path: Path) -> None:
    """With half the width and a quarter of the networks chance is √8 times larger, up to 1% a factor."""
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
    numbers = answered(done)
    assert set(numbers) == claims("delta", "gradients")
    assert numbers["delta_linear_standard"] == pytest.approx(3**-0.5, rel=0.01)
    assert numbers["delta_linear_normalised"] == pytest.approx(1, rel=0.01)
    assert numbers["delta_tanh_standard"] == pytest.approx(3**-0.5, rel=0.015)
    assert numbers["delta_tanh_normalised"] == pytest.approx(0.8685, rel=0.015)
    assert numbers["delta_lost"] == pytest.approx(3**-4.5, rel=0.09)
    assert numbers["gradients_linear_standard"] == pytest.approx(1, abs=0.08)
    assert numbers["gradients_tanh_standard"] == pytest.approx(1.0272, abs=0.08)
    assert numbers["gradients_tanh_normalised"] == pytest.approx(1.1673, abs=0.1)
    assert numbers["delta_tanh_standard_whole"] == pytest.approx(0.5589, rel=0.015)
    assert len(done.figure.axes) == 4
    done.figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_singular_values_follow_the_claims(store: str) -> None:
    """Singular values depend on n Var[W] and the slopes, not on n."""
    done = outcome(
        "glorot_2010",
        store,
        ["glorot_2010_jacobian"],
        "replicates=1",
        "architecture.width=250",
        "data.source.inputs=250",
    )
    numbers = answered(done)
    assert set(numbers) == claims("jacobian")
    assert numbers["jacobian_circle"] == pytest.approx(8 / (3 * np.pi) / np.sqrt(3), rel=0.03)
    assert numbers["jacobian_standard"] == pytest.approx(0.48, abs=0.03)
    assert 0.72 < numbers["jacobian_normalised"] < 0.85


def test_top_layer_of_the_sigmoid_net_saturates(store: str) -> None:
    numbers = answered(outcome("glorot_2010", store, ["glorot_2010_sigmoid"], "replicates=2", "epochs=14"))
    assert set(numbers) == {"top_0", "top_2000", "accuracy_2000"}
    assert numbers["top_0"] == pytest.approx(0.5, abs=0.03)
    assert numbers["top_2000"] == pytest.approx(0.15, abs=0.03)
    assert numbers["accuracy_2000"] == pytest.approx(0.1, abs=0.05)


def test_end_of_training_is_measured_and_drawn() -> None:
    summary = Summary(2)
    for step, top, accuracy in ((0, 0.5, 0.1), (2000, 0.25, 0.125), (16000, 0.125, 0.5)):
        summary.add(Record(step, "activation_mean", (1, 2, 3), np.array([[0.75], [top], [0.0625]]), False))
        summary.add(Record(step, "accuracy/test", (), np.array([[accuracy]]), False))
    results = [Result("glorot_2010_sigmoid", {}, {}, summary)]
    numbers = {key: float(e.mean) for key, e in analysis.measured(results).items()}
    assert claims("top", "accuracy") <= set(numbers)
    assert [numbers[f"top_{step}"] for step in (0, 2000, 16000)] == [0.5, 0.25, 0.125]
    assert numbers["accuracy_16000"] == 0.5
    assert analysis.figure(results).axes[3].lines


@pytest.mark.parametrize(
    ("variance", "delta", "gradients"),
    [(1 / 3, "delta_tanh_standard_whole", "gradients_tanh_standard"),
     (1.0, "delta_tanh_normalised", "gradients_tanh_normalised")],
)  # fmt: skip
def test_tanh_claims_equal_quadrature(variance: float, delta: str, gradients: str) -> None:
    """δ^l/δ^{l+1} = √(v E tanh'(√q z)²), a² = E tanh(√q z)², q ↦ v a². ‖∂C/∂W^l‖ is proportional to δ^l a^{l−1}."""
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


def test_quarter_circle_has_the_claimed_mean() -> None:
    s = np.linspace(0, 2, 100_001)
    density = np.sqrt(4 - np.square(s)) / np.pi
    assert np.trapezoid(density, s) == pytest.approx(1, abs=1e-5)
    assert np.trapezoid(density * s, s) == pytest.approx(8 / (3 * np.pi), abs=1e-6)
    uniform = np.random.default_rng(0).uniform(-1, 1, (400, 400)) / 20  # U(±1/√n): its variance is 1/(3n)
    values = np.linalg.svd(uniform, compute_uv=False)
    assert values.mean() == pytest.approx(8 / (3 * np.pi) / np.sqrt(3), rel=0.01)


def test_factor_and_extremes_by_hand() -> None:
    values = np.array([[1.0, 4.0], [2.0, 4.0], [4.0, 1.0]])
    assert float(analysis.factor(values).mean) == pytest.approx((1 / 4 * 4) ** 0.25)
    assert float(analysis.largest_over_smallest(values).mean) == pytest.approx(np.sqrt(8) / 2)
