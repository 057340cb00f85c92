"""Schedules against independent computations of their steps."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, getcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.schedules import At, EachEpoch, Every, FirstAndLast, Logarithmic, Schedule, TrainingLength

clocks = st.builds(TrainingLength, st.integers(0, 480), st.integers(1, 40))
schedules = st.one_of(
    st.builds(Every, st.integers(1, 50)),
    st.builds(Logarithmic, st.integers(1, 12)),
    st.just(EachEpoch()),
    st.just(FirstAndLast()),
    st.builds(At, st.lists(st.integers(0, 600), min_size=1, max_size=5)),
)


@given(schedules, clocks)
def test_steps_are_due_ascending_and_within_the_run(schedule: Schedule, length: TrainingLength) -> None:
    steps = schedule.steps(length)
    assert steps == sorted(set(steps))
    assert set(steps) <= set(range(length.last_step + 1))
    assert [t for t in range(length.last_step + 1) if schedule.due(t, length)] == steps
    if not isinstance(schedule, At):
        assert steps[0] == 0
        assert steps[-1] == length.last_step


@given(st.integers(1, 50), clocks)
def test_every_covers_multiples_and_the_last_step(n: int, length: TrainingLength) -> None:
    assert set(Every(n).steps(length)) == set(range(0, length.last_step, n)) | {0, length.last_step}


@given(st.integers(0, 12), st.integers(1, 40))
def test_each_epoch_has_one_measurement_more_than_epochs(epochs: int, per_epoch: int) -> None:
    steps = EachEpoch().steps(TrainingLength(epochs * per_epoch, per_epoch))
    assert steps == [epoch * per_epoch for epoch in range(epochs + 1)]


@given(clocks)
def test_each_epoch_measures_the_first_step_of_each_epoch_and_the_last_step(length: TrainingLength) -> None:
    expected = {t for t in range(length.last_step) if t % length.steps_per_epoch == 0} | {length.last_step}
    assert set(EachEpoch().steps(length)) == expected


@given(clocks)
def test_first_and_last_covers_both_ends(length: TrainingLength) -> None:
    assert set(FirstAndLast().steps(length)) == {0, length.last_step}


@given(st.lists(st.integers(0, 600), min_size=1), clocks)
def test_at_covers_the_listed_steps_within_the_run(listed: list[int], length: TrainingLength) -> None:
    assert At(listed).steps(length) == sorted({t for t in listed if t <= length.last_step})


@pytest.mark.parametrize("per_decade", [1, 2, 3, 8, 10])
def test_logarithmic_equals_exact_decimal_arithmetic(per_decade: int) -> None:
    getcontext().prec = 50
    root = Decimal(10) ** (Decimal(1) / per_decade)
    # 1e-30: 10^(k/m) is an integer where m divides k, and a rounding error must not lift it to the next
    exact = {int((root**k - Decimal("1e-30")).to_integral_value(ROUND_CEILING)) for k in range(4 * per_decade)}
    steps = Logarithmic(per_decade).steps(TrainingLength(5000, 10))
    assert set(steps) == {0, 5000} | {t for t in exact if t <= 5000}
    assert {1, 10, 100, 1000} <= set(steps)
