"""run(config): deterministic, equal for stacks and single replicates, unaffected by measuring, and learning."""

from __future__ import annotations

import math
import pickle
import warnings
from itertools import pairwise

import numpy as np
import pytest
from support.configs import REGRESSION, Table, config, records

from pipeline.data.scikit_learn import ScikitLearn
from pipeline.training.loop import train
from pipeline.training.prepare import CACHE, PreparedRun, build_network, prepare_run
from pipeline.training.trainer import first_batch

TINY = ("data=iris", "architecture.hidden=[5,4]", "epochs=2", "schedule=every", "schedule.n=2")
CLIP, RATE = "clipping@optimizer.clipping", "learning_rate_schedule@optimizer.learning_rate_schedule"
SPIRALS = ("data=two_spirals", "data.source.examples=80")
VARIANTS = [
    ("activation=sigmoid", "init=nielsen"),
    ("activation=tanh", "dtype=float32"),
    ("activation=relu", "batching=online", "data.subset=20"),
    ("activation=gelu", "batching.last=keep", "batching.size=50", "dtype=float32"),
    ("activation=silu", "batching=with_replacement", "batching.size=7"),
    ("activation=softplus", "batching=full_batch", "optimizer=momentum"),
    ("activation=elu", "optimizer=nesterov", "optimizer.weight_decay=0.01", "dtype=float32"),
    ("activation=selu", f"{CLIP}=global_norm", "optimizer.clipping.max_norm=0.1", "optimizer=momentum"),
    ("activation=softsign", f"{CLIP}=per_layer", "optimizer.clipping.max_norm=0.1", f"{RATE}=cosine"),
    ("activation=hard_tanh", f"{RATE}=warm_up", "optimizer.learning_rate_schedule.steps=3", "init=truncated_normal"),
    ("activation=leaky_relu", f"{RATE}=step", "optimizer.learning_rate_schedule.every=2", "init=orthogonal"),
    ("activation=tanh", "cost=cross_entropy", "activation@output=sigmoid", *SPIRALS),
    ("activation=relu", "cost=squared_error", *SPIRALS, "data.subset=50", "data.standardise=false"),
    ("activation=tanh", *REGRESSION, "data=teacher", "data.source.examples=100", "dtype=float32"),
    ("activation=tanh", *REGRESSION, "data=diabetes", "+activation@layer_activations.layer_02=relu"),
    ("activation=sigmoid", "data=gaussian_noise", "data.source.examples=90", "evaluation.train_examples=11"),
    ("activation=identity", "replicates=4", "architecture=deep", "architecture.depth=4", "architecture.width=3"),
]


def fitted(variant: tuple[str, ...]) -> list[str]:
    """TINY without the keys that the variant replaces, then the variant."""
    replaced = {o.partition("=")[0] for o in variant}
    kept = [o for o in TINY if o.partition("=")[0] not in replaced]
    return [o for o in kept if not ("architecture" in replaced and o.startswith("architecture"))] + list(variant)


def assert_same(a: Table, b: Table) -> None:
    """Bit for bit, NaN equal to NaN."""
    assert list(a) == list(b)
    for key, (layers, values) in a.items():
        assert b[key][0] == layers, key
        assert values.tobytes() == b[key][1].tobytes(), key


variants = pytest.mark.parametrize("variant", VARIANTS, ids=" ".join)


@variants
@pytest.mark.thorough
def test_same_config_gives_the_same_records(variant: tuple[str, ...]) -> None:
    first = records(*fitted(variant), "seed=3")
    np.random.seed(1)  # noqa: NPY002 (a run must not depend on it)
    CACHE.clear()
    assert_same(first, records(*fitted(variant), "seed=3"))


@variants
@pytest.mark.thorough
def test_replicate_k_is_the_run_with_seed_plus_k(variant: tuple[str, ...]) -> None:
    own = [o for o in fitted(variant) if not o.startswith("replicates")]
    count = 4 if "replicates=4" in variant else 3
    stack = records(*own, "seed=7", f"replicates={count}")
    distinct = set()
    for k in range(count):
        alone = records(*own, f"seed={7 + k}", "replicates=1")
        assert_same({key: (layers, values[:, k : k + 1]) for key, (layers, values) in stack.items()}, alone)
        distinct.add(alone[0, "gradient_norm"][1].tobytes())
    assert len(distinct) == count, "replicates must differ"


