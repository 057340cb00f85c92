"""The verdict: correct for planted faults, and independent of units, cost scale and batch size."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.configs import REGRESSION, config
from support.examples import examples
from threadpoolctl import threadpool_limits

from engine.arrays import Array
from engine.costs import Cost, HalfSquaredError
from engine.optimizers import SGD
from pipeline.analysis.classes import (
    BLOCKED,
    DEATH,
    DIVERGED,
    EXPLODING,
    HEALTHY,
    IDENTICAL,
    MOMENTUM,
    SATURATION,
    SINGLE,
    TOO_HIGH,
    TOO_LOW,
    UNSURE,
    VANISHING,
)
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.analysis.expectation import Expectation, expect
from pipeline.analysis.explanation import advice, explain, learning_sentence
from pipeline.analysis.flow import decades, flow_class
from pipeline.analysis.remedies import remedies
from pipeline.analysis.summary import Summary
from pipeline.analysis.verdict import Verdict, judge
from pipeline.config.schema import Config
from pipeline.training.divergence import Divergence
from pipeline.training.loop import Callbacks, train
from pipeline.training.prepare import prepare_run
from pipeline.training.records import Record


@dataclass(frozen=True)
class Seen:
    """A run and its verdict."""

    config: Config
    expectation: Expectation | None
    summary: Summary
    verdict: Verdict

    @property
    def explain(self) -> str:
        proposed = remedies(self.verdict, self.config, self.expectation)
        return f"{explain(self.verdict, self.config, self.expectation, self.summary.hidden_layers)} {advice(proposed)}"


def judge_run(chosen: Config) -> Seen:
    run = prepare_run(chosen)
    summary = Summary(hidden_layers=len(run.sizes) - 2)
    divergences: list[Divergence] = []
    with threadpool_limits(1):
        for record in train(run, Callbacks(on_divergence=divergences.append)):
            summary.add(record)
    expectation = expect(run)
    verdict = judge(summary, chosen, len(divergences), expectation, run.sizes)
    assert verdict is not None
    return Seen(chosen, expectation, summary, verdict)


@lru_cache(maxsize=32)
def judge_of(*overrides: str) -> Seen:
    return judge_run(config(*overrides))


def deep(depth: int, width: int = 30) -> tuple[str, ...]:
    return "architecture=deep", f"architecture.depth={depth}", f"architecture.width={width}", "data.subset=256"


UNTRAINED = ("epochs=0", "replicates=4", "batching.size=64")


def record(values: Sequence[Sequence[float]] | Array, probe: str = "delta_rms", step: int = 0) -> Record:
    """Return a record of values [layers, R]; a name with a slash is a whole-network quantity."""
    array = np.array(values, dtype=np.float64)
    layers = () if "/" in probe else tuple(range(1, len(array) + 1))
    return Record(step, probe, layers, array, geometric=probe == "delta_rms")


def falling(per_layer: float, replicates: int = 3, hidden: int = 5, spread: float = 0.0, step: int = 0) -> Record:
    """Return δ that shrinks by ``per_layer`` decades a layer towards the input, with an outlier in the output layer."""
    logs = per_layer * np.arange(hidden)[:, None] + spread * np.arange(replicates) * np.arange(hidden)[:, None]
    return record(np.vstack([10.0**logs, np.full((1, replicates), 1e7)]), step=step)


_plain_config = lru_cache(maxsize=1)(config)


def judge_records(records: Sequence[Record], hidden: int = 5, diverged: int = 0) -> Verdict:
    summary = Summary(hidden)
    for r in records:
        summary.add(r)
    result = judge(summary, _plain_config(), diverged, None, [8] * (hidden + 2))
    assert result is not None
    return result


def interval(low: float, high: float) -> Estimate:
    return Estimate(np.array((low + high) / 2), np.array(low), np.array(high), np.array(0.0))


# Decades


def test_decades_are_the_slope_over_the_hidden_layers() -> None:
    np.testing.assert_allclose(decades(falling(0.5), 5), [2.0, 2.0, 2.0])
    np.testing.assert_allclose(decades(falling(-0.25), 5), [-1.0, -1.0, -1.0])


def test_decades_depend_on_all_layers() -> None:
    ends_alike = record([[1.0], [10.0], [100.0], [1000.0], [1.0], [1.0]])
    assert 0 < decades(ends_alike, 5)[0] < 2


@settings(deadline=None)
@given(st.floats(-8, 8), st.floats(-100, 100))
def test_decades_do_not_depend_on_the_size_of_the_values(per_layer: float, log_factor: float) -> None:
    one = falling(per_layer)
    other = one._replace(values=one.values * 10.0**log_factor)
    np.testing.assert_allclose(decades(other, 5), decades(one, 5), atol=1e-9)


def test_decades_are_nan_for_non_finite_or_cut_off_replicates() -> None:
    result = decades(record([[1.0, math.inf, math.nan, 0.0], [1.0, 1.0, 1.0, 1.0], [10.0] * 4]), 3)
    np.testing.assert_array_equal(np.isfinite(result), [True, False, False, False])


def test_decades_skip_a_delta_that_underflows() -> None:
    one = falling(0.5)
    values = one.values.copy()
    values[0] = 0.0
    result = decades(one._replace(values=values), 5, np.array([False, False, True]))
    np.testing.assert_allclose(result, [2.0, 2.0, np.nan])


# Classes of the flow


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.01, 3.0, VANISHING),
        (-3.0, -1.01, EXPLODING),
        (-0.99, 0.99, HEALTHY),
        (0.9, 3.0, UNSURE),
        (-3.0, -0.9, UNSURE),
        (-2.0, 2.0, UNSURE),
        (math.nan, math.nan, UNSURE),
    ],
)
def test_flow_class_needs_the_whole_interval(low: float, high: float, expected: str) -> None:
    assert flow_class(interval(low, high)) == expected


def test_sign_separates_vanishing_from_exploding() -> None:
    assert judge_records([falling(1.0)]).classes == (VANISHING,)
    assert judge_records([falling(-1.0)]).classes == (EXPLODING,)
    assert judge_records([falling(0.1)]).classes == (HEALTHY,)


def test_wide_interval_is_not_enough_evidence() -> None:
    result = judge_records([falling(0.2, spread=0.2)])
    assert result.classes == (UNSURE,)
    assert float(result.decades.low) < 1 < float(result.decades.high)


def test_verdict_needs_a_hidden_layer_and_delta() -> None:
    assert judge(Summary(0), config(), 0, None, [2, 2]) is None
    summary = Summary(3)
    summary.add(record([[1.0]], "cost/train"))
    assert judge(summary, config(), 0, None, [2, 2, 2, 2, 2]) is None


def test_one_hidden_layer_has_no_flow_but_other_classes() -> None:
    assert judge_records([falling(0.0, hidden=1)], hidden=1).classes == (SINGLE,)
    dead = [falling(0.0, hidden=1), record([[1.0] * 3], "dead_fraction")]
    assert judge_records(dead, hidden=1).classes == (DEATH,)
    assert judge_records([falling(0.0, hidden=1)], hidden=1, diverged=1).classes == (DIVERGED,)


def test_end_without_evidence_is_not_the_state_before() -> None:
    result = judge_records([falling(0.0), falling(0.2, spread=0.2, step=9)])
    assert (result.start, result.end, result.changes) == (HEALTHY, UNSURE, ())


@settings(deadline=None, max_examples=examples(50))
@given(st.lists(st.floats(0.75, 1.25), min_size=2, max_size=30), st.sampled_from([1, -1]))
def test_state_changes_at_most_once_near_the_limit(totals: list[float], sign: int) -> None:
    hovering = [falling(sign * total / 4, spread=1e-4, step=step) for step, total in enumerate(totals)]
    result = judge_records(hovering)
    assert len(result.changes) <= 1 + (result.start == UNSURE)


def test_changes_during_training_have_their_steps() -> None:
    totals = [0.0, 0.2, 1.3, 0.9, 1.2, 0.8, 0.3, 0.0]
    result = judge_records([falling(total / 4, step=10 * i) for i, total in enumerate(totals)])
    assert (result.start, result.end) == (HEALTHY, HEALTHY)
    assert result.changes == ((20, VANISHING), (60, HEALTHY))


# Invariances


@dataclass(frozen=True)
class TimesCost(Cost):
    """Half the squared error in different units."""

    factor: float

    def value(self, a: Array, y: Array) -> Array:
        return self.factor * HalfSquaredError().value(a, y)

    def gradient(self, a: Array, y: Array, out: Array | None = None) -> Array:
        g = np.subtract(a, y, out=out)
        g *= self.factor
        return g


def same_verdict(one: Verdict, other: Verdict, tolerance: float) -> None:
    assert other.classes == one.classes
    assert (other.start, other.end) == (one.start, one.end)
    for name in ("mean", "low", "high"):
        assert abs(float(getattr(other.decades, name) - getattr(one.decades, name))) <= tolerance, name


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_verdict_is_independent_of_cost_scale(activation: str) -> None:
    chosen = config(
        *deep(8), f"activation={activation}", "activation@output=identity", "cost=half_squared_error", "replicates=3",
        "epochs=4", "batching.size=64", "optimizer.learning_rate=0.01",
    )  # fmt: skip
    one = judge_run(chosen).verdict
    factor = 2.0**20  # the same units for the rate: a power of two, so not a bit changes
    assert isinstance(chosen.optimizer, SGD)
    rate = chosen.optimizer.learning_rate / factor
    optimizer = dataclasses.replace(chosen.optimizer, learning_rate=rate)
    other = judge_run(dataclasses.replace(chosen, cost=TimesCost(factor), optimizer=optimizer)).verdict
    same_verdict(one, other, 1e-9)


def test_verdict_is_independent_of_input_units_after_standardisation() -> None:
    keys = ("data=gaussian_noise", "data.source.examples=300", "data.standardise=true", "architecture=deep", *UNTRAINED)
    for activation in ("relu", "tanh"):
        one, other = (
            judge_run(config(*keys, f"activation={activation}", f"data.source.variance={variance}")).verdict
            for variance in (1.0, 1e8)
        )
        same_verdict(one, other, 1e-9)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "identity"])
def test_verdict_is_independent_of_input_size_for_piecewise_linear_activations(activation: str) -> None:
    """Without biases z and a scale with x and σ' is constant; only the weights of examples in the mean change."""
    keys = ("data=gaussian_noise", "data.source.examples=300", "architecture=deep", f"activation={activation}")
    linear = ("init=he_normal", "activation@output=identity", "cost=half_squared_error", *UNTRAINED)
    one, other = (
        judge_run(config(*keys, *linear, f"data.source.variance={variance}")).verdict for variance in (1.0, 2.0**30)
    )
    same_verdict(one, other, 0.2)


