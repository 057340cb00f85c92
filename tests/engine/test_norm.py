"""engine.arrays.norm against exact rational arithmetic over the whole range of both types."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.examples import examples

from engine.arrays import Array, norm

ANY64 = st.floats(allow_nan=False, allow_infinity=False, width=64)
ANY32 = st.floats(allow_nan=False, allow_infinity=False, width=32)


def exact(values: list[float]) -> float:
    """Return √Σx² by integer arithmetic: the sum is exact, the root has a relative error below 2^−80."""
    square = sum((Fraction(v) ** 2 for v in values), Fraction(0))
    if square == 0:
        return 0.0
    shift = 2400
    root = Fraction(math.isqrt((square.numerator << (2 * shift)) // square.denominator), 1 << shift)
    try:
        return float(root)
    except OverflowError:
        return math.inf


@settings(max_examples=examples(300), deadline=None)
@given(x=hnp.arrays(np.float64, st.integers(1, 9), elements=ANY64))
@example(x=np.array([1e200, 1e200, 1e-200]))
@example(x=np.array([5e-324, 5e-324, 5e-324]))
@example(x=np.array([2e-162, 1e-162]))  # squares are subnormal
@example(x=np.array([1.7e308, 1.7e308]))  # the norm is not representable
@example(x=np.array([1.3e154, 1.3e154]))  # the squares are representable, their sum is not
def test_norm_is_exact_for_any_float64_input(x: Array) -> None:
    expected = exact(x.tolist())
    got = float(norm(x, axes=1))
    if math.isinf(expected):
        assert got == math.inf
    else:
        assert abs(got - expected) <= 4e-16 * (len(x) + 3) * expected + 5e-324
    assert (got == 0) == (not x.any())


@settings(max_examples=examples(300), deadline=None)
@given(x=hnp.arrays(np.float32, st.integers(1, 9), elements=ANY32))
@example(x=np.array([1e-30, 1e-30], np.float32))
@example(x=np.array([1e-45], np.float32))  # the smallest subnormal
@example(x=np.array([3e38, 3e38, 3e38], np.float32))  # the norm exceeds float32 but not the float64 of the result
def test_norm_is_exact_for_any_float32_input(x: Array) -> None:
    result = norm(x, axes=1)
    assert result.dtype == np.float64
    expected = exact([float(v) for v in x])
    assert abs(float(result) - expected) <= 1.2e-7 * (len(x) + 3) * expected
    assert (float(result) == 0) == (not x.any())


@settings(max_examples=examples(60), deadline=None)
@given(
    x=hnp.arrays(
        st.sampled_from([np.float64, np.float32]),
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5)),
        elements=st.sampled_from([0.0, 1.0, -3.0, 1e-30, 1e30, 1e-40, math.inf, -math.inf, math.nan]),
    )
)
def test_norm_of_a_member_equals_its_norm_alone(x: Array) -> None:
    for axes in (1, 2, 3):
        lead = x.shape[: x.ndim - axes]
        result = norm(x, axes)
        assert result.shape == lead
        for index in np.ndindex(lead):
            assert np.array_equal(result[index], norm(x[index], axes), equal_nan=True)


@settings(max_examples=examples(60), deadline=None)
@given(x=hnp.arrays(np.float64, st.integers(1, 6), elements=st.floats(-1e3, 1e3)), power=st.integers(-900, 900))
def test_norm_scales_with_a_power_of_two(x: Array, power: int) -> None:
    """The plain and the scaled computation differ by rounding only."""
    x = x[np.abs(x) > 1e-3]
    if len(x):
        assert float(norm(np.ldexp(x, power), 1)) == pytest.approx(math.ldexp(float(norm(x, 1)), power), rel=1e-15 * 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([math.inf, 0.0], math.inf),
        ([-math.inf, 1.0], math.inf),
        ([math.inf, -math.inf], math.inf),
        ([math.nan, 0.0], math.nan),
        ([math.inf, math.nan], math.nan),
        ([0.0, -0.0], 0.0),
    ],
)
def test_norm_of_infinities_nans_and_zeros(values: list[float], expected: float, dtype: type) -> None:
    assert np.array_equal(norm(np.array(values, dtype), 1), expected, equal_nan=True)


def test_norm_of_strided_arrays() -> None:
    x = np.random.default_rng(0).standard_normal((3, 8, 10)) * 1e-200
    for view in (x[:, ::2, 1::3], x.mT, x[::-1]):
        assert np.array_equal(norm(view), norm(view.copy()))
        assert norm(view)[0] == pytest.approx(exact(view[0].ravel().tolist()), rel=1e-14)


def test_norm_does_not_change_its_argument() -> None:
    x = np.array([[1e200, 1.0], [1e-200, 0.0]])
    before = x.copy()
    norm(x)
    norm(x, axes=1)
    assert np.array_equal(x, before)
