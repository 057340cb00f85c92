"""Measuring: at the scheduled steps, changing nothing, alike in a stack and alone, at a known price."""

from __future__ import annotations

import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import config, records, table, thorough
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tracking import quiet, runs, store, uri

from engine import probes
from engine.arrays import Array
from engine.exponents import ZERO
from engine.notes import NotedRows, NotedSums, Notes
from engine.optimizers import Proposal
from engine.probes import Moment, Observed, Probe, Reading, VitalProbe
from engine.sums import NOTHING, Of, Wanted
from engine.vitals import Vitals
from pipeline import measuring
from pipeline.divergence import Divergence
from pipeline.measuring import KEPT_BYTES, OF_LARGE, OF_SMALL, Ledger
from pipeline.records import Record, tidy
from pipeline.schedules import Agenda, At, Clock, EachEpoch, Every, FirstAndLast, Logarithmic, Schedule
from pipeline.single import single
from pipeline.stopwatch import Stopwatch
from pipeline.tracking import download
from pipeline.training import Run, State, Trainer, build_network, ready, run, train

FULL = ("data=iris", "activation=tanh", "architecture.hidden=[5,4]", "epochs=5", "probes=full")
SCHEDULES: list[Schedule] = [Every(3), Logarithmic(3), EachEpoch(), FirstAndLast(), At((0, 4, 7, 1000))]
RARE = ("schedule=first_and_last", "schedule@evaluation.schedule=first_and_last")
DEAD = ("activation=relu", "init.biases.value=-100")
OF_LAYERS = ("mean", "max", "min", "condition", "spectrum")


def probe_of(name: str, probes: list[str]) -> str:
    """The probe whose record this is: its own name, or that and one of its parts."""
    whole, _, part = name.rpartition("_")
    return name if name in probes else whole if whole in probes and part in OF_LAYERS else ""


# When


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_every_probe_is_recorded_at_its_own_steps(schedule: Schedule) -> None:
    own: dict[str, Schedule] = {"sharpness": At((2, 5)), "layer_jacobian": Every(4), "gradient_cosine": Every(2)}
    own |= {"delta_rms": EachEpoch(), "weight_exponents": FirstAndLast(), "dead_units": Logarithmic(2)}
    base = config(*FULL)
    made = ready(replace(base, schedule=schedule, probe_schedules=own))
    found = list(train(made))
    names = list(base.probes)
    assert len(names) >= 33
    assert {probe_of(r.probe, names) for r in found if "/" not in r.probe} == set(names), "each, and nothing else"
    for name in names:
        steps = sorted({r.step for r in found if probe_of(r.probe, names) == name})
        due = [t for t in range(made.clock.last_step + 1) if own.get(name, schedule).due(t, made.clock)]
        assert steps == [t for t in due if t > 0 or name != "gradient_cosine"], name
    for step in {r.step for r in found}:
        order = [probe_of(r.probe, names) for r in found if r.step == step and "/" not in r.probe]
        assert order == sorted(order, key=names.index), "in the order of the config"


@st.composite
def agendas(draw: st.DrawFn) -> tuple[dict[str, Schedule], Clock]:
    per_epoch = draw(st.integers(1, 15))
    schedule = st.one_of(
        st.builds(Every, st.integers(1, 30)),
        st.builds(Logarithmic, st.integers(1, 9)),
        st.sampled_from([EachEpoch(), FirstAndLast()]),
        st.builds(At, st.lists(st.integers(0, 150), min_size=1, max_size=4).map(tuple)),
    )
    named = draw(st.dictionaries(st.sampled_from("hgfedcba"), schedule, max_size=8))
    return named, Clock(per_epoch * draw(st.integers(0, 8)), per_epoch)


@given(agendas())
def test_an_agenda_against_asking_everyone_at_every_step(drawn: tuple[dict[str, Schedule], Clock]) -> None:
    schedules, clock = drawn
    agenda, end = Agenda(schedules, clock), clock.last_step + 1
    expected = [[name for name, s in schedules.items() if s.due(t, clock)] for t in range(end)]
    for t in range(end):
        assert agenda.upcoming == next((later for later in range(t, end) if expected[later]), end)
        assert agenda.due(t) == expected[t]


