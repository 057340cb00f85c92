"""A cache for functions whose arguments may be parts of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

T = TypeVar("T")


def cached(maxsize: int) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Return a decorator that caches the last results of a pure function, except for arguments without a hash.

    Args:
        maxsize: Number of results.
    """

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        remembered = lru_cache(maxsize)(function)

        @wraps(function)
        def call(*arguments: Any) -> T:
            try:
                hash(arguments)
            except TypeError:  # a class of the user's own may not be hashable
                return function(*arguments)
            return remembered(*arguments)

        return call

    return decorate
