"""The cache: equal arguments are computed once, and arguments without a hash every time."""

from __future__ import annotations

import pytest

from pipeline.caching import cached


def test_hashable_arguments_are_computed_once_and_others_each_time() -> None:
    calls: list[object] = []

    @cached(maxsize=4)
    def length(value: object) -> int:
        calls.append(value)
        return len(str(value))

    assert [length((1, 2)), length((1, 2)), length([1]), length([1])] == [6, 6, 3, 3]
    assert calls == [(1, 2), [1], [1]]


def test_type_error_of_the_function_is_raised_once() -> None:
    calls = []

    @cached(maxsize=4)
    def fails(value: int) -> None:
        calls.append(value)
        raise TypeError("its own")

    with pytest.raises(TypeError, match="its own"):
        fails(1)
    assert calls == [1]