@pytest.mark.parametrize(
    ("activation", "expected"), [("relu", HEALTHY), ("sigmoid", VANISHING), ("leaky_relu", HEALTHY)]
)
def test_verdict_is_independent_of_batch_size(activation: str, expected: str) -> None:
    result = [
        judge_of(*deep(10, 64), f"activation={activation}", "epochs=0", "replicates=4", f"batching.size={size}").verdict
        for size in (4, 32, 256)
    ]
    assert [v.classes for v in result] == [(expected,)] * 3
    means = [float(v.decades.mean) for v in result]
    assert max(means) - min(means) < 0.25


# Real networks


@pytest.mark.parametrize(
    ("activation", "std", "expected", "sign"), [("tanh", 0.1, VANISHING, 1), ("relu", 200**0.5, EXPLODING, -1)]
)
def test_tenfold_change_per_layer_has_correct_class_and_sign(
    activation: str, std: float, expected: str, sign: int
) -> None:
    seen = judge_of(
        *deep(10, 50), f"activation={activation}", "init=gaussian_fan_in", f"init.weights.std={std}", *UNTRAINED
    )
    assert seen.verdict.classes == (expected,)
    assert float(seen.verdict.decades.mean) == pytest.approx(sign * 9, abs=1)
    sentence, direction = ("Gradients vanish", "shrink") if sign > 0 else ("Gradients explode", "grow")
    assert sentence in seen.explain
    theory = re.search(rf"At the start, mean-field theory expects δ to {direction} by (\d[\d.]*)", seen.explain)
    assert theory is not None
    assert float(theory[1]) == pytest.approx(9, abs=1)
    factor = re.search(r"a factor of ([\d.]+) a layer", seen.explain)
    assert factor is not None
    assert float(factor[1]) == pytest.approx(10, rel=0.3)