def test_a_run_without_end_starts_at_once() -> None:
    base = config(*FULL, "evaluation.train_examples=10")
    own: dict[str, Schedule] = {"sharpness": At((10**11,)), "layer_jacobian": Logarithmic(8)}
    for schedule in SCHEDULES:
        evaluation = replace(base.evaluation, schedule=schedule)
        made = ready(replace(base, schedule=schedule, probe_schedules=own, evaluation=evaluation, epochs=10**12))
        assert made.clock.last_step == 3 * 10**12
        begin = time.perf_counter()
        first = next(train(made))
        assert time.perf_counter() - begin < 1
        assert first.step == 0


# Many steps at once


def events(made: Run, prompt: bool) -> list[tuple[Any, ...]]:
    """All that training tells, in order."""
    told: list[tuple[Any, ...]] = []

    def diverged(divergence: Divergence) -> None:
        told.append(("diverged", divergence.finding, [r.values.tobytes() for r in divergence.last_steps]))

    for record in train(made, on_divergence=diverged, prompt=prompt):
        values = record.values
        rest = record.geometric, record.bins, record.sparse
        told.append((record.step, record.probe, record.layers, values.shape, values.dtype.char, values.tobytes(), rest))
    return told


@pytest.mark.parametrize(
    ("sigma", "dtype"),
    [
        *(("tanh", "float64"), ("relu", "float32"), ("gelu", "float64")),
        *thorough(("tanh", "float32"), ("relu", "float64"), ("gelu", "float32")),
    ],
)
@pytest.mark.parametrize(
    ("noted", "overrides"),
    [
        (True, ()),
        (
            True,
            (
                "learning_rate_schedule@optimizer.learning_rate_schedule=cosine",
                "batching.last=keep",
                "batching.size=50",
            ),
        ),
        (True, ("optimizer=momentum", "~probes.update_to_weight", "schedule@evaluation.schedule=first_and_last")),
        (False, ("optimizer=momentum",)),  # the update's size is not known before it is made
        (True, ("+schedule@probe_schedules.delta_rms=each_epoch", "+schedule@probe_schedules.coherence=sparse")),
        (True, ("activation@output=identity", "cost=half_squared_error", "optimizer.learning_rate=1e3")),
        (None, ("init.biases.value=-5",)),  # dead units, sums of squares that are 0: noted or not
    ],
)
def test_steps_noted_and_worked_out_together_are_those_measured_one_by_one(
    noted: bool | None, overrides: tuple[str, ...], sigma: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = ("schedule=every", f"activation={sigma}", f"dtype={dtype}", "replicates=2", "epochs=30")
    made = ready(config("data=iris", "architecture.hidden=[5,4]", *often, *overrides))
    expected = events(made, prompt=True)
    ways: list[tuple[type[Notes], int, dict[str, int]]] = [
        (NotedRows, KEPT_BYTES, {}),
        (NotedRows, 200_000, {}),
        (NotedRows, KEPT_BYTES, {"MANY": 1}),  # all sums are taken at once
        (NotedSums, 0, {}),
        (NotedSums, 0, {"FEW_OUTPUTS": 0}),
    ]
    for kind, room, limits in ways:
        count = [0]

        def counted(self: Notes, moment: Moment, step: int, count: list[int] = count, note: Any = kind.note) -> bool:
            done = bool(note(self, moment, step))
            count[0] += done
            return done

        with monkeypatch.context() as patch:
            patch.setattr(kind, "note", counted)
            patch.setattr("pipeline.measuring.KEPT_BYTES", room)
            for name, value in limits.items():
                patch.setattr(f"engine.notes.{name}", value)
            found = events(made, prompt=False)
        assert [e[:2] for e in found] == [e[:2] for e in expected]
        same = found == expected  # too many to be shown
        assert same
        assert noted is None or (count[0] > 0) == noted, kind


QUIET = "schedule@evaluation.schedule=first_and_last"  # an evaluation wants the records of all steps before it


@pytest.mark.parametrize(("kind", "room"), [(NotedRows, KEPT_BYTES), (NotedSums, 0)])
@pytest.mark.parametrize("rare", [(), ("+schedule@probe_schedules.coherence=sparse",)])
def test_every_step_of_a_quiet_run_is_noted(
    kind: type[Notes], room: int, rare: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a set of probes that is rarely due wants the very sums that another wants."""
    made = ready(config("data=iris", "architecture.hidden=[5,4]", "schedule=every", "epochs=30", QUIET, *rare))
    noted: list[bool] = []
    plain = kind.note

    def note(self: Notes, moment: Moment, step: int) -> bool:
        noted.append(plain(self, moment, step))
        return noted[-1]

    monkeypatch.setattr(kind, "note", note)
    monkeypatch.setattr("pipeline.measuring.KEPT_BYTES", room)
    assert events(made, prompt=False)
    assert len(noted) == made.clock.last_step + 1
    assert all(noted)


WILD = ("activation@output=identity", "cost=half_squared_error")


@st.composite
def any_run(draw: st.DrawFn) -> Run:
    """Of any probes at any steps, some of which diverge."""
    options = {
        "architecture.hidden": ["[5,4]", "[3]", "[6,6]"],
        "replicates": ["1", "3"],
        "epochs": ["4", "30"],
        "activation": ["tanh", "relu", "gelu", "identity"],
        "dtype": ["float32", "float64"],
        "optimizer": ["sgd", "momentum"],
        "batching.last": ["keep", "drop"],
        "batching.size": ["32", "50"],
        "divergence.stop": ["true", "false"],
        "divergence.keep_steps": ["1", "20"],
    }
    chosen = [f"{key}={draw(st.sampled_from(values))}" for key, values in options.items()]
    rate = draw(st.sampled_from([(), (*WILD, "optimizer.learning_rate=1e3"), (*WILD, "optimizer.learning_rate=3")]))
    weights = draw(
        st.sampled_from([(), *(("init=constant", f"init.weights.value={v}") for v in ("0", "1e-25", "2e38"))])
    )
    c = config("data=iris", "probes=full", *chosen, *rate, *weights)
    vital = [name for name, probe in c.probes.items() if isinstance(probe, VitalProbe)]
    names = draw(
        st.sampled_from([vital, ["delta_ratio"], ["z_mean_square"]]) | st.sets(st.sampled_from(vital), min_size=1)
    )
    c = replace(c, probes={name: c.probes[name] for name in names}, probe_schedules={})
    schedule = st.sampled_from(
        [Every(1), Every(7), Every(100), Logarithmic(5), EachEpoch(), FirstAndLast(), At((3, 50))]
    )
    own = draw(st.dictionaries(st.sampled_from([*c.probes]), schedule, max_size=2))
    evaluation = replace(c.evaluation, schedule=draw(schedule))
    return ready(replace(c, schedule=draw(schedule), probe_schedules=own, evaluation=evaluation))


@settings(max_examples=15, deadline=None)
@given(any_run(), st.sampled_from([1, 10**9]))
def test_any_run_tells_the_same_whether_steps_are_noted_or_not(made: Run, many: int) -> None:
    """Whether sums are taken at every step or of many steps at once, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.notes.MANY", many)
        same = events(made, prompt=False) == events(made, prompt=True)
    assert same


def test_a_value_that_is_not_finite_though_every_sum_is_is_told_at_once() -> None:
    """0/0 of δ below a saturated σ: only that tells of the z that was not finite."""
    wild = ("init=constant", "init.weights.value=2e38", "dtype=float32", "data.standardise=false", "epochs=3")
    saturated = ("activation=sigmoid", "activation@output=sigmoid", "cost=half_squared_error")
    base = config("data=iris", "architecture.hidden=[5,5]", "probes=full", "schedule=every", *RARE, *wild, *saturated)
    only = {"delta_ratio": base.probes["delta_ratio"]}
    made = ready(replace(base, probes=only, probe_schedules={}))
    found = events(made, prompt=False)
    assert any(event[0] == "diverged" for event in found)
    same = found == events(made, prompt=True)
    assert same


@pytest.mark.parametrize("rate", [1e-38, 1e-30, 1e30])
def test_updates_too_small_or_too_large_to_be_squared_have_their_size(rate: float) -> None:
    """Whether a step is noted depends on the size of its update, too."""
    overrides = ("dtype=float32", f"optimizer.learning_rate={rate}", "schedule=every", "epochs=1")
    base = config("data=iris", "architecture.hidden=[5,4]", *overrides)
    made = ready(replace(base, probes={"update_norm": probes.UpdateNorm()}))
    trainer = Trainer(made)
    proposal = trainer.compute(None).proposed
    assert isinstance(proposal, Proposal)
    with np.errstate(all="ignore"):
        update = proposal.apart().astype(np.float64)
    expected = [np.linalg.norm(w[0]) for w in trainer.network.parameters.weights(update)]
    for prompt in (True, False):
        found = next(r for r in train(made, prompt=prompt) if r.probe == "update_norm")
        assert found.values[:, 0] == pytest.approx(expected, rel=1e-6, abs=0)


def test_what_was_tried_with_one_size_of_batches_holds_for_others() -> None:
    """Of the small last batches the rows are kept, of the others the sums alone."""
    base = config("data=iris", "architecture.hidden=[40,40,40]", "batching.size=100", "batching.last=keep", "epochs=30")
    more = {"saturated_fraction": base.probes["saturated_fraction"], "own": OWN["below"]}
    made = ready(replace(base, probes=more, schedule=At(tuple(range(1, 60)))))
    same = events(made, prompt=False) == events(made, prompt=True)
    assert same


def test_many_sets_of_probes_that_are_seldom_due_take_little_memory() -> None:
    base, peaks = config("data=iris", "architecture.hidden=[30,30]", "epochs=60"), []
    primes = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29)
    made = ready(replace(base, probe_schedules={n: Every(p) for n, p in zip(base.probes, primes, strict=True)}))
    for prompt in (True, True, False):
        tracemalloc.start()
        for _ in train(made, prompt=prompt):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 8 * 2**20


@pytest.mark.parametrize("between", ["settle", "another probe", "another pass"])
def test_whatever_comes_between_a_pass_and_its_measurement_a_step_has_its_own_values(between: str) -> None:
    base = config("data=iris", "architecture.hidden=[5,4]")
    few = {name: base.probes[name] for name in ("delta_rms", "z_mean_square", "saturated_fraction", "gradient_norm")}
    every = {**few, "own": Probe.of_function(lambda layer: layer.dW_update.sum(axis=(-2, -1)))}

    def told(prompt: bool) -> list[tuple[int, str, bytes]]:
        trainer = Trainer(ready(replace(base, probes=every, probe_schedules={})))
        ledger = Ledger(every, prompt, Stopwatch(None))
        for step in range(9):
            moment = trainer.compute(None, ledger.onlooker([*few]))
            if step == 5 and between == "settle":
                ledger.settle()
            if step == 5 and between == "another probe":
                ledger.take(moment, ["own"], step)
            if step == 5 and between == "another pass":
                trainer.network.backward_from(np.ones_like(trainer.network.layers[-1].delta))
            ledger.take(moment, [*few], step)
            trainer.apply()
        ledger.settle()
        return [(r.step, r.probe, r.values.tobytes()) for r in ledger.tell()]

    same = told(prompt=False) == told(prompt=True)
    assert same


Seen = list[tuple[int, str, bytes]]


def seen_until(training: Iterator[Record], failure: type[BaseException]) -> Seen:
    """What training tells before it fails."""
    found: Seen = []
    with pytest.raises(failure):
        found.extend((r.step, r.probe, r.values.tobytes()) for r in training)
    return found


@pytest.mark.parametrize("where", ["step", "probe", "vital", "evaluation"])
def test_what_was_measured_before_training_failed_is_not_lost(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, read = config("data=iris", "schedule=every", "schedule@evaluation.schedule=first_and_last", "epochs=5"), [0]

    class Failing(probes.DeltaRms):
        def read(self, layers: Vitals) -> Array:
            read.append(layers.delta_rms.ndim)
            if read.count(3) > 2:  # first it is tried, then the first step is told with its scores
                raise KeyboardInterrupt
            return layers.delta_rms

    def own(layer: Observed) -> Array | None:
        raise KeyboardInterrupt

    def on_step(step: int) -> None:
        if step == 7 and where == "step":
            raise KeyboardInterrupt

    whole = [(r.step, r.probe, r.values.tobytes()) for r in train(ready(base))]
    if where == "probe":
        more: dict[str, Probe] = {**base.probes, "own": Probe.of_function(own)}
        base = replace(base, probes=more, probe_schedules={"own": At((7,))})
    if where == "vital":
        base = replace(base, probes={**base.probes, "own": Failing()})
    if where == "evaluation":
        base = replace(base, evaluation=replace(base.evaluation, schedule=At((7,))))
        monkeypatch.setattr("pipeline.training.evaluate", lambda *_: own(None))  # type: ignore[arg-type]
    found = [seen for seen in seen_until(train(ready(base), on_step), KeyboardInterrupt) if seen[1] != "own"]
    told = {step for step, *_ in found}
    unscored = {"evaluation": range(99), "vital": [max(told)]}.get(where, [])
    same = found == [s for s in whole if s[0] in told and not (s[0] in unscored and s[1].startswith(("cost", "acc")))]
    assert same
    assert told >= set(range(7))


def test_records_are_not_kept_back_when_nothing_more_is_measured() -> None:
    begun: list[int] = []
    base = config("data=iris", "epochs=300", "schedule@evaluation.schedule=first_and_last")
    for record in train(ready(replace(base, schedule=At((3, 9, 900)))), on_step=begun.append):
        if record.step == 9:
            assert begun[-1] == 3 + OF_SMALL.span
            return


def test_at_a_checkpoint_all_records_of_earlier_steps_are_out() -> None:
    made, steps = ready(config("data=iris", "schedule=every", "epochs=9")), list[int]()
    kept: list[tuple[State, int]] = []

    class Keep:
        def due(self, step: int) -> bool:
            return step in (1, 11, 20)

        def keep(self, state: State) -> None:
            assert set(steps) == set(range(state.now.step))
            kept.append((state, len(steps)))

    whole = []
    for record in train(made, keeper=Keep()):
        steps.append(record.step)
        whole.append((record.step, record.probe, record.values.tobytes()))
    assert len(kept) == 3
    for state, told in kept:
        rest = [(r.step, r.probe, r.values.tobytes()) for r in train(made, start=state)]
        assert rest == whole[told:]


class Own(VitalProbe):
    """Reads something; says nothing or too little of it."""

    def __init__(self, read: Callable[[Vitals], list[Reading]], wanted: Wanted = NOTHING, update: bool = False) -> None:
        self._read, self._wanted = read, wanted
        self.of_update = update  # type: ignore[misc]

    @property
    def wanted(self) -> Wanted:
        return self._wanted

    def found(self, vitals: Vitals) -> list[Reading]:
        return self._read(vitals)


class Twice(probes.DeltaRms):
    """Of its own in another way."""

    def readings(self, moment: Moment) -> list[Reading]:
        return [Reading(layers, 2 * values) for layers, values, *_ in super().readings(moment)]


OWN: dict[str, Probe] = {
    "unsaid": Own(lambda v: [Reading(v.numbers, v.gradient_norm)]),
    "update": Own(lambda v: [Reading(v.numbers, v.update_norm)], Wanted(frozenset({Of.GRADIENT}))),
    "variance": Own(lambda v: [Reading(v.numbers, v.activation_variance)], Wanted(frozenset({Of.A}))),
    "dead": Own(lambda v: [Reading(v.numbers, v.dead_fraction)]),
    "below": Own(lambda v: [Reading(v.numbers, v.share_below(0.5))]),
    "numbers": Own(lambda v: [Reading(v.numbers, np.abs(v.weight_norm))], Wanted(frozenset({Of.WEIGHTS}))),
    "parts": Own(lambda v: [Reading(v.numbers, v.delta_rms * k, part=str(k)) for k in (1, 2)]),
    "bins": Own(
        lambda v: [Reading(v.numbers, np.stack([v.weight_norm, v.weight_norm + 1], -1), bins=(3, 4))],
        Wanted(frozenset({Of.WEIGHTS})),
    ),
    "whole": Own(lambda v: [Reading((), v.weight_norm.sum(axis=0, keepdims=True))], Wanted(frozenset({Of.WEIGHTS}))),
    "single": Own(lambda v: [Reading(v.numbers, v.weight_norm.astype("f4"))], Wanted(frozenset({Of.WEIGHTS}))),
    "view": Own(lambda v: [Reading(v.numbers, v.activation_variance)], Wanted(frozenset({Of.A, Of.AA}))),
    "layers": Own(lambda v: [Reading((1,), v.layers[0].W[None, :, 0, 0])]),  # type: ignore[attr-defined]
    "twice": Twice(),
}


@pytest.mark.parametrize("hidden", ["[5,4]", "[]"])
@pytest.mark.parametrize("which", [*OWN, ""])
def test_probes_of_ones_own_are_measured_right_whatever_they_say(which: str, hidden: str) -> None:
    """In a net without an element-wise layer, too."""
    base = config("data=iris", f"architecture.hidden={hidden}", "activation=relu", "schedule=every", "replicates=2")
    if which:
        base = replace(base, probes={**base.probes, which: OWN[which]} if which == "parts" else {which: OWN[which]})
    same = events(ready(base), prompt=False) == events(ready(base), prompt=True)
    assert same


@pytest.mark.parametrize("more", [(), ("weight_norm",)])
def test_means_that_are_not_finite_are_seen_at_once(more: tuple[str, ...]) -> None:
    wild = ("activation=identity", "activation@output=identity", "cost=half_squared_error", "dtype=float32")
    base = config("data=iris", "probes=full", *wild, "optimizer.learning_rate=1e3", "schedule=every")
    only = {name: base.probes[name] for name in ("activation_mean", *more)}
    made = ready(replace(base, probes=only, probe_schedules={}))
    same = events(made, prompt=False) == events(made, prompt=True)
    assert same


@pytest.mark.parametrize("huge", [False, True])
def test_records_of_large_networks_come_soon_and_of_huge_ones_at_once(
    huge: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the numbers, more than the calls, are what takes time."""
    if huge:
        monkeypatch.setattr(measuring, "HUGE", measuring.SMALL)
    rarely = ("schedule@evaluation.schedule=first_and_last", "epochs=90", "dtype=float32")
    base = config("schedule=every", "architecture.hidden=[1500,300]", "batching.size=10", *rarely)
    for every, most in ((1, OF_LARGE.capacity - 1), (15, OF_LARGE.span)):
        seen, late = list[int](), set[int]()
        for record in train(ready(replace(base, schedule=Every(every))), on_step=seen.append):
            late.add(seen[-1] - record.step)
            if record.step >= 3 * OF_LARGE.span // (4 if every == 1 else 1):
                break
        assert max(late) == (0 if huge else most)


# It changes nothing


@pytest.mark.parametrize(
    ("optimizer", "dtype"),
    [("sgd", "float64"), ("momentum", "float32"), *thorough(("sgd", "float32"), ("momentum", "float64"))],
)
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
            found = records(*base, *schedule, f"probes={fewer}")
            assert (15, "cost/test") in found
            assert (15, "accuracy/train") in found
            assert ((15, "delta_rms") in found) == (fewer == "essential")
            for key, (layers, values) in found.items():
                assert whole[key][0] == layers
                assert whole[key][1].tobytes() == values.tobytes(), key


@pytest.mark.parametrize(
    ("sigma", "dtype"),
    [("tanh", "float64"), ("relu", "float32"), *thorough(("tanh", "float32"), ("relu", "float64"))],
)
def test_replicate_k_has_the_records_of_the_run_alone(dtype: str, sigma: str) -> None:
    base = (*FULL, "epochs=2", f"activation={sigma}", f"dtype={dtype}", "schedule=every", "schedule.n=2")
    stack = tidy(run(config(*base, "seed=5", "replicates=3")))
    assert stack["bin"].notna().any()
    for k in range(3):
        alone = tidy(run(config(*base, f"seed={5 + k}")))
        own = stack[stack["replicate"] == k].assign(replicate=0).reset_index(drop=True)
        pd.testing.assert_frame_equal(own, alone, check_exact=True)
        assert len(set(alone["probe"])) >= 33 + 4 + 2 * 4


# What it costs


class FakeClock:
    """Goes on only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float) -> Callable[[object], None]:
        """A function that takes so long, whatever it is given."""

        def spend(_: object) -> None:
            self.now += seconds

        return spend


def test_a_stopwatch_accounts_for_all_time() -> None:
    """Each kind of work takes its own time, so the sums tell how often it was charged to whom."""
    explosion = ("activation=identity", "activation@output=identity", "cost=half_squared_error", "schedule=every")
    base = config(*FULL, *explosion, "probes=essential", "optimizer.learning_rate=1e200")
    clock, begun, found = FakeClock(), list[int](), 0
    stopwatch, slow, told = Stopwatch(clock), clock.taking(1000), clock.taking(10**6)

    def probe(layer: Observed) -> Array | None:
        return slow(layer)  # no reading

    def on_step(step: int) -> None:
        begun.append(step)
        clock.now += 1

    c = replace(base, probes={**base.probes, "own": Probe.of_function(probe)})
    clock.now += 0.5  # before the first step
    for _ in train(ready(c), on_step, told, stopwatch):
        clock.now += 0.25
        stopwatch.lap("tracking")
        found += 1
    assert clock.now > 10**6, "it was built to explode"
    seconds = stopwatch.seconds
    assert sum(seconds.values()) == clock.now
    assert seconds == {
        "step": 0.5 + len(begun),
        "own": 3000 * len(begun),
        "watch": 10**6 + 3000 * len(begun),  # the last steps, here all, are measured again
        "tracking": 0.25 * found,
        "evaluation": 0,
        "sums": 0,
        **dict.fromkeys(base.probes, 0),
    }


def test_a_logged_run_says_what_measuring_cost(tmp_path: Path) -> None:
    assert single([*FULL, *RARE, "epochs=1", f"tracking.uri={uri(tmp_path)}"], None, True, quiet()) == 0
    (of,) = runs(tmp_path)
    overhead = {k.partition("/")[2]: v for k, v in of.data.metrics.items() if k.startswith("overhead/")}
    probes = set(config(*FULL).probes)
    other = {"evaluation", "watch", "tracking", "files", "chain"}
    assert set(overhead) == probes | other | {"all_probes", "sums"}
    assert all(share > 0 for share in overhead.values())
    assert overhead["all_probes"] == pytest.approx(sum(overhead[name] for name in probes | {"sums"}))
    text = download(store(tmp_path), of.info.run_id, "run.log", tmp_path).read_text()
    assert f"on top of that, in % of it: probes {100 * overhead['all_probes']:.1f}" in text
    for name in probes | other | {"sums"}:
        assert f"{name:<32} {100 * overhead[name]:6.2f} %" in text


def test_records_hold_what_was_recorded_and_little_more() -> None:
    """At most twice the values (a view may hold its sister), and a fixed price a record."""
    made = ready(config(*FULL, "schedule=every", "replicates=60"))
    list(train(made))  # makes what is made once
    tracemalloc.start()
    kept = list(train(made))
    retained = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    values = sum(r.values.nbytes for r in kept)
    assert values > 3 * 600 * len(kept)
    assert values < retained < 2 * values + 600 * len(kept)


def test_steps_that_are_not_measured_take_no_memory() -> None:
    peaks = []
    for epochs in (10, 10, 100):
        made = ready(config(*FULL, *RARE, "replicates=2", "probes=standard", f"epochs={epochs}"))
        tracemalloc.start()
        kept = list(train(made))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert {r.step for r in kept} == {0, 3 * epochs}
    assert peaks[2] < peaks[1] + 2**14


# As a table


def test_histograms_as_a_table_count_every_number() -> None:
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
    network = build_network(ready(c))
    for layer in network.layers:
        for k in range(2):
            numbers = layer.W[k].ravel()
            expected = Counter((np.frexp(numbers)[1] - 1).tolist())  # m · 2^e with 1/2 <= m < 1
            own = counts.query(
                "probe == 'weight_exponents' and step == 0 and layer == @layer.number and replicate == @k"
            )
            assert dict(zip(own["bin"], own["value"], strict=True)) == expected
    assert (counts.query("probe == 'activation_exponents'")["bin"] == ZERO).any(), "rectifiers are off"


def test_other_values_as_a_table_are_all_there() -> None:
    found = [r for r in run(config(*FULL, "replicates=2", "epochs=1", "schedule=every")) if "_exp" not in r.probe]
    frame = tidy(found)
    assert frame["value"].tolist() == np.concatenate([r.values.ravel() for r in found]).tolist()
    ranks = frame[frame["probe"] == "layer_jacobian_spectrum"]
    assert ranks.groupby(["step", "layer", "replicate"])["bin"].apply(list).tolist()[0] == list(range(4 * 4))
    assert frame.loc[~frame["probe"].str.endswith("_spectrum"), "bin"].isna().all()
    of_network = frame["probe"].str.startswith(("input_output", "sharpness", "cost/", "accuracy/"))
    assert frame.loc[of_network, "layer"].isna().all()
    assert frame.loc[~of_network, "layer"].isin([1, 2, 3]).all()


def test_singular_values_that_are_zero_are_values() -> None:
    found = [r for r in run(config(*FULL, *DEAD, "epochs=0")) if r.probe == "layer_jacobian_spectrum"]
    assert any((r.values == 0).any() for r in found)
    assert len(tidy(found)) == sum(r.values.size for r in found)