@pytest.mark.parametrize("variant", VARIANTS[::3], ids=" ".join)
@pytest.mark.thorough
def test_measuring_changes_nothing(variant: tuple[str, ...]) -> None:
    base = [o for o in fitted(variant) if not o.startswith("schedule")]
    often = records(*base, "schedule=every", "schedule@evaluation.schedule=every")
    rarely = records(*base, "schedule=first_and_last", "schedule@evaluation.schedule=first_and_last")
    unmeasured = records(*base, "probes=none")
    only_one = records(*base, "probes=none", "+probe@probes.delta_rms=delta_rms", "schedule=every")
    assert len(often) > len(rarely)
    for fewer in (rarely, unmeasured, only_one):
        assert fewer
        assert_same({key: often[key] for key in fewer}, fewer)
    assert {probe for _, probe in unmeasured} == {f"{q}/{part}" for q in scores(unmeasured) for part in PARTS}


PARTS = ("train", "test")


def scores(measured: Table) -> set[str]:
    return {"cost", "r2" if any(probe.startswith("r2") for _, probe in measured) else "accuracy"}


def test_zero_epochs_measure_at_initialisation_only() -> None:
    measured = records(*TINY, "epochs=0")
    assert {step for step, _ in measured} == {0}
    assert len(measured) == 10 + 4
    longer = records(*TINY)
    for key, (_, values) in measured.items():
        if key[1] != "update_to_weight":  # the only one that depends on the length of the run
            assert values.tobytes() == longer[key][1].tobytes(), key


@pytest.mark.parametrize("batching", ["batching.size=50", "batching=full_batch", "batching=with_replacement"])
@pytest.mark.parametrize(
    "schedule",
    [
        ("schedule=every", "schedule.n=3"),
        ("schedule=logarithmic", "schedule.per_decade=3"),
        ("schedule=each_epoch",),
        ("schedule=first_and_last",),
        ("schedule=at", "schedule.steps_listed=[1,3,1000]"),
    ],
    ids=lambda s: s[0],
)
@pytest.mark.thorough
def test_recorded_steps_are_the_scheduled_steps(schedule: tuple[str, ...], batching: str) -> None:
    overrides = (*(o for o in TINY if not o.startswith("schedule")), *schedule, batching, "epochs=4")
    run = prepare_run(config(*overrides))
    assert run.length.last_step == 4 * run.config.batching.steps_per_epoch(run.data.train.shape[1])
    measured = records(*overrides)
    for probe in run.config.probes:
        assert [step for step, name in measured if name == probe] == run.config.schedule.steps(run.length), probe
    for name in ("cost/train", "cost/test", "accuracy/train", "accuracy/test"):
        assert [s for s, n in measured if n == name] == run.config.evaluation.schedule.steps(run.length), name


def test_records_come_in_order_of_step() -> None:
    steps = [step for step, _ in records(*TINY)]
    assert steps == sorted(steps)


# A run in another process


def test_prepared_run_is_pickled_without_its_data() -> None:
    run = prepare_run(config("epochs=1", "probes=essential"))
    content = pickle.dumps(run)
    assert len(content) < 10_000 < run.data.x.nbytes
    CACHE.clear()
    again = pickle.loads(content)
    assert [(r.step, r.probe, r.values.tobytes()) for r in train(again)] == [
        (r.step, r.probe, r.values.tobytes()) for r in train(run)
    ]


# One use of randomness does not affect another


def prepared(*overrides: str) -> PreparedRun:
    return prepare_run(config("data=iris", *overrides))