def test_averaging_is_distinguished_from_vanishing() -> None:
    seen = judge_of(
        "architecture=deep", "architecture.depth=30", "activation=relu", "epochs=0", "replicates=10",
        "batching.size=256",
    )  # fmt: skip
    fall = seen.summary.decades_lost("bias_gradient_norm", 0)
    assert fall is not None
    assert fall.mean() > 0.3
    assert float(estimate(fall).low) > 0
    assert seen.verdict.classes == (HEALTHY,)
    assert seen.verdict.averaging is not None
    assert seen.verdict.averaging > 0.1
    assert "That is averaging, not vanishing." in seen.explain


def test_vanishing_delta_is_not_attributed_to_averaging() -> None:
    seen = judge_of(*deep(10), *UNTRAINED)
    assert seen.verdict.classes == (VANISHING,)
    assert seen.verdict.averaging is None


def test_networks_without_an_error_are_not_counted_as_underflow_or_averaging() -> None:
    """Large weights make a softmax certain; if it is right about the batch's one example, δ is exactly 0."""
    seen = judge_of(
        "data=two_spirals", "data.source.examples=250", "architecture=deep", "architecture.depth=7",
        "architecture.width=28", "activation=leaky_relu", "init=orthogonal", "init.weights.gain=5.079", "seed=260212",
        "epochs=0", "batching.size=1", "replicates=5",
    )  # fmt: skip
    delta = seen.summary.series("delta_rms")[0].values
    silent = int((delta[-1] == 0).sum())
    assert 0 < silent < 5
    assert (delta[:, delta[-1] > 0] > 0).all()
    assert seen.verdict.below_range == 0
    assert seen.verdict.averaging is None
    assert f"In {silent} networks, δ is 0 already in the output layer at the start" in seen.explain


