"""Divergence: the first non-finite value against a training loop by hand, the last steps, and the logged files."""

from __future__ import annotations

import json
import math
import sqlite3
import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.commands import run_command, sweep_command
from support.configs import REGRESSION, Table, config, records, table
from support.stores import empty, opened, runs, uri

from engine.arrays import Array
from engine.optimizers import SGD
from engine.probes import Layer, traits_of
from pipeline.config.schedules import Every, FirstAndLast, Schedule
from pipeline.config.schema import Config, DivergenceConfig
from pipeline.tracking.store import download
from pipeline.training.divergence import Divergence
from pipeline.training.loop import Callbacks, run, train
from pipeline.training.prepare import build_network, prepare_run
from pipeline.training.records import Record, tidy
from pipeline.training.streams import RandomStreams

pytestmark = pytest.mark.xdist_group("divergence")

DIABETES = (*REGRESSION, "data=diabetes", "activation=identity", "architecture.hidden=[4,4]", "epochs=100")
RELU = ("data=iris", "activation=relu", "architecture.hidden=[6,6]", "epochs=50")
NEURON = (*REGRESSION, "data=point", "activation=identity", "batching=full_batch", "epochs=3", "init=given")
RARE = ("schedule=first_and_last", "schedule@evaluation.schedule=first_and_last")
HUGE = ("init=gaussian", "init.weights.std=1e120")  # not finite at step 0


def rate(value: float) -> str:
    return f"optimizer.learning_rate={value}"


def trained(c: Config) -> tuple[list[Record], dict[int, tuple[int, Divergence]], list[int]]:
    """Return all records; for each replicate the step of the report and the divergence; the steps computed."""
    steps: list[int] = []
    divergences: dict[int, tuple[int, Divergence]] = {}

    def on_divergence(divergence: Divergence) -> None:
        assert divergence.finding.replicate not in divergences, "reported once"
        divergences[divergence.finding.replicate] = steps[-1], divergence

    measured = list(train(prepare_run(c), Callbacks(steps.append, on_divergence)))
    return measured, divergences, steps


def same(a: Table, b: Table) -> None:
    """Bit for bit, NaN equal to NaN."""
    assert set(a) ^ set(b) == set()
    assert list(a) == list(b)
    for key, (layers, values) in a.items():
        assert b[key][0] == layers, key
        np.testing.assert_array_equal(values, b[key][1], strict=True, err_msg=str(key))


def test_replayed_steps_are_reported() -> None:
    """A limit on silence must see progress while a divergence is located."""
    events: list[tuple[str, int]] = []
    run = prepare_run(config(*DIABETES, rate(3)))
    divergences: list[Divergence] = []
    callbacks = Callbacks(
        lambda s: events.append(("step", s)), divergences.append, lambda s: events.append(("trace", s))
    )
    for _ in train(run, callbacks):
        pass
    last = max(s for kind, s in events if kind == "step")
    traced = [s for kind, s in events if kind == "trace"]
    assert divergences
    assert events.index(("step", last)) < events.index(("trace", traced[0]))
    assert traced == list(range(traced[0], divergences[0].finding.step + 1))


# The first non-finite value by hand


