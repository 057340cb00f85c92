"""How many examples hypothesis draws."""

from __future__ import annotations

import os

FULL_TIER = ("GRADVITALS_REQUIRE_ALL", "GRADVITALS_SLOW")  # either variable asks for every example


def examples(count: int, few: int | None = None) -> int:
    """Return ``count`` in the full tier; otherwise ``few``, or a third and at least 5: the default tests are quick."""
    if any(os.environ.get(variable) for variable in FULL_TIER):
        return count
    return max(count // 3, 5) if few is None else few