def test_single_replicate_has_interval_from_theory() -> None:
    keys = ("activation=relu", "epochs=0", "batching.size=16")
    single = judge_of(*deep(12, 24), *keys, "replicates=1")
    half = float(single.verdict.decades.high - single.verdict.decades.mean)
    values = decades(judge_of(*deep(12, 24), *keys, "replicates=60").summary.records[_first_delta(single)], 12)
    assert 0.7 < half / 1.96 / values.std(ddof=1) < 1.5  # theory's is of one example, a mean over many spreads less


def _first_delta(seen: Seen) -> int:
    return next(i for i, r in enumerate(seen.summary.records) if r.probe == "delta_rms")


def test_single_replicate_without_theory_is_not_enough_evidence() -> None:
    assert judge_records([falling(3.0, replicates=1)]).classes == (UNSURE,)


def test_single_replicate_far_from_the_limit_is_enough_evidence() -> None:
    for activation, expected in (("sigmoid", VANISHING), ("relu", HEALTHY)):
        seen = judge_of(*deep(8, 64), f"activation={activation}", "epochs=0", "replicates=1")
        assert seen.verdict.classes == (expected,)


def test_theory_spread_is_unknown_without_variance_and_zero_for_given_weights() -> None:
    keys = (*deep(4), "activation=relu", "epochs=0", "replicates=1")
    unknown = "init.biases._target_=experiments.verdicts.kinds.OneLayer"
    seen = judge_of(*keys, unknown, "+init.biases.layer=2", "+init.biases.share=0.1")
    assert seen.verdict.classes == (UNSURE,)
    weights = "[[[0.5],[0.7]],[[0.3,-0.7],[0.6,0.1]],[[0.2,0.4]]]"
    written_out = judge_of(
        "data=point", "data.source.y=[[0.5]]", "architecture.hidden=[2,2]", "batching=full_batch", "epochs=0",
        "init=given", f"init.weights.values={weights}", "init.biases.values=[[[0],[0]],[[0],[0]],[[0]]]", *REGRESSION,
    )  # fmt: skip
    assert written_out.verdict.classes == (HEALTHY,)
    assert float(written_out.verdict.decades.high - written_out.verdict.decades.low) == 0


def test_delta_that_underflows_is_vanishing_and_not_dead() -> None:
    seen = judge_of(*deep(90, 20), "dtype=float32", "epochs=0", "replicates=3")
    first = seen.summary.at("delta_rms", 0)
    assert first is not None
    assert (first.values[0] == 0).all()
    assert seen.verdict.classes == (VANISHING,)
    assert float(seen.verdict.decades.mean) > 45


def test_inactive_units_are_dead() -> None:
    keys = (*deep(6), "activation=relu", "init.biases.value=-30", *UNTRAINED)
    for probes in ("standard", "essential"):
        seen = judge_of(*keys, f"probes={probes}")
        assert seen.verdict.classes == (DEATH,)


def test_saturation_applies_to_bounded_activations_only() -> None:
    wide = ("init=gaussian_fan_in", "init.weights.std=12", *UNTRAINED)
    assert SATURATION in judge_of(*deep(6), "activation=tanh", *wide).verdict.classes
    assert SATURATION not in judge_of(*deep(6), "activation=relu", *wide).verdict.classes