@np.errstate(all="ignore")
def first_by_hand(c: Config) -> tuple[int, int | None, str, int]:
    """Return step, layer, quantity and count for one replicate: equations (1) to (6) and momentum in plain loops."""
    assert isinstance(c.optimizer, SGD)
    prepared = prepare_run(c)
    start, top = build_network(prepared).layers, len(prepared.sizes) - 1
    W, b = [x.W[0].copy() for x in start], [x.b[0].copy() for x in start]
    vW, vb = [np.zeros_like(x) for x in W], [np.zeros_like(x) for x in b]
    batches = c.batching.batches(prepared.data.train.shape[1], RandomStreams.of(c.seed, 1).batching[0])
    relu, softmax = (type(s).__name__ == n for s, n in ((c.activation, "Relu"), (c.output, "Softmax")))
    for step in range(prepared.length.last_step + 1):
        rows = prepared.data.train[0][next(batches)]
        a, y = [prepared.data.x[rows].T], prepared.data.y[rows].T
        z: list[Array] = []
        seen: list[tuple[int | None, str, Array]] = []
        for i in range(top):
            z.append(W[i] @ a[i] + b[i])
            e = np.exp(z[i] - z[i].max(axis=0))
            last = e / e.sum(axis=0) if softmax else z[i]
            a.append(last if i + 1 == top else np.maximum(z[i], 0) if relu else z[i])
            seen += [(i + 1, "z", z[i]), (i + 1, "a", a[-1])]
        cost = np.log(e.sum(axis=0)) + z[-1].max(axis=0) - (y * z[-1]).sum(axis=0)
        seen.append((None, "C", cost if softmax else ((a[-1] - y) ** 2).sum(axis=0) / 2))
        delta = [a[-1] - y]
        for i in range(top - 1, 0, -1):
            delta.insert(0, (W[i].T @ delta[0]) * ((z[i - 1] > 0) if relu else 1))
        seen += [(i + 1, "δ", delta[i]) for i in range(top)[::-1]]
        share = [d * (1 / len(rows)) for d in delta]
        gW = [share[i] @ a[i].T for i in range(top)]
        gb = [s.sum(axis=1, keepdims=True) for s in share]
        for i in range(top)[::-1]:
            seen += [(i + 1, "∂C/∂b", gb[i]), (i + 1, "∂C/∂W", gW[i])]
        for i in range(top):
            for name, theta, v, g in (("W", W, vW, gW), ("b", b, vb, gb)):
                v[i] = c.optimizer.momentum * v[i] + g[i]
                update = -c.optimizer.learning_rate * v[i]
                theta[i] = theta[i] + update
                seen += [(i + 1, f"Δ{name}", update), (i + 1, name, theta[i])]
        for layer, quantity, value in seen:
            if not np.isfinite(value).all():
                return step, layer, quantity, int((~np.isfinite(value)).sum())
    pytest.fail("this one was built to explode")


@pytest.mark.parametrize(
    "explosion",
    [
        (*DIABETES, rate(1)),
        (*DIABETES, rate(2)),
        (*DIABETES, rate(1.5), "dtype=float32"),  # not 1: there the last bit of a sum decides when
        (*DIABETES, rate(1.2), "architecture.hidden=[4]"),
        (*DIABETES, rate(1e-9), *HUGE),
        (*DIABETES, rate(1e-3), "init=gaussian", "init.weights.std=20", "architecture.hidden=[7,7,7,7,7]"),
        (*RELU, rate(1e14), "dtype=float32"),
        (*RELU, rate(1e107)),
        (*RELU, rate(1.7e308), "batching=online", "data.subset=40"),
        (*DIABETES, "optimizer=momentum", rate(1)),
        (*DIABETES, "optimizer=momentum", rate(3), "seed=2", "dtype=float32"),
        (*RELU, "optimizer=momentum", rate(1.7e308), "init.biases.value=0.1"),
        (*DIABETES, rate(5), "architecture.hidden=[]"),
        pytest.param((*DIABETES, rate(3), "activation=relu"), marks=pytest.mark.thorough),  # after thousands of steps
    ],
    ids=" ".join,
)
@pytest.mark.thorough
def test_first_non_finite_value_equals_that_of_a_loop_by_hand(explosion: tuple[str, ...]) -> None:
    base = config(*explosion)
    expected = first_by_hand(base)
    schedules: tuple[Schedule, ...] = (Every(1), FirstAndLast())
    for keep, schedule in product((1, 4, 20), schedules):
        divergence, evaluation = DivergenceConfig(True, keep), replace(base.evaluation, schedule=schedule)
        measured, divergences, steps = trained(
            replace(base, divergence=divergence, schedule=schedule, evaluation=evaluation)
        )
        reported, f = divergences[0][0], divergences[0][1].finding
        assert (f.step, f.layer, f.quantity, f.count) == expected, (keep, schedule)
        assert all(math.isfinite(size) for size in f.operands.values()), "the operands of the first are finite"
        assert f"at step {f.step}: {f.quantity}" + (f" of layer {f.layer} " if f.layer else " ") in f.sentence()
        assert steps == list(range(reported + 1)), "training stops there"
        often = schedule == Every(1)
        assert f.step <= reported
        assert reported <= f.step + (1 if often else keep) or f.quantity == "C", "C is not computed in training"
        assert {r.step for r in measured} == (set(steps) if often else {0})