def test_random_streams_are_independent() -> None:
    base = prepared()
    for changed in (
        prepared("batching.size=16"),
        prepared("batching=with_replacement"),
        prepared("data.test_fraction=0.3"),
    ):
        np.testing.assert_array_equal(build_network(changed).theta, build_network(base).theta)
        assert first_batch(changed).tobytes() != first_batch(base).tobytes()
    for changed in (
        prepared("init=orthogonal"),
        prepared("architecture.hidden=[3]"),
        prepared("init=nielsen", "epochs=1"),
    ):
        np.testing.assert_array_equal(first_batch(changed), first_batch(base))
        np.testing.assert_array_equal(changed.data.train, base.data.train)
    for changed in (prepared("init=orthogonal"), prepared("seed=1")):
        assert build_network(changed).theta.tobytes() != build_network(base).theta.tobytes()


def test_each_use_of_randomness_has_its_own_child_of_the_seed() -> None:
    """Data, initialisation and batching are recomputed by hand from SeedSequence(seed + k).spawn(3)."""
    run = prepared("seed=4", "replicates=2", "init=gaussian", "init.weights.std=1", "architecture.hidden=[]")
    network = build_network(run)
    for k in range(2):
        data, initialisation, batching = (
            np.random.default_rng(child) for child in np.random.SeedSequence(4 + k).spawn(3)
        )
        order = data.permutation(150)
        rows = batching.permutation(120)[:32]
        raw = ScikitLearn("iris").load(data).x
        scaled = (raw - raw[order[30:]].mean(axis=0)) / raw[order[30:]].std(axis=0)
        np.testing.assert_allclose(run.data.x[first_batch(run)[k]], scaled[order[30:]][rows], rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(network.layers[0].W[k], initialisation.standard_normal((3, 4)))


def test_cost_and_accuracy_are_means_over_the_first_examples_of_each_replicate() -> None:
    overrides = ("data=iris", "epochs=0", "replicates=2", "evaluation.train_examples=11")
    run, measured = prepare_run(config(*overrides)), records(*overrides)
    for part, rows in (("train", run.data.train[:, :11]), ("test", run.data.test)):
        for k in range(2):
            a = build_network(run).forward(run.data.x[rows].mT)[k].T
            truth = run.data.y[rows[k]].argmax(axis=1)
            costs = [-math.log(row[t]) for row, t in zip(a.tolist(), truth.tolist(), strict=True)]
            hits = [max(row) == row[t] for row, t in zip(a.tolist(), truth.tolist(), strict=True)]
            assert measured[0, f"cost/{part}"][1][0, k] == pytest.approx(sum(costs) / len(costs), rel=1e-12)
            assert measured[0, f"accuracy/{part}"][1][0, k] == pytest.approx(sum(hits) / len(hits), rel=1e-12)


def test_float32_and_float64_start_from_the_same_numbers() -> None:
    single, double = build_network(prepared("dtype=float32")), build_network(prepared())
    assert single.theta.dtype == np.float32
    np.testing.assert_array_equal(single.theta, double.theta.astype(np.float32))


# Learning


def last(measured: Table, name: str) -> float:
    (values,) = [v for (step, n), (_, v) in measured.items() if n == name and step == max(s for s, _ in measured)]
    return float(values[0, 0])


@pytest.mark.parametrize("rate", [0.15, 3.0])
@pytest.mark.thorough
def test_one_neuron_learns_as_computed_by_hand(rate: float) -> None:
    """Input 1, target 0, w = 0.6, b = 0.9, quadratic cost, η = 0.15: the neuron of Nielsen 2015, chapter 3."""
    measured = records(
        "data=point", "architecture.hidden=[]", "activation@output=sigmoid", "cost=half_squared_error", "init=given",
        "init.weights.values=[[[0.6]]]", "init.biases.values=[[[0.9]]]", "batching=full_batch",
        f"optimizer.learning_rate={rate}", "epochs=300", "schedule=every",
    )  # fmt: skip
    w, b = 0.6, 0.9
    for step in range(301):
        a = 1 / (1 + math.exp(-(w + b)))
        slope = a * a * (1 - a)  # ∂C/∂z = (a − 0) σ'(z)
        assert measured[step, "cost/train"][1].item() == pytest.approx(a * a / 2, rel=1e-12)
        assert measured[step, "gradient_norm"][1].item() == pytest.approx(slope, rel=1e-12)
        assert measured[step, "update_to_weight"][1].item() == pytest.approx(rate * slope / abs(w), rel=1e-11)
        w, b = w - rate * slope, b - rate * slope
    assert last(measured, "cost/test") == last(measured, "cost/train")


def test_digits_are_learnt() -> None:
    measured = records("activation=tanh", "epochs=5", "probes=none")
    assert measured[0, "accuracy/test"][1].item() < 0.3
    assert last(measured, "accuracy/test") > 0.92
    assert last(measured, "accuracy/train") > 0.97
    costs = [v.item() for (_, n), (_, v) in measured.items() if n == "cost/train"]
    assert all(later < earlier for earlier, later in pairwise(costs))
    assert costs[0] == pytest.approx(math.log(10), rel=0.35)  # near uniform guessing


def test_diabetes_is_fitted() -> None:
    measured = records(
        *REGRESSION, "data=diabetes", "architecture.hidden=[]", "optimizer.learning_rate=0.02", "epochs=20",
        "evaluation.train_examples=1000",
    )  # fmt: skip
    assert 0.3 < last(measured, "r2/test") < 0.7
    assert last(measured, "cost/train") == pytest.approx((1 - last(measured, "r2/train")) / 2, rel=1e-9)  # variance 1


def test_linear_net_reaches_the_least_squares_solution() -> None:
    """Full-batch descent on a linear model ends at the normal equations' solution."""
    overrides = [*REGRESSION, "data=diabetes", "architecture.hidden=[]", "batching=full_batch", "probes=none"]
    overrides += ["optimizer=nesterov", "optimizer.learning_rate=0.1", "epochs=3000", "schedule=first_and_last"]
    overrides += ["schedule@evaluation.schedule=first_and_last", "evaluation.train_examples=1000"]
    measured, data = records(*overrides), prepare_run(config(*overrides)).data
    x, y = (np.c_[data.x, np.ones(len(data.x))], data.y[:, 0])
    train, test = data.train[0], data.test[0]
    best = np.linalg.lstsq(x[train], y[train], rcond=None)[0]
    for part, rows in (("train", train), ("test", test)):
        r2 = 1 - ((x[rows] @ best - y[rows]) ** 2).sum() / ((y[rows] - y[rows].mean()) ** 2).sum()
        assert last(measured, f"r2/{part}") == pytest.approx(r2, abs=1e-6)


def test_teacher_is_learnt() -> None:
    measured = records(
        *REGRESSION, "data=teacher", "activation=tanh", "architecture.hidden=[40]", "epochs=30", "probes=none",
        "data.source.hidden=[5]", "data.source.inputs=5", "data.source.weight_std=1.0",
        "replicates=5",
    )  # fmt: skip
    assert measured[0, "r2/test"][1].mean() < 0.2
    assert measured[max(s for s, _ in measured), "r2/test"][1].min() > 0.98


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [(*REGRESSION, "data=diabetes"), ("data=iris",)], ids=["regression", "classes"])
@pytest.mark.parametrize("clipping", [(), (f"{CLIP}=global_norm",), (f"{CLIP}=per_layer",)], ids=str)
@pytest.mark.thorough
def test_divergence_is_recorded_without_warnings(kind: tuple[str, ...], dtype: str, clipping: tuple[str, ...]) -> None:
    overrides = (*kind, "activation=relu", "epochs=10", "schedule=every", f"dtype={dtype}", "replicates=2")
    rate = "optimizer.learning_rate=1e300" if dtype == "float64" else "optimizer.learning_rate=1e37"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured = records(*overrides, *clipping, rate, "optimizer=momentum", "divergence.stop=false")
    assert all(np.isfinite(values).all() for (step, _), (_, values) in measured.items() if step == 0)
    assert not all(np.isfinite(values).all() for _, values in measured.values())
    assert {step for step, _ in measured} == set(range(max(s for s, _ in measured) + 1)), "the run continues to its end"
    if "data=iris" in kind:
        assert np.isnan(measured[max(s for s, _ in measured), "cost/test"][1]).all()
        assert last(measured, "accuracy/test") == last(measured, "accuracy/train") == 0, "NaN predicts nothing"
