"""Measuring: at the scheduled steps, without side effects, equal in a stack and alone, at a known cost."""

from __future__ import annotations

import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commands import run_command
from support.configs import config, first_step, records, table, thorough
from support.stores import opened, runs, uri

from engine import probes
from engine.arrays import Array
from engine.exponents import ZERO
from engine.probes import Layer, Probe
from pipeline.config.schedules import (
    At,
    EachEpoch,
    Every,
    FirstAndLast,
    Logarithmic,
    ProbeScheduler,
    Schedule,
    TrainingLength,
)
from pipeline.tracking.store import download
from pipeline.training.loop import Callbacks, run, train
from pipeline.training.prepare import build_network, prepare_run
from pipeline.training.records import Record, tidy
from pipeline.training.timing import Timer
from pipeline.training.trainer import TrainingState

FULL = ("data=iris", "activation=tanh", "architecture.hidden=[5,4]", "epochs=5", "probes=full")
SCHEDULES: list[Schedule] = [Every(3), Logarithmic(3), EachEpoch(), FirstAndLast(), At((0, 4, 7, 1000))]
RARE = ("schedule=first_and_last", "schedule@evaluation.schedule=first_and_last")
DEAD = ("activation=relu", "init.biases.value=-100")
OF_LAYERS = ("mean", "max", "min", "condition", "spectrum")


def probe_of(name: str, probes: list[str]) -> str:
    """Return the probe of a record, whose name is the probe's, with or without the name of a part."""
    whole, _, part = name.rpartition("_")
    return name if name in probes else whole if whole in probes and part in OF_LAYERS else ""


# Steps


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_every_probe_is_recorded_at_its_own_steps(schedule: Schedule) -> None:
    own: dict[str, Schedule] = {"sharpness": At((2, 5)), "layer_jacobian": Every(4), "gradient_cosine": Every(2)}
    own |= {"delta_rms": EachEpoch(), "weight_exponents": FirstAndLast(), "dead_units": Logarithmic(2)}
    base = config(*FULL)
    prepared = prepare_run(replace(base, schedule=schedule, probe_schedules=own))
    measured = list(train(prepared))
    names = list(base.probes)
    assert len(names) >= 33
    assert {probe_of(r.probe, names) for r in measured if "/" not in r.probe} == set(names), (
        "each probe, and nothing else"
    )
    for name in names:
        steps = sorted({r.step for r in measured if probe_of(r.probe, names) == name})
        due = [t for t in range(prepared.length.last_step + 1) if own.get(name, schedule).due(t, prepared.length)]
        assert steps == [t for t in due if t > 0 or name != "gradient_cosine"], name
    for step in {r.step for r in measured}:
        order = [probe_of(r.probe, names) for r in measured if r.step == step and "/" not in r.probe]
        assert order == sorted(order, key=names.index), "in the order of the config"


@st.composite
def agendas(draw: st.DrawFn) -> tuple[dict[str, Schedule], TrainingLength]:
    per_epoch = draw(st.integers(1, 15))
    schedule = st.one_of(
        st.builds(Every, st.integers(1, 30)),
        st.builds(Logarithmic, st.integers(1, 9)),
        st.sampled_from([EachEpoch(), FirstAndLast()]),
        st.builds(At, st.lists(st.integers(0, 150), min_size=1, max_size=4).map(tuple)),
    )
    named = draw(st.dictionaries(st.sampled_from("hgfedcba"), schedule, max_size=8))
    return named, TrainingLength(draw(st.integers(0, 8 * per_epoch)), per_epoch)


@given(agendas())
def test_probe_scheduler_equals_checking_every_schedule_at_every_step(
    drawn: tuple[dict[str, Schedule], TrainingLength],
) -> None:
    schedules, clock = drawn
    agenda, end = ProbeScheduler(schedules, clock), clock.last_step + 1
    expected = [[name for name, s in schedules.items() if s.due(t, clock)] for t in range(end)]
    for t in range(end):
        assert agenda.next_step == next((later for later in range(t, end) if expected[later]), end)
        assert agenda.due(t) == expected[t]