# Learning rates

TRAINED = ("activation=tanh", "init=mean_field", "epochs=5", "batching.size=32", "replicates=3")


def costs(rows: Sequence[Sequence[float]], share: float | None = 0.01) -> list[Record]:
    """A healthy flow with these training costs, one row an evaluation, and steps of this share of the weights."""
    result = []
    for step, row in enumerate(rows):
        result += [falling(0.0, replicates=len(row), step=step), record([row], "cost/train", step)]
        if share is not None:
            result.append(record(np.full((6, len(row)), share), "update_to_weight", step))
    return result


@pytest.mark.parametrize(
    ("rate", "expected"), [(30.0, TOO_HIGH), (1e-5, TOO_LOW), (0.05, HEALTHY)], ids=["high", "low", "right"]
)
def test_learning_rate_is_classified(rate: float, expected: str) -> None:
    result = judge_of(*deep(5), *TRAINED, f"optimizer.learning_rate={rate}").verdict
    assert expected in result.classes
    assert (result.classes == (HEALTHY,)) == (expected == HEALTHY)


def test_climbing_cost_means_learning_rate_too_high() -> None:
    rows = [[1.0, 1.1, 0.9], [0.5, 0.4, 0.6], [2.0, 3.0, 1.5], [2.1, 2.2, 2.5]]
    assert judge_records(costs(rows)).classes == (TOO_HIGH,)
    vanishing = [falling(1.0, step=r.step) if r.probe == "delta_rms" else r for r in costs(rows)]
    assert judge_records(vanishing).classes == (VANISHING, TOO_HIGH)
    assert judge_records(costs(rows), diverged=1).classes == (DIVERGED,)


def test_cost_that_never_falls_means_learning_rate_too_high() -> None:
    assert judge_records(costs([[1.0, 1.1, 0.9], [1.2, 1.2, 1.1], [1.1, 1.2, 1.2], [1.2, 1.3, 1.1]])).classes == (
        TOO_HIGH,
    )


def test_early_jump_of_the_cost_is_healthy_after_recovery() -> None:
    rows = [[1.0, 1.1, 0.9], [3.0, 2.5, 4.0], [0.5, 0.4, 0.6], [0.3, 0.2, 0.3], [0.2, 0.1, 0.2]]
    assert judge_records(costs(rows)).classes == (HEALTHY,)


def test_learning_rate_too_low_needs_tiny_steps_and_healthy_gradient() -> None:
    rows = [[v, v, v] for v in (1.0, 0.99, 0.98, 0.97, 0.96)]
    assert judge_records(costs(rows, 1e-5)).classes == (TOO_LOW,)
    assert judge_records(costs(rows, 1e-2)).classes == (HEALTHY,)
    assert judge_records(costs(rows, None)).classes == (HEALTHY,)
    vanishing = [falling(1.0, step=r.step) if r.probe == "delta_rms" else r for r in costs(rows, 1e-5)]
    assert judge_records(vanishing).classes == (VANISHING,)


def test_cost_that_converges_is_healthy() -> None:
    rows = [[v, v, v] for v in (1.0, 0.95, 0.94, 0.937, 0.936)]
    assert judge_records(costs(rows, 1e-5)).classes == (HEALTHY,)


# The explanation