@pytest.mark.parametrize(
    ("x", "y", "weights", "biases", "eta", "expected"),
    [  # a chain of neurons without σ, and the first of its numbers beyond 1.8e308
        (1.0, 0.0, [1.7e308], [1.7e308], 1.0, (1, "z", {"W": 1.7e308, "a": 1.0, "b": 1.7e308})),
        (1.0, 0.0, [1e200, 1e200], [0.0, 0.0], 1.0, (2, "z", {"W": 1e200, "a": 1e200, "b": 0.0})),
        (1.0, 0.0, [1e200], [0.0], 1.0, (None, "C", {"a": 1e200, "z": 1e200})),
        (1.0, 0.0, [1e-50, 1e200], [0.0, 0.0], 1.0, (1, "δ", {"W": 1e200, "δ": 1e150})),
        (1e200, 0.0, [1e-50], [0.0], 1.0, (1, "∂C/∂W", {"δ": 1e150, "a": 1e200})),
        (1e250, 0.0, [1e-20, 1e-80], [0.0, 0.0], 1.0, (2, "∂C/∂W", {"δ": 1e150, "a": 1e230})),  # and then of layer 1
        (3.0, 1.0, [0.0], [0.0], 1e308, (1, "ΔW", {"∂C/∂W": 3.0})),
        (0.125, 3.0, [0.0], [0.0], 1e308, (1, "Δb", {"∂C/∂b": 3.0})),
        (1.0, 1.0, [1.7e308], [-1.7e308], 1e308, (1, "W", {"W": 1.7e308, "ΔW": 1e308})),
        (1.0, 1.0, [-1.7e308], [1.7e308], 1e308, (1, "b", {"b": 1.7e308, "Δb": 1e308})),
    ],
)
@pytest.mark.thorough
def test_every_quantity_can_be_the_first_non_finite(
    x: float,
    y: float,
    weights: list[float],
    biases: list[float],
    eta: float,
    expected: tuple[int, str, dict[str, float]],
) -> None:
    chain = [f"architecture.hidden={[1] * (len(weights) - 1)}", f"data.source.x=[[{x}]]", f"data.source.y=[[{y}]]"]
    chain += [f"init.weights.values={[[[w]] for w in weights]}", f"init.biases.values={[[[b]] for b in biases]}"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, divergences, _ = trained(config(*NEURON, *chain, rate(eta), "schedule=every"))
    f = divergences[0][1].finding
    assert (f.step, f.layer, f.quantity, f.count) == (0, *expected[:2], 1)
    assert f.operands == pytest.approx(expected[2], rel=1e-12)


# The last steps


@pytest.mark.parametrize(
    ("explosion", "keep", "often"),
    [
        ((*DIABETES, rate(1)), 3, True),
        pytest.param((*DIABETES, rate(1)), 7, False, marks=pytest.mark.thorough),
        ((*DIABETES, rate(1)), 200, False),
        ((*DIABETES, rate(2), "replicates=2"), 4, True),
        ((*DIABETES, rate(1e-9), *HUGE), 5, False),  # at step 0: none before it
        ((*RELU, rate(1e107), "dtype=float64"), 1, True),
        ((*DIABETES, rate(1)), 3, False),
        ((*DIABETES, "optimizer=momentum", rate(1)), 2, False),
    ],
)
@pytest.mark.thorough
def test_last_steps_equal_the_records_of_measuring_every_step(
    explosion: tuple[str, ...], keep: int, often: bool
) -> None:
    base = (*explosion, "probes=full", "epochs=10", f"divergence.keep_steps={keep}")
    whole = records(*base, "schedule=every", "divergence.stop=false")
    c = config(*base, *(("schedule=every",) if often else RARE))
    vitals = [name for name, probe in c.probes.items() if not traits_of(probe).costly]
    _, divergences, _ = trained(c)
    assert len(divergences) == c.replicates
    for _, divergence in divergences.values():
        at = divergence.finding.step
        window = range(max(at - keep, 0), at + 1)
        assert sorted({r.step for r in divergence.last_steps}) == list(window)
        expected = {k: v for k, v in whole.items() if k[0] in window and k[1].partition("/")[0] in vitals}
        same(table(divergence.last_steps), expected)


# Some replicates diverge, some do not

SOME = (*DIABETES, "epochs=5", rate(0.6), "replicates=6")  # by trial: replicates 3, 4 and 5 diverge at steps 6, 6, 15
ALL = (*DIABETES, "epochs=10", rate(1), "schedule=every")  # by trial: at steps 93, 6 and 6


def only(whole: Table, k: int, until: int) -> Table:
    return {key: (layers, v[:, k : k + 1]) for key, (layers, v) in whole.items() if key[0] <= until}


@pytest.mark.parametrize("schedule", [("schedule=every",), RARE], ids=["every step", "first and last"])
def test_diverged_replicates_do_not_affect_the_others(schedule: tuple[str, ...]) -> None:
    measured, divergences, steps = trained(config(*SOME, *schedule))
    assert sorted(divergences) == [3, 4, 5]
    assert steps == list(range(56)), "to the end"
    for k in range(6):
        alone, own, own_steps = trained(config(*SOME, *schedule, f"seed={k}", "replicates=1"))
        assert list(own) == ([0] if k in divergences else [])
        same(only(table(measured), k, own_steps[-1]), table(alone))
        if k in divergences:
            assert divergences[k][0] == own[0][0], "reported at the same step"
            assert divergences[k][1].finding == replace(own[0][1].finding, replicate=k)
            same(only(table(divergences[k][1].last_steps), k, 55), table(own[0][1].last_steps))


def test_run_ends_when_all_replicates_have_diverged_unless_stop_is_false() -> None:
    measured, divergences, steps = trained(config(*ALL, "replicates=3"))
    assert [divergences[k][1].finding.step for k in range(3)] == [93, 6, 6]
    assert steps == list(range(94))
    longer, again, steps = trained(config(*ALL, "replicates=3", "divergence.stop=false"))
    assert {r.step for r in longer} == set(steps) == set(range(111))
    assert [(again[k][0], again[k][1].finding) for k in range(3)] == [
        (divergences[k][0], divergences[k][1].finding) for k in range(3)
    ]
    same(table(measured), {key: v for key, v in table(longer).items() if key[0] <= 93})


# Infinite values that are no divergence


def infinite(layer: Layer) -> Array:
    return np.full(layer.W.shape[:-2], np.inf if layer.number == 2 else np.nan)


def spike(layer: Layer) -> Array:
    size = np.linalg.norm(layer.W, axis=(-2, -1))
    return np.where((size > 38) & (size < 39), np.inf, 1.0)  # by trial: at step 90 of replicate 0 of ALL alone


@pytest.mark.parametrize(
    ("harmless", "infinities"),
    [
        (("data=iris", "batching.size=2", "epochs=1", "probes=full"), set()),
        (("data=iris", "init=constant", "init.weights.value=0", "activation=relu", "epochs=2"), {"update_to_weight"}),
        (("data=iris", "epochs=2", "replicates=2", "dtype=float32"), set()),
    ],
)
def test_infinite_probe_is_no_divergence(harmless: tuple[str, ...], infinities: set[str]) -> None:
    c = config(*harmless, "schedule=every", "divergence.keep_steps=2")
    calls: list[int] = []

    def own(layer: Layer) -> Array:
        calls.append(layer.number)
        return infinite(layer)

    measured, divergences, steps = trained(replace(c, probes={**c.probes, "own": own}))
    assert not divergences
    assert len(steps) == prepare_run(c).length.last_step + 1
    lost = {name for (_, name), (_, values) in table(measured).items() if not np.isfinite(values).all()}
    assert lost >= {"own"} | infinities
    assert len(calls) == 3 * (len(steps) + 1) or len(lost) > 1, "only step 0 is replayed"
    plain = replace(c, divergence=DivergenceConfig(stop=False, keep_steps=100))
    same(table([r for r in measured if r.probe != "own"]), table(list(run(plain))))


def test_infinite_probe_does_not_hide_a_later_divergence() -> None:
    """One replicate has diverged, then (at step 90) a probe of the other is infinite, then the other diverges at 93."""
    c = config(*ALL, "replicates=2", "divergence.keep_steps=50", *RARE[1:])
    for probes in (c.probes, {**c.probes, "spike": spike}):
        _, divergences, _ = trained(replace(c, probes=probes))
        assert [divergences[k][0] for k in range(2)] == [93, 6]


# Logged files

SWEPT = (*DIABETES, "epochs=3", "seed=1", "replicates=3", "schedule=every", "divergence.keep_steps=5")
LOGGED_FILES = {"divergence.json", "last_steps.parquet"}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a sweep of three runs with three replicates: none, the last and all of them diverge."""
    folder = tmp_path_factory.mktemp("store")
    overrides = [
        *SWEPT,
        "optimizer.learning_rate=0.01,0.6,1.0",
        f"tracking.uri={empty(uri(folder))}",
        "tracking.metrics=all",
    ]
    assert sweep_command(*overrides).code == 0
    return folder


def artifact(folder: Path, of: Any, name: str) -> Path:
    return download(opened(folder), of.info.run_id, name, folder)


def history(folder: Path, of: Any, key: str) -> dict[int, float]:
    return {m.step: m.value for m in opened(folder).client.get_metric_history(of.info.run_id, key)}


def check_metrics(folder: Path) -> None:
    query = "select count(*), max(abs(value)), sum(is_nan) from metrics"
    with sqlite3.connect(folder / "store.db") as database:
        count, largest, nans = database.execute(query).fetchone()
    assert count > 5
    assert largest <= 1e300
    assert nans == 0


@pytest.mark.parametrize(("eta", "diverging"), [(0.01, []), (0.6, [2]), (1.0, [0, 1, 2])])
@pytest.mark.thorough
def test_sweep_continues_and_logs_divergences(swept: Path, eta: float, diverging: list[int]) -> None:
    (of,) = runs(swept, f"attributes.run_name = 'lr{eta}'")
    measured, divergences, steps = trained(config(*SWEPT, rate(eta)))
    assert sorted(divergences) == diverging, "by trial"
    assert of.info.status == "FINISHED"
    assert of.data.tags["diverged"] == ("true" if divergences else "false")
    fraction = {t: sum(reported <= t for reported, _ in divergences.values()) / 3 for t in steps}
    assert history(swept, of, "diverged_fraction") == fraction
    raw = pd.read_parquet(artifact(swept, of, "records.parquet"))
    pd.testing.assert_frame_equal(raw, tidy(measured), check_exact=True)
    assert np.isinf(raw["value"]).any() == bool(divergences)
    check_metrics(swept)
    artifacts = {a.path for a in opened(swept).client.list_artifacts(of.info.run_id)}
    assert artifacts & LOGGED_FILES == (LOGGED_FILES if divergences else set())
    tags = {key: value for key, value in of.data.tags.items() if key.startswith("diverged_")}
    if not divergences:
        assert not tags
        return
    assert len({d.finding.step for _, d in divergences.values()}) == min(len(divergences), 2), "by trial"
    findings = sorted((d.finding for _, d in divergences.values()), key=lambda f: (f.step, f.replicate))
    assert tags["diverged_at_step"] == str(findings[0].step)
    assert tags["diverged_replicates"] == ",".join(map(str, diverging))
    assert findings[0].sentence() in of.data.tags["mlflow.note.content"]
    for entry, f in zip(json.loads(artifact(swept, of, "divergence.json").read_text()), findings, strict=True):
        operands = {name: float(size) for name, size in entry["operands"].items()}
        assert {**entry, "operands": operands} == vars(f)
    last = pd.read_parquet(artifact(swept, of, "last_steps.parquet"))
    pd.testing.assert_frame_equal(last, tidy(divergences[findings[0].replicate][1].last_steps), check_exact=True)
    assert not np.isfinite(last["value"]).all()


def test_means_cover_finite_replicates_and_magnitudes_have_logarithms(swept: Path) -> None:
    (of,), measured = runs(swept, "attributes.run_name = 'lr0.6'"), records(*SWEPT, rate(0.6))
    for probe, geometric in (("delta_rms", True), ("activation_mean", False)):
        key, counts = f"{probe}/layer_02", set()
        means, logs = history(swept, of, key), history(swept, of, f"log10_{key}")
        for step in range(34):
            values = measured[step, probe][1][1]
            values = values[np.isfinite(values)]
            counts.add(len(values))
            mean = 10 ** np.log10(values).mean() if geometric else values.mean()
            assert means[step] == pytest.approx(mean, rel=1e-10)
            assert logs[step] == pytest.approx(math.log10(mean), abs=1e-10) if geometric else not logs
        assert counts == {2, 3}


@pytest.mark.parametrize("probes", ["standard", "none"])
def test_values_beyond_the_range_of_the_store_are_logged(tmp_path: Path, probes: str) -> None:
    huge = ["architecture.hidden=[]", "init.weights.values=[[[1e303]]]", "init.biases.values=[[[0]]]"]
    shown = run_command(*NEURON, *huge, f"probes={probes}", f"tracking.uri={uri(tmp_path)}")
    assert shown.code == 0
    assert "diverged: replicate 0 diverged at step 0: C = C(a, y)" in shown.text
    (of,) = runs(tmp_path)
    metrics, tags = of.data.metrics, of.data.tags
    assert (of.info.status, tags["diverged"], tags["diverged_at_step"]) == ("FINISHED", "true", "0")
    assert metrics["diverged_fraction"] == 1
    check_metrics(tmp_path)
    last = pd.read_parquet(artifact(tmp_path, of, "last_steps.parquet"))
    assert last.loc[last["probe"] == "z_mean_square", "value"].tolist() == ([] if probes == "none" else [math.inf])
    assert "gradient_norm/layer_01" not in metrics
    assert metrics.get("Gradient norm log10/layer_01") == (None if probes == "none" else pytest.approx(303))