def test_very_long_run_starts_at_once() -> None:
    base = config(*FULL, "evaluation.train_examples=10")
    own: dict[str, Schedule] = {"sharpness": At((10**11,)), "layer_jacobian": Logarithmic(8)}
    for schedule in SCHEDULES:
        evaluation = replace(base.evaluation, schedule=schedule)
        prepared = prepare_run(
            replace(base, schedule=schedule, probe_schedules=own, evaluation=evaluation, epochs=10**12)
        )
        assert prepared.length.last_step == 3 * 10**12
        begin = time.perf_counter()
        first = next(train(prepared))
        assert time.perf_counter() - begin < 1
        assert first.step == 0


# At each step


Seen = list[tuple[int, str, bytes]]


def seen_until(training: Iterator[Record], failure: type[BaseException]) -> Seen:
    """Return what training yields before it fails."""
    measured: Seen = []
    with pytest.raises(failure):
        measured.extend((r.step, r.probe, r.values.tobytes()) for r in training)
    return measured


def test_every_record_is_yielded_at_its_step() -> None:
    steps: list[int] = []
    for record in train(
        prepare_run(config("data=iris", "epochs=3", "schedule=every")), Callbacks(on_step=steps.append)
    ):
        assert record.step == steps[-1]
    assert len(steps) == 10