EXAMPLES: dict[str, tuple[str, ...]] = {
    HEALTHY: (*deep(8, 64), "activation=relu", *UNTRAINED),
    VANISHING: (*deep(10), *UNTRAINED),
    EXPLODING: (*deep(8), "activation=relu", "init=gaussian_fan_in", "init.weights.std=3", *UNTRAINED),
    UNSURE: (*deep(20, 20), "activation=relu", "epochs=0", "replicates=1"),
    DEATH: (*deep(6), "activation=relu", "init.biases.value=-30", *UNTRAINED),
    SATURATION: (*deep(6), "activation=tanh", "init=gaussian_fan_in", "init.weights.std=12", *UNTRAINED),
    DIVERGED: (*deep(5), "activation=relu", "init=gaussian_fan_in", "init.weights.std=1e80", *UNTRAINED),
    TOO_HIGH: (*deep(5), *TRAINED, "optimizer.learning_rate=30.0"),
    TOO_LOW: (*deep(5), *TRAINED, "optimizer.learning_rate=1e-05"),
    BLOCKED: (*deep(5), *UNTRAINED, "init=constant", "init.weights.value=0"),
    IDENTICAL: (*deep(5), *UNTRAINED, "init=constant", "init.weights.value=0.1"),
    SINGLE: ("architecture.hidden=[9]", *UNTRAINED),
}
KEYWORD = {
    HEALTHY: "healthy",
    VANISHING: "vanish",
    EXPLODING: "explode",
    UNSURE: "not enough evidence",
    DEATH: "dead",
    SATURATION: "saturated",
    DIVERGED: "diverged",
    TOO_HIGH: "too high",
    TOO_LOW: "too low",
    BLOCKED: "δ is exactly 0 in hidden layer 5, because the weights above it are all 0",
    IDENTICAL: "identical",
    SINGLE: "no flow between hidden layers",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_explanation_names_every_class_with_numbers(name: str) -> None:
    seen = judge_of(*EXAMPLES[name])
    assert name in seen.verdict.classes
    assert KEYWORD[name] in seen.explain
    assert re.search(r"\d", seen.explain) or name in (IDENTICAL, SINGLE)
    assert not re.search(r"\b(nan|inf)\b", seen.explain)
    assert (name in (HEALTHY, UNSURE, SINGLE)) == ("What to change" not in seen.explain)


def test_explanation_of_deep_sigmoid_network() -> None:
    seen = judge_of(*deep(20), *UNTRAINED)
    text = seen.explain
    assert seen.verdict.classes == (VANISHING,)
    mean = f"{float(seen.verdict.decades.mean):.3g}"
    assert f"Gradients vanish: from the last of 20 hidden layers to the first, δ shrinks by {mean}" in text
    factor = re.search(r"a factor of (\d\.\d) a layer", text)
    assert factor is not None
    assert 3.5 < float(factor[1]) < 4.5
    chi = re.search(r"χ = (0\.\d+) a layer", text)
    assert chi is not None
    assert float(chi[1]) == pytest.approx(1 / float(factor[1]) ** 2, rel=0.1)
    assert "as measured" in text
    assert "init=" in text
    assert "activation=relu" in text


@pytest.mark.parametrize("rate", ["0", "1e-18", "1e-9"])
def test_steps_that_change_nothing_are_seen_at_once_and_the_rate_follows_from_the_gradient(rate: str) -> None:
    """The proposed rate changes the fastest layer by a thousandth of its norm in the first step: measured here."""
    seen = judge_of(
        *deep(3), "activation=tanh", "init=lecun_normal", "steps=2", "epochs=null", f"optimizer.learning_rate={rate}"
    )
    assert seen.verdict.classes == (TOO_LOW,)
    (proposed,) = remedies(seen.verdict, seen.config, seen.expectation)
    tried = judge_of(
        *deep(3),
        "activation=tanh",
        "init=lecun_normal",
        "steps=2",
        "epochs=null",
        "probes=standard",
        proposed.overrides,
    )
    first = tried.summary.at("update_to_weight", 0)
    assert first is not None
    assert float(first.values.max(axis=0).mean()) == pytest.approx(1e-3, rel=0.15)


def test_rate_proposed_for_adam_follows_from_its_measured_steps_only() -> None:
    """Its steps are not the gradient times a rate: without a measured step there is no rate to propose."""
    keys = (*deep(3), "activation=tanh", "init=lecun_normal", "steps=2", "epochs=null", "optimizer=adam")
    seen = judge_of(*keys, "optimizer.learning_rate=1e-12")
    assert seen.verdict.classes == (TOO_LOW,)
    (proposed,) = remedies(seen.verdict, seen.config, seen.expectation)
    first = judge_of(*keys, "probes=standard", proposed.overrides).summary.at("update_to_weight", 0)
    assert first is not None
    assert 0.5e-3 < float(first.values.max(axis=0).mean()) < 2e-3
    still = judge_of(*keys, "optimizer.learning_rate=0")
    assert still.verdict.classes == (TOO_LOW,)
    assert remedies(still.verdict, still.config, still.expectation) == []


@pytest.mark.parametrize("name", [VANISHING, EXPLODING, HEALTHY])
def test_explanation_says_that_steps_of_adam_do_not_follow_the_size_of_gradients(name: str) -> None:
    sgd, adam = judge_of(*EXAMPLES[name]), judge_of(*EXAMPLES[name], "optimizer=adam")
    assert adam.verdict.classes == sgd.verdict.classes
    assert "Adam" not in sgd.explain
    assert "layers learn at similar speeds while gradients are well above ε = 1e-08" in adam.explain
    assert not re.search("hardly learn|far too long|ten times as fast", adam.explain)


def test_momentum_clipping_and_decay_are_judged_for_sgd_only() -> None:
    """Adam divides by the size of the gradient, so these numbers do not describe its steps."""
    keys = (*deep(3), *UNTRAINED, "clipping@optimizer.clipping=global_norm", "optimizer.weight_decay=0.1")
    numbers = {"clipped", "decay", "decayed"}
    assert numbers <= set(judge_of(*keys).verdict.numbers)
    assert not numbers & set(judge_of(*keys, "optimizer=adam").verdict.numbers)
    overshoot = judge_of(*deep(5), *TRAINED, "optimizer=adam", "optimizer.learning_rate=30.0")
    assert TOO_HIGH in overshoot.verdict.classes
    assert MOMENTUM not in overshoot.verdict.causes


def test_clipping_is_proposed_for_sgd_only() -> None:
    """Adam's steps are about η long in any case."""
    keys = (*(key for key in EXAMPLES[EXPLODING] if key not in UNTRAINED), "epochs=1", "replicates=3")
    assert "clipping" in judge_of(*keys).explain
    assert "clipping" not in judge_of(*keys, "optimizer=adam").explain


def test_expected_decades_are_means_of_logarithms_with_their_finite_width_term() -> None:
    """60 layers of 20 ReLU units lose decades by finite width alone, most of what one example loses."""
    seen = judge_of(*deep(60, 20), "activation=relu", "init=he_normal", "epochs=0", "replicates=200")
    lost = seen.summary.decades_lost("delta_rms", 0)
    assert lost is not None
    assert seen.expectation is not None
    least, most, std = seen.expectation.decades(60)
    error = 4 * lost.std() / math.sqrt(len(lost))
    assert abs(least) < 0.01
    assert 0.7 * most - error < float(lost.mean()) < most + error
    assert float(lost.std()) == pytest.approx(std, rel=0.2)
    assert "as measured" in seen.explain
    assert "Finite width costs" in seen.explain


def test_expected_decades_of_linear_networks_are_exact_at_width_1() -> None:
    """ln of a product of squared normal weights: its mean is ψ(1/2) + ln 2 a layer, its variance ψ'(1/2) = π²/2."""
    expectation = judge_of(*deep(9, 1), "activation=identity", "init=lecun_normal", *UNTRAINED).expectation
    assert expectation is not None
    least, mean, std = expectation.decades(9)
    assert least == pytest.approx(0, abs=1e-9)
    euler = 0.5772156649015329
    assert mean == pytest.approx(8 * (euler + math.log(2)) / math.log(100))
    assert std == pytest.approx(math.sqrt(8 * math.pi**2 / 2) / math.log(100))


def test_healthy_rectifiers_get_no_critical_initialisation() -> None:
    seen = judge_of(*deep(60, 20), "activation=relu", "init=he_normal", "epochs=0", "replicates=200")
    assert "critical" not in " ".join(r.name for r in remedies(seen.verdict, seen.config, seen.expectation))


def test_layers_below_the_range_of_float32_are_counted() -> None:
    seen = judge_of(*deep(100), *UNTRAINED, "dtype=float32")
    delta = seen.summary.at("delta_rms", 0)
    assert delta is not None
    below = int((delta.values[:100] == 0).any(axis=1).sum())
    assert below > 20
    assert f"In {below} of 100 hidden layers, δ is below the range of float32" in seen.explain


@pytest.mark.parametrize(
    ("accuracy", "examples", "says"), [(0.10, 400, True), (0.12, 400, True), (0.2, 400, False), (0.12, 40_000, False)]
)
def test_network_that_only_guesses_has_not_learned(accuracy: float, examples: int, says: bool) -> None:
    assert bool(learning_sentence(accuracy, 0.1, examples)) is says


def test_interval_of_several_replicates_is_their_own() -> None:
    values = np.array([0.1, 0.2, 0.4])
    one = record(10.0 ** (values * np.arange(5)[:, None] / 4))
    result = judge_records([one])
    mine = estimate(values)
    assert float(result.decades.low) == pytest.approx(float(mine.low))
    assert float(result.decades.high) == pytest.approx(float(mine.high))
