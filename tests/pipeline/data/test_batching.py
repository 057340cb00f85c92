"""Batching: the rows of an epoch, and its number of steps."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.batching import Batching, FullBatch, LastBatch, MiniBatch, WithReplacement


@st.composite
def fitting(draw: st.DrawFn) -> tuple[int, int, int]:
    """Draw the number of examples, a batch size that fits, and a seed."""
    n = draw(st.integers(1, 150))
    return n, draw(st.integers(1, n)), draw(st.integers(0, 2**32))


def epochs(batching: Batching, n: int, seed: int, count: int = 2) -> list[list[np.ndarray[Any, Any]]]:
    """Return the batches of the first epochs, each of ``steps_per_epoch`` steps."""
    stream = batching.batches(n, np.random.default_rng(seed))
    return [list(islice(stream, batching.steps_per_epoch(n))) for _ in range(count)]


@given(fitting())
def test_keep_visits_each_row_exactly_once_in_every_epoch(case: tuple[int, int, int]) -> None:
    n, size, seed = case
    for epoch in epochs(MiniBatch(size, "keep"), n, seed):
        assert sorted(np.concatenate(epoch).tolist()) == list(range(n))
        assert [len(b) for b in epoch[:-1]] == [size] * (len(epoch) - 1)
        assert 1 <= len(epoch[-1]) <= size


@given(fitting())
def test_drop_visits_each_row_at_most_once_and_omits_less_than_a_batch(case: tuple[int, int, int]) -> None:
    n, size, seed = case
    for epoch in epochs(MiniBatch(size, "drop"), n, seed):
        rows = np.concatenate(epoch).tolist()
        assert len(set(rows)) == len(rows)
        assert set(rows) <= set(range(n))
        assert n - size < len(rows) <= n
        assert {len(b) for b in epoch} == {size}


def test_drop_omits_different_rows_in_different_epochs() -> None:
    seen = {row for epoch in epochs(MiniBatch(7, "drop"), 20, seed=0, count=50) for batch in epoch for row in batch}
    assert seen == set(range(20))


@given(fitting())
def test_with_replacement_draws_full_batches_of_existing_rows(case: tuple[int, int, int]) -> None:
    n, size, seed = case
    for epoch in epochs(WithReplacement(size), n, seed):
        assert len(epoch) == int(np.ceil(n / size))
        for batch in epoch:
            assert batch.shape == (size,)
            assert batch.min() >= 0
            assert batch.max() < n


def test_with_replacement_repeats_rows_and_is_uniform() -> None:
    drawn = np.concatenate(epochs(WithReplacement(10), 10, seed=1, count=10_000), axis=None)
    counts = np.bincount(drawn, minlength=10)
    assert np.abs(counts - 10_000).max() < 5 * np.sqrt(100_000 * 0.1 * 0.9)
    assert any(len(set(batch.tolist())) < 10 for (batch,) in epochs(WithReplacement(10), 10, seed=1))


@given(st.integers(1, 100), st.integers(0, 2**32))
def test_full_batch_is_one_step_with_every_row(n: int, seed: int) -> None:
    first, second = epochs(FullBatch(), n, seed)
    assert [b.tolist() for b in first] == [b.tolist() for b in second] == [list(range(n))]


@pytest.mark.parametrize("last", ["keep", "drop"])
def test_each_epoch_is_shuffled_and_the_order_follows_from_the_seed(last: LastBatch) -> None:
    a, b = (epochs(MiniBatch(8, last), 64, seed) for seed in (3, 3))
    different = epochs(MiniBatch(8, last), 64, seed=4)
    for first, second in zip(a, b, strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(a[0], a[1])
    assert not np.array_equal(a[0], different[0])


@given(fitting())
def test_largest_equals_the_size_of_the_largest_batch(case: tuple[int, int, int]) -> None:
    n, size, seed = case
    for batching in (MiniBatch(size, "keep"), MiniBatch(size, "drop"), WithReplacement(size), FullBatch()):
        assert max(len(b) for b in epochs(batching, n, seed)[0]) == batching.largest(n)