@pytest.mark.parametrize("where", ["step", "probe", "evaluation"])
def test_records_of_earlier_steps_are_yielded_before_a_failure(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = config("data=iris", "schedule=every", "schedule@evaluation.schedule=first_and_last", "epochs=5")

    def own(layer: Layer) -> Array | None:
        raise KeyboardInterrupt

    def on_step(step: int) -> None:
        if step == 7 and where == "step":
            raise KeyboardInterrupt

    whole = [(r.step, r.probe, r.values.tobytes()) for r in train(prepare_run(base))]
    if where == "probe":
        more: dict[str, Probe] = {**base.probes, "own": own}
        base = replace(base, probes=more, probe_schedules={"own": At((7,))})
    if where == "evaluation":
        base = replace(base, evaluation=replace(base.evaluation, schedule=At((7,))))
        monkeypatch.setattr("pipeline.training.loop.evaluate", lambda *_: own(None))  # type: ignore[arg-type]
    measured = seen_until(train(prepare_run(base), Callbacks(on_step)), KeyboardInterrupt)
    expected = [s for s in whole if s[0] < 7]
    if where == "evaluation":
        expected = [s for s in expected if not s[1].startswith(("cost", "acc"))]
    assert measured == expected


@pytest.mark.parametrize("rate", [1e-38, 1e-30, 1e30])
def test_update_norm_is_exact_where_squares_leave_the_type(rate: float) -> None:
    overrides = ("dtype=float32", f"optimizer.learning_rate={rate}", "schedule=every", "epochs=1")
    base = config("data=iris", "architecture.hidden=[5,4]", *overrides)
    prepared = prepare_run(replace(base, probes={"update_norm": probes.update_norm}))
    network = first_step(prepared).network
    expected = [np.linalg.norm(layer.parameters[0].update[0].astype(np.float64)) for layer in network.layers]
    measured = next(r for r in train(prepared) if r.probe == "update_norm")
    assert measured.values[:, 0] == pytest.approx(expected, rel=1e-6, abs=0)


def test_checkpoint_follows_all_records_of_earlier_steps() -> None:
    prepared, steps = prepare_run(config("data=iris", "schedule=every", "epochs=9")), list[int]()
    kept: list[tuple[TrainingState, int]] = []

    class Keep:
        def due(self, step: int) -> bool:
            return step in (1, 11, 20)

        def save(self, state: TrainingState) -> None:
            assert set(steps) == set(range(state.now.step))
            kept.append((state, len(steps)))

    whole = []
    for record in train(prepared, Callbacks(checkpointer=Keep())):
        steps.append(record.step)
        whole.append((record.step, record.probe, record.values.tobytes()))
    assert len(kept) == 3
    for state, count in kept:
        rest = [(r.step, r.probe, r.values.tobytes()) for r in train(prepared, start=state)]
        assert rest == whole[count:]


# Without side effects


@pytest.mark.parametrize(
    ("optimizer", "dtype"),
    [("sgd", "float64"), ("momentum", "float32"), *thorough(("sgd", "float32"), ("momentum", "float64"))],
)
@pytest.mark.thorough
def test_measuring_everything_changes_nothing(dtype: str, optimizer: str) -> None:
    base = (*FULL, f"dtype={dtype}", f"optimizer={optimizer}", "replicates=2")
    often = ("schedule=every", "schedule@evaluation.schedule=every")
    c = config(*base, *often)
    whole = table(list(run(replace(c, probe_schedules={}))))
    assert {step for step, name in whole if name == "sharpness"} == set(range(16)), "everything, always"
    backwards = table(list(run(replace(c, probe_schedules={}, probes=dict([*c.probes.items()][::-1])))))
    assert list(backwards) != list(whole)
    assert {key: v.tobytes() for key, (_, v) in backwards.items()} == {
        key: v.tobytes() for key, (_, v) in whole.items()
    }
    for fewer in ("none", "essential"):
        for schedule in (often, RARE):
            measured = records(*base, *schedule, f"probes={fewer}")
            assert (15, "cost/test") in measured
            assert (15, "accuracy/train") in measured
            assert ((15, "delta_rms") in measured) == (fewer == "essential")
            for key, (layers, values) in measured.items():
                assert whole[key][0] == layers
                assert whole[key][1].tobytes() == values.tobytes(), key


@pytest.mark.parametrize(
    ("sigma", "dtype"),
    [("tanh", "float64"), ("relu", "float32"), *thorough(("tanh", "float32"), ("relu", "float64"))],
)
@pytest.mark.thorough
def test_replicate_k_has_the_records_of_the_run_alone(dtype: str, sigma: str) -> None:
    base = (*FULL, "epochs=2", f"activation={sigma}", f"dtype={dtype}", "schedule=every", "schedule.n=2")
    stack = tidy(run(config(*base, "seed=5", "replicates=3")))
    assert stack["bin"].notna().any()
    for k in range(3):
        alone = tidy(run(config(*base, f"seed={5 + k}")))
        own = stack[stack["replicate"] == k].assign(replicate=0).reset_index(drop=True)
        pd.testing.assert_frame_equal(own, alone, check_exact=True)
        assert len(set(alone["probe"])) >= 33 + 4 + 2 * 4


# Cost


class FakeClock:
    """A clock that advances only on request."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float) -> Callable[[object], None]:
        """Return a function that advances the clock by so many seconds."""

        def spend(_: object) -> None:
            self.now += seconds

        return spend


def test_timer_accounts_for_all_time() -> None:
    """Each kind of work takes its own time, so the sums show how often each name was charged."""
    explosion = ("activation=identity", "activation@output=identity", "cost=half_squared_error", "schedule=every")
    base = config(*FULL, *explosion, "probes=essential", "optimizer.learning_rate=1e200")
    clock, steps, count = FakeClock(), list[int](), 0
    timer, slow, report = Timer(clock), clock.taking(1000), clock.taking(10**6)

    def probe(layer: Layer) -> Array | None:
        return slow(layer)  # no measurement

    def on_step(step: int) -> None:
        steps.append(step)
        clock.now += 1

    c = replace(base, probes={**base.probes, "own": probe})
    clock.now += 0.5  # before the first step
    for _ in train(prepare_run(c), Callbacks(on_step, report), timer):
        clock.now += 0.25
        timer.mark("tracking")
        count += 1
    assert clock.now > 10**6, "it was built to explode"
    seconds = timer.seconds
    assert sum(seconds.values()) == clock.now
    assert seconds == {
        "initialise": 0.5,
        "step": len(steps),
        "own": 3000 * len(steps),
        "watch": 10**6 + 3000 * len(steps),  # the last steps, here all, are replayed and measured
        "tracking": 0.25 * count,
        "evaluation": 0,
        **dict.fromkeys(base.probes, 0),
    }


def test_logged_run_reports_the_cost_of_measuring(tmp_path: Path) -> None:
    assert run_command(*FULL, *RARE, "epochs=1", "tracking.metrics=all", f"tracking.uri={uri(tmp_path)}").code == 0
    (of,) = runs(tmp_path)
    overhead = {k.partition("/")[2]: v for k, v in of.data.metrics.items() if k.startswith("overhead/")}
    probes = set(config(*FULL).probes)
    other = {"evaluation", "watch", "tracking", "files", "chain"}
    assert set(overhead) == probes | other | {"all_probes"}
    assert all(share > 0 for share in overhead.values())
    assert overhead["all_probes"] == pytest.approx(sum(overhead[name] for name in probes))
    text = download(opened(tmp_path), of.info.run_id, "run.log", tmp_path).read_text()
    assert f"on top of that, in % of it: probes {100 * overhead['all_probes']:.1f}" in text
    for name in probes | other:
        assert f"{name:<32} {100 * overhead[name]:6.2f} %" in text


@pytest.mark.thorough
def test_records_need_little_memory_beyond_their_values() -> None:
    """At most twice the values (a view may hold its base), and a fixed size per record."""
    prepared = prepare_run(config(*FULL, "schedule=every", "replicates=60", "epochs=1"))
    list(train(prepared))  # fills the caches
    tracemalloc.start()
    kept = list(train(prepared))
    retained = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    values = sum(r.values.nbytes for r in kept)
    assert values > 3 * 600 * len(kept)
    assert values < retained < 2 * values + 600 * len(kept)


def test_unmeasured_steps_need_no_memory() -> None:
    peaks = []
    for epochs in (10, 10, 100):
        prepared = prepare_run(config(*FULL, *RARE, "replicates=2", "probes=standard", f"epochs={epochs}"))
        tracemalloc.start()
        kept = list(train(prepared))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert {r.step for r in kept} == {0, 3 * epochs}
    assert peaks[2] < peaks[1] + 2**14


# As a table


def test_tidy_histograms_count_every_number() -> None:
    c = config(*FULL, "replicates=2", "epochs=1", "activation=relu", "schedule=every")
    frame = tidy(run(c))
    counts = frame[frame["probe"].str.endswith("_exponents")]
    weights, units = {1: 4 * 5, 2: 5 * 4, 3: 4 * 3}, {1: 5, 2: 4, 3: 3}
    totals = counts.groupby(["probe", "step", "layer", "replicate"])["value"].sum().reset_index()
    assert len(totals) == 4 * 4 * 3 * 2
    of_weights = totals["probe"].isin(["weight_exponents", "gradient_exponents"])
    whole = totals["layer"].map(weights).where(of_weights, 32 * totals["layer"].map(units))
    assert totals["value"].tolist() == whole.tolist()
    assert (counts["value"] > 0).all(), "no empty bins"
    network = build_network(prepare_run(c))
    for layer in network.layers:
        for k in range(2):
            numbers = layer.W[k].ravel()
            expected = Counter((np.frexp(numbers)[1] - 1).tolist())  # m · 2^e with 1/2 <= m < 1
            own = counts.query(
                "probe == 'weight_exponents' and step == 0 and layer == @layer.number and replicate == @k"
            )
            assert dict(zip(own["bin"], own["value"], strict=True)) == expected
    assert (counts.query("probe == 'activation_exponents'")["bin"] == ZERO).any(), "rectifiers are off"


def test_tidy_table_contains_all_other_values() -> None:
    measured = [r for r in run(config(*FULL, "replicates=2", "epochs=1", "schedule=every")) if "_exp" not in r.probe]
    frame = tidy(measured)
    assert frame["value"].tolist() == np.concatenate([r.values.ravel() for r in measured]).tolist()
    ranks = frame[frame["probe"] == "layer_jacobian_spectrum"]
    assert ranks.groupby(["step", "layer", "replicate"])["bin"].apply(list).tolist()[0] == list(range(4 * 4))
    assert frame.loc[~frame["probe"].str.endswith("_spectrum"), "bin"].isna().all()
    of_network = frame["probe"].str.startswith(("input_output", "sharpness", "cost/", "accuracy/"))
    assert frame.loc[of_network, "layer"].isna().all()
    assert frame.loc[~of_network, "layer"].isin([1, 2, 3]).all()


def test_tidy_table_contains_zero_singular_values() -> None:
    measured = [r for r in run(config(*FULL, *DEAD, "epochs=0")) if r.probe == "layer_jacobian_spectrum"]
    assert any((r.values == 0).any() for r in measured)
    assert len(tidy(measured)) == sum(r.values.size for r in measured)
