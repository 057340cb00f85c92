"""The gradient noise scale estimates the population's value, without bias of its parts, and with an honest interval."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import activations as act
from engine import probes
from engine.costs import HalfSquaredError
from engine.network import Network
from pipeline.analysis.noise_scale import noise_scale
from pipeline.training.records import Record


def records(probe: str, *steps: list[list[float]]) -> list[Record]:
    return [Record(i, probe, (1, 2), np.array(values), geometric=False) for i, values in enumerate(steps)]


def test_parts_are_unbiased_for_a_population_of_five_examples() -> None:
    """The mean over all batches of two, drawn with replacement, is the population's tr(Σ) and |G|²."""
    rng = np.random.default_rng(0)
    net = Network.mlp([3, 4, 2], [act.Tanh(), act.Identity()])
    net.theta[...] = rng.standard_normal(net.theta.shape)
    x, y = rng.standard_normal((3, 5)), rng.standard_normal((2, 5))

    def step(examples: list[int]) -> probes.Step:
        net.forward(x[:, examples])
        net.backward(y[:, examples], HalfSquaredError())
        return probes.Step(net)

    single = []
    for b in range(5):
        step([b])
        single.append(net.layers[0].dW.ravel().copy())
    g = np.array(single)
    measured = []
    for pair in itertools.product(range(5), repeat=2):
        computed = step(list(pair))
        kinds = probes.gradient_variance, probes.gradient_signal
        measured.append([probes.measure(computed, probe)[0].values[0] for probe in kinds])
    variance, signal = np.mean(measured, axis=0)
    assert variance == pytest.approx(g.var(axis=0).sum(), rel=1e-12)
    assert signal == pytest.approx(np.square(g.mean(axis=0)).sum(), rel=1e-12)


def test_ratio_and_jackknife_by_hand() -> None:
    """Two layers, two steps, three replicates: sums 12, 24, 12 over 6, 6, 12; ratios without one: 2, 4/3, 3."""
    variances = records("gradient_variance", [[6, 12, 6], [6, 12, 6]], [[2, 20, 6], [10, 4, 6]])
    signals = records("gradient_signal", [[3, 3, 6], [3, 3, 6]], [[-4, 3, 10], [10, 3, 2]])
    e = noise_scale(variances, signals)
    without = np.array([36 / 18, 24 / 18, 36 / 12])
    error = np.sqrt(2 / 3 * np.square(without - without.mean()).sum())
    assert float(e.mean) == pytest.approx(48 / 24)
    assert float(e.high) == pytest.approx(2 + 4.302652729911275 * error)
    assert float(e.low) == 0.0  # the interval ends at 0: no ratio is smaller
    assert float(e.lost) == 0.0


def test_batch_without_signal_does_not_make_the_mean_infinite() -> None:
    variances, signals = records("gradient_variance", [[4, 4]]), records("gradient_signal", [[-1, 3]])
    assert float(noise_scale(variances, signals).mean) == 4.0
    none = noise_scale(variances, records("gradient_signal", [[-1, 1]]))
    assert np.isposinf(none.mean)
    assert np.isnan(none.low)


def test_replicate_that_is_not_finite_is_left_out_and_counted() -> None:
    e = noise_scale(records("v", [[4, np.nan, 2]]), records("s", [[2, 1, 1]]))
    assert [float(e.mean), float(e.lost)] == pytest.approx([2.0, 1 / 3])
    assert np.isnan(noise_scale(records("v", [[np.nan]]), records("s", [[1]])).mean)


@given(st.integers(0, 10**6))
def test_estimate_does_not_depend_on_the_batch_size(seed: int) -> None:
    """Batches of 4 and of 64 from one population estimate the same number, with 400 replicates within 25%."""
    rng = np.random.default_rng(seed)
    estimates = []
    for size in (4, 64):
        g = rng.standard_normal((400, size, 10)) + 1.0  # tr(Σ) = 10, |G|² = 10
        mean_square = np.square(g).sum(axis=-1).mean(axis=1)
        square_mean = np.square(g.mean(axis=1)).sum(axis=-1)
        variance = (mean_square - square_mean) * size / (size - 1)
        signal = (size * square_mean - mean_square) / (size - 1)
        estimates.append(float(noise_scale(records("v", [variance.tolist()]), records("s", [signal.tolist()])).mean))
    assert estimates == pytest.approx([1.0, 1.0], rel=0.25)
