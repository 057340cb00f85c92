"""Divergence: the first value that is not finite, against a training loop by hand; its steps; what is logged of it."""

from __future__ import annotations

import io
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
from support.stores import empty, opened, quiet, runs, uri

from engine.arrays import Array
from engine.probes import Layer, traits_of
from pipeline.config.schedules import Every, FirstAndLast, Schedule
from pipeline.config.schema import Config, DivergenceConfig
from pipeline.tracking.store import download
from pipeline.training.divergence import Divergence
from pipeline.training.loop import run, train
from pipeline.training.prepare import build_network, prepare_run
from pipeline.training.records import Record, tidy
from pipeline.training.streams import RandomStreams

DIABETES = (*REGRESSION, "data=diabetes", "activation=identity", "architecture.hidden=[4,4]", "epochs=100")
RELU = ("data=iris", "activation=relu", "architecture.hidden=[6,6]", "epochs=50")
NEURON = (*REGRESSION, "data=point", "activation=identity", "batching=full_batch", "epochs=3", "init=given")
RARE = ("schedule=first_and_last", "schedule@evaluation.schedule=first_and_last")
HUGE = ("init=gaussian", "init.weights.std=1e120")  # not finite at step 0


def rate(value: float) -> str:
    return f"optimizer.learning_rate={value}"


def trained(c: Config) -> tuple[list[Record], dict[int, tuple[int, Divergence]], list[int]]:
    """All records; by replicate the step at which its divergence was told, and what was told; the steps begun."""
    steps: list[int] = []
    found: dict[int, tuple[int, Divergence]] = {}

    def on_divergence(divergence: Divergence) -> None:
        assert divergence.finding.replicate not in found, "told once"
        found[divergence.finding.replicate] = steps[-1], divergence

    made = list(train(prepare_run(c), steps.append, on_divergence))
    return made, found, steps


def same(a: Table, b: Table) -> None:
    """Bit for bit, NaN equal to NaN."""
    assert set(a) ^ set(b) == set()
    assert list(a) == list(b)
    for key, (layers, values) in a.items():
        assert b[key][0] == layers, key
        np.testing.assert_array_equal(values, b[key][1], strict=True, err_msg=str(key))


def test_the_steps_that_are_trained_again_are_told() -> None:
    """A limit on silence must not take the search for the beginning for one."""
    alive: list[tuple[str, int]] = []
    run = prepare_run(config(*DIABETES, rate(3)))
    found: list[Divergence] = []
    for _ in train(
        run, lambda s: alive.append(("step", s)), found.append, on_trace=lambda s: alive.append(("trace", s))
    ):
        pass
    last = max(s for kind, s in alive if kind == "step")
    traced = [s for kind, s in alive if kind == "trace"]
    assert found
    assert alive.index(("step", last)) < alive.index(("trace", traced[0]))
    assert traced == list(range(traced[0], found[0].finding.step + 1))


# The first value that is not finite, by hand


@np.errstate(all="ignore")
def first_by_hand(c: Config) -> tuple[int, int | None, str, int]:
    """Step, layer, quantity and how many entries, of one replicate: equations (1) to (6), momentum, plain loops."""
    made = prepare_run(c)
    start, top = build_network(made).layers, len(made.sizes) - 1
    W, b = [x.W[0].copy() for x in start], [x.b[0].copy() for x in start]
    vW, vb = [np.zeros_like(x) for x in W], [np.zeros_like(x) for x in b]
    batches = c.batching.batches(made.data.train.shape[1], RandomStreams.of(c.seed, 1).batching[0])
    relu, softmax = (type(s).__name__ == n for s, n in ((c.activation, "Relu"), (c.output, "Softmax")))
    for step in range(made.length.last_step + 1):
        rows = made.data.train[0][next(batches)]
        a, y = [made.data.x[rows].T], made.data.y[rows].T
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
def test_the_first_non_finite_value_is_the_one_of_a_loop_by_hand(explosion: tuple[str, ...]) -> None:
    base = config(*explosion)
    expected = first_by_hand(base)
    schedules: tuple[Schedule, ...] = (Every(1), FirstAndLast())
    for keep, schedule in product((1, 4, 20), schedules):
        divergence, evaluation = DivergenceConfig(True, keep), replace(base.evaluation, schedule=schedule)
        made, found, steps = trained(replace(base, divergence=divergence, schedule=schedule, evaluation=evaluation))
        told, f = found[0][0], found[0][1].finding
        assert (f.step, f.layer, f.quantity, f.count) == expected, (keep, schedule)
        assert all(math.isfinite(size) for size in f.operands.values()), "it was the first"
        assert f"at step {f.step}: {f.quantity}" + (f" of layer {f.layer} " if f.layer else " ") in f.sentence()
        assert steps == list(range(told + 1)), "training has stopped there"
        often = schedule == Every(1)
        assert f.step <= told
        assert told <= f.step + (1 if often else keep) or f.quantity == "C", "C is not computed in training"
        assert {r.step for r in made} == (set(steps) if often else {0})


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
def test_every_quantity_can_be_the_first(
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
        _, found, _ = trained(config(*NEURON, *chain, rate(eta), "schedule=every"))
    f = found[0][1].finding
    assert (f.step, f.layer, f.quantity, f.count) == (0, *expected[:2], 1)
    assert f.operands == pytest.approx(expected[2], rel=1e-12)


# The steps before it


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
def test_the_last_steps_are_what_measuring_every_step_gives(explosion: tuple[str, ...], keep: int, often: bool) -> None:
    base = (*explosion, "probes=full", "epochs=10", f"divergence.keep_steps={keep}")
    whole = records(*base, "schedule=every", "divergence.stop=false")
    c = config(*base, *(("schedule=every",) if often else RARE))
    vitals = [name for name, probe in c.probes.items() if not traits_of(probe).costly]
    _, found, _ = trained(c)
    assert len(found) == c.replicates
    for _, divergence in found.values():
        at = divergence.finding.step
        window = range(max(at - keep, 0), at + 1)
        assert sorted({r.step for r in divergence.last_steps}) == list(window)
        expected = {k: v for k, v in whole.items() if k[0] in window and k[1].partition("/")[0] in vitals}
        same(table(divergence.last_steps), expected)


# Some diverge, some do not

SOME = (*DIABETES, "epochs=5", rate(0.6), "replicates=6")  # by trial: replicates 3, 4 and 5 diverge at steps 6, 6, 15
ALL = (*DIABETES, "epochs=10", rate(1), "schedule=every")  # by trial: at steps 93, 6 and 6


def only(found: Table, k: int, until: int) -> Table:
    return {key: (layers, v[:, k : k + 1]) for key, (layers, v) in found.items() if key[0] <= until}


@pytest.mark.parametrize("schedule", [("schedule=every",), RARE], ids=["every step", "first and last"])
def test_what_diverges_leaves_the_others_alone(schedule: tuple[str, ...]) -> None:
    made, found, steps = trained(config(*SOME, *schedule))
    assert sorted(found) == [3, 4, 5]
    assert steps == list(range(56)), "to the end"
    for k in range(6):
        alone, own, own_steps = trained(config(*SOME, *schedule, f"seed={k}", "replicates=1"))
        assert list(own) == ([0] if k in found else [])
        same(only(table(made), k, own_steps[-1]), table(alone))
        if k in found:
            assert found[k][0] == own[0][0], "told at the same step"
            assert found[k][1].finding == replace(own[0][1].finding, replicate=k)
            same(only(table(found[k][1].last_steps), k, 55), table(own[0][1].last_steps))


def test_it_ends_when_all_have_diverged_and_goes_on_if_told_to() -> None:
    made, found, steps = trained(config(*ALL, "replicates=3"))
    assert [found[k][1].finding.step for k in range(3)] == [93, 6, 6]
    assert steps == list(range(94))
    longer, again, steps = trained(config(*ALL, "replicates=3", "divergence.stop=false"))
    assert {r.step for r in longer} == set(steps) == set(range(111))
    assert [(again[k][0], again[k][1].finding) for k in range(3)] == [
        (found[k][0], found[k][1].finding) for k in range(3)
    ]
    same(table(made), {key: v for key, v in table(longer).items() if key[0] <= 93})


# Not everything infinite has diverged


def infinite(layer: Layer) -> Array:
    return np.full(layer.W.shape[:-2], np.inf if layer.number == 2 else np.nan)


def spike(layer: Layer) -> Array:
    size = np.linalg.norm(layer.W, axis=(-2, -1))
    return np.where((size > 38) & (size < 39), np.inf, 1.0)  # by trial: at step 90 of replicate 0 of ALL alone


@pytest.mark.parametrize(
    ("harmless", "infinities"),
    [
        (("data=iris", "batching.size=2", "epochs=1", "probes=full"), {"gradient_noise_scale"}),
        (("data=iris", "init=constant", "init.weights.value=0", "activation=relu", "epochs=2"), {"update_to_weight"}),
        (("data=iris", "epochs=2", "replicates=2", "dtype=float32"), set()),
    ],
)
def test_a_probe_that_is_infinite_is_no_divergence(harmless: tuple[str, ...], infinities: set[str]) -> None:
    c = config(*harmless, "schedule=every", "divergence.keep_steps=2")
    asked: list[int] = []

    def own(layer: Layer) -> Array:
        asked.append(layer.number)
        return infinite(layer)

    made, found, steps = trained(replace(c, probes={**c.probes, "own": own}))
    assert not found
    assert len(steps) == prepare_run(c).length.last_step + 1
    lost = {name for (_, name), (_, values) in table(made).items() if not np.isfinite(values).all()}
    assert lost >= {"own"} | infinities
    assert len(asked) == 3 * (len(steps) + 1) or len(lost) > 1, "step 0 is looked into again, and no other"
    plain = replace(c, divergence=DivergenceConfig(stop=False, keep_steps=100))
    same(table([r for r in made if r.probe != "own"]), table(list(run(plain))))


def test_an_infinite_probe_does_not_blind_the_watch() -> None:
    """One replicate has diverged, then (at step 90) a probe of the other is infinite, then the other diverges at 93."""
    c = config(*ALL, "replicates=2", "divergence.keep_steps=50", *RARE[1:])
    for probes in (c.probes, {**c.probes, "spike": spike}):
        _, found, _ = trained(replace(c, probes=probes))
        assert [found[k][0] for k in range(2)] == [93, 6]


# What is logged

SWEPT = (*DIABETES, "epochs=3", "seed=1", "replicates=3", "schedule=every", "divergence.keep_steps=5")
TOLD = {"divergence.json", "last_steps.parquet"}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a sweep of three runs of three replicates: none diverges, the last does, all do."""
    folder = tmp_path_factory.mktemp("store")
    overrides = [*SWEPT, "optimizer.learning_rate=0.01,0.6,1.0", f"tracking.uri={empty(uri(folder))}"]
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
def test_a_sweep_goes_on_and_says_what_diverged(swept: Path, eta: float, diverging: list[int]) -> None:
    (of,) = runs(swept, f"attributes.run_name = 'lr{eta}'")
    made, found, steps = trained(config(*SWEPT, rate(eta)))
    assert sorted(found) == diverging, "by trial"
    assert of.info.status == "FINISHED"
    assert of.data.tags["diverged"] == ("true" if found else "false")
    fraction = {t: sum(told <= t for told, _ in found.values()) / 3 for t in steps}
    assert history(swept, of, "diverged_fraction") == fraction
    raw = pd.read_parquet(artifact(swept, of, "records.parquet"))
    pd.testing.assert_frame_equal(raw, tidy(made), check_exact=True)
    assert np.isinf(raw["value"]).any() == bool(found)
    check_metrics(swept)
    artifacts = {a.path for a in opened(swept).client.list_artifacts(of.info.run_id)}
    assert artifacts & TOLD == (TOLD if found else set())
    tags = {key: value for key, value in of.data.tags.items() if key.startswith("diverged_")}
    if not found:
        assert not tags
        return
    assert len({d.finding.step for _, d in found.values()}) == min(len(found), 2), "by trial"
    findings = sorted((d.finding for _, d in found.values()), key=lambda f: (f.step, f.replicate))
    assert tags["diverged_at_step"] == str(findings[0].step)
    assert tags["diverged_replicates"] == ",".join(map(str, diverging))
    assert tags["diverged_first"] == findings[0].sentence()
    for told, f in zip(json.loads(artifact(swept, of, "divergence.json").read_text()), findings, strict=True):
        operands = {name: float(size) for name, size in told["operands"].items()}
        assert {**told, "operands": operands} == vars(f)
    last = pd.read_parquet(artifact(swept, of, "last_steps.parquet"))
    pd.testing.assert_frame_equal(last, tidy(found[findings[0].replicate][1].last_steps), check_exact=True)
    assert not np.isfinite(last["value"]).all()


def test_means_are_of_the_living_and_magnitudes_have_logarithms(swept: Path) -> None:
    (of,), found = runs(swept, "attributes.run_name = 'lr0.6'"), records(*SWEPT, rate(0.6))
    for probe, geometric in (("delta_rms", True), ("activation_mean", False)):
        key, counts = f"{probe}/layer_02", set()
        means, logs = history(swept, of, key), history(swept, of, f"log10_{key}")
        for step in range(34):
            values = found[step, probe][1][1]
            values = values[np.isfinite(values)]
            counts.add(len(values))
            mean = 10 ** np.log10(values).mean() if geometric else values.mean()
            assert means[step] == pytest.approx(mean, rel=1e-10)
            assert logs[step] == pytest.approx(math.log10(mean), abs=1e-10) if geometric else not logs
        assert counts == {2, 3}


@pytest.mark.parametrize("probes", ["standard", "none"])
def test_a_run_beyond_what_a_store_takes(tmp_path: Path, probes: str) -> None:
    huge = ["architecture.hidden=[]", "init.weights.values=[[[1e303]]]", "init.biases.values=[[[0]]]"]
    console = quiet()
    assert run_command(*NEURON, *huge, f"probes={probes}", f"tracking.uri={empty(uri(tmp_path))}").code == 0
    assert isinstance(console.file, io.StringIO)
    assert "diverged replicate 0 diverged at step 0: C = C(a, y)" in console.file.getvalue()
    (of,) = runs(tmp_path)
    metrics, tags = of.data.metrics, of.data.tags
    assert (of.info.status, tags["diverged"], tags["diverged_at_step"]) == ("FINISHED", "true", "0")
    assert metrics["diverged_fraction"] == 1
    check_metrics(tmp_path)
    last = pd.read_parquet(artifact(tmp_path, of, "last_steps.parquet"))
    assert last.loc[last["probe"] == "z_mean_square", "value"].tolist() == ([] if probes == "none" else [math.inf])
    assert "gradient_norm/layer_01" not in metrics
    assert metrics.get("log10_gradient_norm/layer_01") == (None if probes == "none" else pytest.approx(303))
